"""Every cell of the notebooks runs, in a process of its own and in small; they hold no output."""

import json
import os
import subprocess
import sys

import pytest
from shown_commands import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
SMALLER = {"STEPS = 10_000": "STEPS = 600", "TASKS, UPDATES = 20, 300": "TASKS, UPDATES = 4, 120"}


def cells(path):
    content = json.loads(path.read_text())
    assert content["nbformat"] == 4
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def test_there_are_two_without_output():
    assert len(NOTEBOOKS) == 2
    for path in NOTEBOOKS:
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(path))
        compile("\n".join("".join(cell["source"]) for cell in cells(path)), path.name, "exec")


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path):
    code = "\n".join("".join(cell["source"]) for cell in cells(path))
    found = [text for text in SMALLER if text in code]
    assert len(found) == 1
    program = tmp_path / "program.py"
    program.write_text(code.replace(found[0], SMALLER[found[0]]))
    variables = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, program.name], cwd=tmp_path, env=variables, check=True, timeout=500)
