"""Sphinx settings: Markdown pages by MyST, API by autodoc, furo's theme. Built by `make docs`."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from rlsuite import __version__  # noqa: E402

project = "rlsuite"
author = "the authors of rlsuite"
release = version = __version__

extensions = [
    *("myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"),
    "generated",  # docs/generated.py: flags and fields, from the dataclasses
    "api_pages",  # docs/api_pages.py: a page for each module
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
default_role = "code"  # docstrings name things in single backticks

highlight_language = "text"  # of blocks that name none: equations, what a command prints
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["misc.highlighting_failure"]  # shapes in docstrings are not Python

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"rlsuite {release}"
html_show_copyright = False
html_show_sphinx = False

napoleon_use_ivar = True  # attributes of a NamedTuple are described once


def escape_bars(app, what, name, obj, options, lines) -> None:
    """Keep |x| what docstrings mean by it, and no substitution of reStructuredText."""
    lines[:] = [line.replace("|", "\\|") for line in lines]


def setup(app) -> None:
    """Register what autodoc calls."""
    app.connect("autodoc-process-docstring", escape_bars)
