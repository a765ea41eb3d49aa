"""Print constraints for one end of the bounds in pyproject.toml: `bounds.py lowest|newest EXTRA,EXTRA`.

The lowest end pins every direct dependency to its lower bound; what those need is the resolver's choice.
The newest end only excludes what a bound excludes, and so prints nothing but the bounds. Extras are left out:
a constraint may have none.
"""

import re
import sys
import tomllib
from pathlib import Path

REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?\s*(?P<bounds>.*)")


def requirements(extras: list[str]) -> list[str]:
    """Return the direct dependencies of the project and of some of its extras."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    unknown = [extra for extra in extras if extra not in optional]
    if unknown:
        raise SystemExit(f"no extra {', '.join(unknown)}; there are {', '.join(optional)}")
    return [*project["dependencies"], *(word for extra in extras for word in optional[extra])]


def constraint(requirement: str, which: str) -> str:
    """Return `name==lower bound`, or the name with its bounds.

    Raises:
        SystemExit: the dependency has no lower bound; every one must.
    """
    match = REQUIREMENT.fullmatch(requirement)
    assert match is not None, requirement
    bound = re.search(r">=\s*([^,\s]+)", match["bounds"])
    if bound is None:
        raise SystemExit(f"{requirement} has no lower bound")
    return f"{match['name']}=={bound[1]}" if which == "lowest" else f"{match['name']}{match['bounds']}"


def main() -> None:
    """Print the constraints that the command line asks for."""
    which, extras = sys.argv[1], sys.argv[2].split(",")
    lines = [constraint(one, which) for one in requirements(extras)]
    sys.stdout.write("\n".join(sorted(set(lines))) + "\n")


if __name__ == "__main__":
    main()
