"""The commands that README and docs show, and the links they hold."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))  # docs/api/ is made by the build
LINKING = (*PAGES, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY", "CHANGELOG")))
COMMAND = re.compile(r"(?: {4})?((?:rlsuite|torchrun|python|make|pip) .*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Shown(NamedTuple):
    """One command of a page."""

    page: str
    number: int
    text: str


def shown_commands() -> list[Shown]:
    """Return every line of a code block that begins with one of `COMMAND`'s words, comments cut off."""
    found = []
    for page in PAGES:
        fenced = False
        for number, line in enumerate(page.read_text().splitlines(), start=1):
            if line.startswith("```"):
                fenced = not fenced
                continue
            match = COMMAND.fullmatch(line)
            if match and (fenced or line.startswith("    ")):
                text = re.split(r"\s#\s|\s>\s", match[1])[0].strip()
                found.append(Shown(page.relative_to(ROOT).as_posix(), number, text))
    return found


def rlsuite_words(text: str) -> list[str] | None:
    """Return the words after `rlsuite` of a command that starts it, by itself or by torchrun; else None."""
    words = shlex.split(text)
    if words[0] == "torchrun":
        at = words.index("-m")
        return words[at + 2 :] if words[at + 1] == "rlsuite" else None
    return words[1:] if words[0] == "rlsuite" else None


def links() -> list[tuple[Path, str]]:
    """Return page and target of every link and picture outside code blocks."""
    found = []
    for page in LINKING:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"`[^`\n]*`", "", text)
        found += [(page, target) for target in LINK.findall(text)]
    return found


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
