"""What the README shows works; its commands are parsed in test_shown.py."""

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_loop_runs_and_updates():
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(program, "README.md", "exec"), names)
    assert len(names["metrics"]) > 0
    assert len(names["replay"]) == 400
