"""Other packages' agents, tasks, plug-ins and data sets: the templates, installed as wheels, and mistakes."""

import json
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import torch
from hatchling.builders.wheel import WheelBuilder

from rlsuite import extensions, registry
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError

TEMPLATES = Path(__file__).parents[2] / "examples" / "templates"
KINDS = tuple(extensions.GROUPS)
SHORT = ("--steps", "120", "--warmup-steps", "40", "--batch-size", "16", "--replay-size", "200")
SHORT += ("--eval-every", "120", "--eval-episodes", "1", "--checkpoint-every", "120", "--threads", "1")
QUIET = ("--log-every", "40", "--device", "cpu")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the four templates are installed: built as wheels, unpacked as pip does."""
    folder = tmp_path_factory.mktemp("site")
    for kind in KINDS:
        built = tmp_path_factory.mktemp("wheels")
        (wheel,) = WheelBuilder(str(TEMPLATES / kind)).build(directory=str(built), versions=["standard"])
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


@pytest.fixture
def installed(site, monkeypatch, tmp_path):
    """The templates are installed packages for the duration of a test."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "data"))
    yield site
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_is_a_page(kind):
    (module,) = (TEMPLATES / kind).glob("*.py")
    assert len(module.read_text().splitlines()) <= 130
    project = tomllib.loads((TEMPLATES / kind / "pyproject.toml").read_text())["project"]
    assert list(project["entry-points"]) == [extensions.GROUPS[kind]]


def test_lists_show_what_is_installed(rlsuite, installed):
    for kind, name in (("agents", "my_ddpg"), ("envs", "MySlide"), ("plugins", "my_patience")):
        assert f"{name} " in rlsuite("list", kind).out
    assert "my/swing-v0 " in rlsuite("list", "datasets").out
    assert "narrow networks" in rlsuite("list", "presets").out


def test_the_four_templates_work_together(rlsuite, installed, tmp_path):
    run = tmp_path / "run"
    words = (
        "train",
        "my_ddpg",
        "--env",
        "MySlide",
        "--preset",
        "small",
        "--agent.tau",
        "0.01",
        *SHORT,
        *QUIET,
    )
    answer = rlsuite(*words, "--plugins", "my_patience", "--my-patience.steps", "5", "--out", str(run))
    assert answer.code == 0, answer.err
    assert "hidden = [\n    64,\n    64,\n]" in (run / "config.toml").read_text()
    lines = (run / "metrics.jsonl").read_text()
    assert "my_patience/ended" in lines and "loss/critic" in lines and "eval/return_mean" in lines
    assert rlsuite("resume", str(run), "--steps", "160").code == 0
    assert rlsuite("eval", str(run), "--episodes", "1").code == 0
    offline = (
        "--steps",
        "20",
        "--eval-every",
        "20",
        "--eval-episodes",
        "1",
        "--batch-size",
        "8",
        "--threads",
        "1",
    )
    answer = rlsuite(
        "train", "my_ddpg", "--dataset", "my/swing-v0", *offline, "--out", str(tmp_path / "offline")
    )
    assert answer.code == 0, answer.err
    facts = json.loads(rlsuite("data", "check", "my/swing-v0", "--json").out)
    assert (facts["transitions"], facts["env"]) == (2000, "gym:Pendulum-v1")


@pytest.mark.long
def test_seeds_of_the_agent_are_independent(rlsuite, installed, tmp_path):
    for seeds in ("1", "2"):
        answer = rlsuite(
            *("train", "my_ddpg", "--env", "MySlide", "--preset", "small", *SHORT, *QUIET),
            *("--seeds", seeds, "--plugins", "my_patience", "--out", str(tmp_path / seeds)),
        )
        assert answer.code == 0, answer.err
    from rlsuite import load

    rows = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).numpy()
    single, first, second = (
        load(tmp_path / folder, seed_index=index).act(rows)
        for folder, index in (("1", 0), ("2", 0), ("2", 1))
    )
    assert abs(single - first).max() < 1e-5 < abs(first - second).max()


def test_the_task_keeps_the_contract(installed):
    env = make_env("MySlide-v0", 3, seed=1, options={"start": 0.5})
    carried = env.reset()
    assert carried["observation"][:, 0].abs().max() <= 0.5
    for _ in range(200):
        carried["action"] = torch.ones(3, 1)
        step = env.step(carried)
        carried = env.maybe_reset(env.step_mdp(step))
        if step["next", "done"].any():
            break
    ended = step["next", "terminated"]
    assert ended.any() and step["next", "reward"][ended].eq(0).all()  # pushed off the end, no time limit
    with pytest.raises(ConfigError, match=r'"MySlide-v5" does not exist here. Allowed: "MySlide-v0"'):
        make_env("MySlide-v5")
    with pytest.raises(ConfigError, match="engine"):
        make_env("MySlide", engine="gym")
    with pytest.raises(ConfigError, match="effort"):
        make_env("MySlide", options={"efort": 1.0})


OWN = """
from rlsuite import registry
registry.register_agent("mine", "mine_agent:MyDDPG")
registry.register_plugin("patient", "mine_plugin")
registry.register_task("Slide", "mine_task")
registry.register_dataset("mine/swing", "mine_data:swing")
"""


def test_import_registers_all_four(rlsuite, tmp_path, monkeypatch):
    pairs = {"agent": "my_ddpg", "plugin": "my_patience", "task": "my_slide", "dataset": "my_swing"}
    for kind, module in pairs.items():
        copy = "mine_data" if kind == "dataset" else f"mine_{kind}"
        (tmp_path / f"{copy}.py").write_text((TEMPLATES / kind / f"{module}.py").read_text())
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(extensions, "_registered", {})
    for kind, name in (
        ("agents", "mine"),
        ("plugins", "patient"),
        ("envs", "Slide"),
        ("datasets", "mine/swing"),
    ):
        assert f"{name} " in rlsuite("list", kind, "--import", "mine").out
    assert registry.plugin_class("patient").__name__ == "MyPatience"
    assert make_env("Slide").env_id == "MySlide-v0"
    with pytest.raises(ConfigError, match='a task named "Hopper" exists already'):
        registry.register_task("Hopper", "mine_task")
    with pytest.raises(ConfigError, match='a plugin named "grama" exists already'):
        registry.register_plugin("grama", "mine_plugin")
    with pytest.raises(ConfigError, match='a dataset named "hopper/medium" exists already'):
        registry.register_dataset("hopper/medium", "mine_data:swing")
    for name in list(sys.modules):
        if name.startswith("mine"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [
        ("agent", "two words", "module"),
        ("plugin", "Upper", "module"),
        ("task", "Slide-v0", "module"),
        ("task", "../up", "module"),
        ("dataset", "../../etc/passwd", "module:made"),
        ("dataset", "a/../b", "module:made"),
        ("agent", "fine", "os; import sys"),
        ("agent", "fine", ""),
    ],
)
def test_names_and_targets_that_cannot_be(kind, name, target):
    with pytest.raises(ConfigError):
        extensions.register(kind, name, target)


def broken(tmp_path, monkeypatch, group, line, module=""):
    """Install a package with one entry point and one module."""
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")
    (tmp_path / "broken_module.py").write_text(module)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "broken_module", raising=False)


def test_a_missing_module_is_said(tmp_path, monkeypatch):
    broken(tmp_path, monkeypatch, "rlsuite.agents", "gone = gone_module")
    with pytest.raises(ConfigError, match='there is no module "gone_module"'):
        registry.agent_class("gone")


def test_a_module_that_is_no_task_is_said(tmp_path, monkeypatch):
    broken(tmp_path, monkeypatch, "rlsuite.tasks", "Gone = broken_module", "Options = 1")
    with pytest.raises(ConfigError, match="lacks VERSIONS, build"):
        make_env("Gone")


def test_a_data_set_that_is_nothing_is_said(tmp_path, monkeypatch):
    from rlsuite.offline.locate import locate

    broken(tmp_path, monkeypatch, "rlsuite.datasets", "nothing-v0 = broken_module:made", "made = 3")
    with pytest.raises(ConfigError, match="should be a KnownSet"):
        locate("nothing-v0")


def test_own_names_are_never_shadowed(tmp_path, monkeypatch):
    broken(tmp_path, monkeypatch, "rlsuite.tasks", "Hopper = broken_module", "raise ImportError")
    assert make_env("Hopper").env_id == "Hopper-v5"
