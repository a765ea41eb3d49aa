"""Training from Python: the examples of the docs, recorded data, resume, and mistakes in one line."""

import re

import numpy as np
import pytest
import whole_runs as runs
from shown_commands import ROOT

import rlsuite
from rlsuite.errors import ConfigError

SMALL = {"batch_size": 16, "eval_episodes": 1, "threads": 1, "device": "cpu", "loggers": []}
REACH = {**SMALL, "env": "gym:ToyReach-v0", "steps": 200, "warmup_steps": 100, "eval_every": 100}


def blocks(page):
    """The Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


def test_the_first_example_of_the_docs_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = blocks("python.md")[0]
    assert len(code.splitlines()) <= 15 and len([line for line in code.splitlines() if line]) >= 12
    for text, smaller in (("2_000", "300"), ("500", "150"), ("steps=300", "threads=1, steps=300")):
        assert text in code
        code = code.replace(text, smaller, 1 if text != "500" else -1)
    made = {}
    exec(compile(code, "python.md", "exec"), made)
    run = made["run"]
    assert run.result.env_steps == 300 and str(run.folder).startswith("runs/sac-gym-Pendulum-v1-s0-")
    assert capsys.readouterr().out.count("\n") == 2  # what the example prints, and nothing else
    assert run.config["agent"]["hidden"] == [64, 64] and run.config["agent"]["lr_actor"] == 1e-3


def test_the_callback_of_the_docs_stops_as_it_says():
    made = {}
    exec(compile(blocks("callbacks.md")[0], "callbacks.md", "exec"), made)
    steady = made["StopWhenSteady"]()
    for value, stops in ((-100, False), (10, False), (10, False), (10, False), (10, False), (10.1, True)):
        steady.on_evaluation(type("Evaluation", (), {"return_mean": value}))
        assert steady.stop() is stops


class Counts(rlsuite.Callback):
    def __init__(self):
        self.lines = 0

    def on_log(self, line):
        self.lines += 1

    def state_dict(self):
        return {"lines": self.lines}

    def load_state_dict(self, state):
        self.lines = state["lines"]


def test_a_run_has_records_a_table_a_policy_and_goes_on(tmp_path):
    counts = Counts()
    options = {"hidden": [16, 16]}
    run = rlsuite.train("sac", **REACH, out=tmp_path / "run", callbacks=[counts], agent_options=options)
    assert run.folder == tmp_path / "run" and run.result.updates == 100
    assert [record["step"] for record in run.records] == [100, 200] and counts.lines == 2
    assert run.evaluations[-1]["eval/return_mean"] == run.result.final_return
    pandas = pytest.importorskip("pandas")
    table = run.dataframe()
    assert isinstance(table, pandas.DataFrame) and list(table["step"]) == [100, 200]
    assert run.policy("last").act(np.array([0.5])).shape == (1,)
    again = Counts()
    longer = rlsuite.resume(run.folder, steps=300, callbacks=[again])
    assert longer.result.env_steps == 300 and again.lines == 3
    # The command line makes the same run of the same fields.
    words = [word for pair in REACH.items() if pair[0] != "loggers" for word in _flag(*pair)]
    words += ["--import", "toys", "--agent.hidden", "16", "16", "--loggers", "--out", str(tmp_path / "line")]
    from rlsuite.cli import main as cli

    assert cli.run(["train", "sac", *words]) == 0
    assert rlsuite.Run(tmp_path / "line").config == {
        **run.config,
        "train": {**run.config["train"], "steps": 200},
    }
    assert rlsuite.Run(tmp_path / "line").result is None


def _flag(name, value):
    return [f"--{name.replace('_', '-')}", str(value)]


def test_recorded_data_and_plugins(tmp_path, recorded):
    fields = {**SMALL, "env": "gym:ToyReach-v0", "steps": 20, "eval_every": 20, "then_online": 20}
    options = {"hidden": [16, 16]}
    run = rlsuite.train("iql", dataset=recorded, **fields, out=tmp_path / "iql", agent_options=options)
    assert run.result.env_steps == 40
    fields |= {"steps": 0, "warmup_steps": 4}
    run = rlsuite.train("iql", dataset=recorded, **fields, out=tmp_path / "at_once", agent_options=options)
    assert run.result.env_steps == 20
    plugins = {"grama": {"tau": 0.5}}
    run = rlsuite.train("sac", **REACH, plugins=plugins, out=tmp_path / "sac", agent_options=options)
    assert run.config["train"]["plugins"]["grama"]["tau"] == 0.5


@pytest.mark.parametrize(
    ("agent", "fields", "said"),
    [
        ("sacc", {}, 'Did you mean "sac"'),
        ("sac", {"env": None}, "no environment"),
        ("sac", {"num_env": 3}, 'unknown key "num_env". Did you mean "num_envs"'),
        ("sac", {"batch_size": "many"}, "should be of type int"),
        ("sac", {"batch_size": 0}, "batch_size = 0: must be at least 1"),
        ("sac", {"agent_options": {"gama": 1}}, 'agent_options: unknown key "gama". Did you mean "gamma"'),
        ("sac", {"agent_options": {"gamma": 2.0}}, "gamma"),
        ("sac", {"callbacks": [5]}, "5 is no callback"),
        ("sac", {"callbacks": ["nothing"]}, "MODULE:CLASS"),
        ("sac", {"plugins": {"grama": {"tauu": 1}}}, 'plugins: grama: unknown key "tauu"'),
        ("sac", {"steps": 50}, "nothing would be learnt"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(tmp_path, agent, fields, said):
    with pytest.raises(ConfigError) as caught:
        rlsuite.train(agent, **{**REACH, "out": tmp_path / "run", **fields})
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run(tmp_path):
    for call in (rlsuite.Run, rlsuite.resume):
        with pytest.raises(ConfigError, match="not a run folder"):
            call(tmp_path)


def test_names_of_the_package_are_imported_when_asked_for():
    assert set(rlsuite.__all__) <= {*rlsuite._LIVE_IN, "__version__"}
    for name in rlsuite.__all__:
        assert getattr(rlsuite, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = rlsuite.trian
    assert runs.QUICK  # the toys are registered
