"""Tables to read and to copy: cells for the page, and the same as CSV, Markdown and LaTeX."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NONE = "\u2013"  # where a table has no value
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    NONE: "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        text: as it is read.
        number: whether it stands to the right.
        best: whether it is the best of its column, on its environment.
    """

    text: str
    number: bool = False
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Rows with heads for people, and the same data unrounded as CSV.

    Attributes:
        name: of its files.
        heads: one a column.
        rows: cells, as many as heads.
        raw: the CSV.
    """

    name: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    raw: str

    def markdown(self) -> str:
        """Return a table of GitHub's Markdown; the best in bold."""
        ends = [
            "---:" if all(row[at].number for row in self.rows) else "---" for at in range(len(self.heads))
        ]
        lines = [self.heads, ends]
        lines += [[_bold(cell, "**", "**", _markdown(cell.text)) for cell in row] for row in self.rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        r"""Return a `tabular` of booktabs (`\usepackage{booktabs}`); the best in bold."""
        sides = "".join(
            "r" if all(row[at].number for row in self.rows) else "l" for at in range(len(self.heads))
        )
        body = [[_bold(cell, r"\textbf{", "}", latex_text(cell.text)) for cell in row] for row in self.rows]
        return "\n".join(
            [
                rf"\begin{{tabular}}{{{sides}}}",
                r"\toprule",
                " & ".join(map(latex_text, self.heads)) + r" \\",
                r"\midrule",
                *(" & ".join(row) + r" \\" for row in body),
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )


def latex_text(text: str) -> str:
    r"""Return text as LaTeX prints it; a bracket at a row's beginning is no argument of `\\`."""
    shown = "".join(_LATEX.get(sign, sign) for sign in text)
    return f"{{{shown}}}" if shown.startswith(("[", "*")) else shown


def csv_text(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as CSV, numbers rounded as in the files."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}
        )
    return file.getvalue()


def shown(value: float) -> str:
    """Return a number to read: thousands whole, others of three digits; a dash for none."""
    if not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:,.3g}"


def _bold(cell: Cell, before: str, after: str, text: str) -> str:
    return f"{before}{text}{after}" if cell.best and text else text


def _markdown(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
