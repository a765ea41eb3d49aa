"""Names, presets and flags of every agent; agents of other people's packages."""

import re
import sys

import pytest

from rlsuite import extensions, presets, registry
from rlsuite.cli import data, eval, resume
from rlsuite.cli import main as cli
from rlsuite.command import arguments
from rlsuite.command.train import parse_train
from rlsuite.errors import ConfigError
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import from_mapping

MAX_FLAGS = 92  # per command; --help shows the usual ones
MAX_FLAGS_IN_STAGES = 115  # of an agent that is three learners, one after the other
AGENTS = list(registry.agent_names())
PRESETS = [(agent, preset) for agent in AGENTS for preset in presets.preset_names(agent)]
ENVS_WITH_OVERRIDES = ("", "gym:Hopper-v5", "gym:Pendulum-v1")

OWN_AGENT = '''
"""An agent of the user's own."""
from dataclasses import dataclass
from rlsuite import extensions, registry
from rlsuite.agents.base import Agent

@dataclass(frozen=True, kw_only=True)
class Config:
    """Fields."""
    boldness: float = 0.5
    """How bold."""
    polite: bool = True
    """Whether polite."""

class Own(Agent):
    """An agent."""
    Config = Config

class _Helper(Agent):
    """Not the agent."""

registry.register_agent("own", __name__)
'''


@pytest.fixture
def own_agent(tmp_path, monkeypatch):
    """Offer a module with an agent of its own to `--import`, from the working folder."""
    (tmp_path / "own_agent.py").write_text(OWN_AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extensions, "_registered", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "own_agent"
    sys.modules.pop("own_agent", None)


def test_every_agent_has_a_summary_and_a_default_preset():
    assert {"dsac_t", "sac", "td3"} <= set(AGENTS)
    assert "base" not in AGENTS
    for agent, summary in registry.agent_names().items():
        assert len(summary) > 10, agent
        assert "default" in presets.preset_names(agent)


@pytest.mark.parametrize("agent", AGENTS)
def test_agent_is_the_one_class_of_its_module(agent):
    kind = registry.agent_class(agent)
    assert f"{kind.__module__}.".startswith(f"rlsuite.agents.{agent}.")  # the module, or one of its package
    assert kind.Config()


@pytest.mark.parametrize(("agent", "preset"), PRESETS)
def test_preset_fits_the_dataclasses(agent, preset):
    assert presets.preset_names(agent)[preset], "a preset needs a description"
    for env in ENVS_WITH_OVERRIDES:
        run, own = presets.load_preset(agent, preset, env)
        from_mapping(TrainConfig, run, preset, env=env or "X")
        from_mapping(registry.agent_class(agent).Config, own, preset)


def test_overrides_are_for_known_names_only():
    for agent in AGENTS:
        for preset, table in presets._preset_tables(agent).items():
            for name in table.get("env", {}):
                assert registry.plain_env_name(name) == name, f"{agent} {preset}: matched without version"


def test_unknown_key_in_a_preset_names_the_nearest(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "sac.toml").write_text("[fast]\nstep = 5\n[fast.agent]\ngama = 0.9\n")
    monkeypatch.setattr(presets, "_PACKAGE", tmp_path)
    run, own = presets.load_preset("sac", "fast", "gym:X")
    with pytest.raises(ConfigError, match=r'preset: unknown key "step"\. Did you mean "steps"'):
        from_mapping(TrainConfig, run, "preset", env="gym:X")
    assert own == {"gama": 0.9}
    (tmp_path / "configs" / "sac.toml").write_text("[fast]\nagent = 5\n")
    with pytest.raises(ConfigError, match=re.escape("fast.agent is a value, and should be a table")):
        presets.load_preset("sac", "fast", "gym:X")


@pytest.mark.parametrize("name", ["Hopper", "Hopper-v5", "gym:Hopper-v5", "gym:Hopper"])
def test_plain_env_name(name):
    assert registry.plain_env_name(name) == "Hopper"


def test_agent_of_the_users_own_module(rlsuite, loop, own_agent, tmp_path):
    words = [
        "train",
        "own",
        "--import",
        own_agent,
        "--env",
        "gym:Pendulum-v1",
        "--out",
        str(tmp_path / "run"),
    ]
    answer = rlsuite(*words, "--agent.boldness", "0.9", "--agent.no-polite")
    assert answer.code == 0, answer.err
    assert loop.calls[0]["class"].__name__ == "Own"
    assert loop.calls[0]["agent"].boldness == 0.9
    assert not loop.calls[0]["agent"].polite
    assert rlsuite("resume", str(tmp_path / "run"), "--import", own_agent).code == 0
    assert "own " in rlsuite("list", "agents", "--import", own_agent).out


def test_registered_name_must_be_free(own_agent, monkeypatch):
    monkeypatch.syspath_prepend(".")
    with pytest.raises(ConfigError, match="exists already"):
        registry.register_agent("sac", "own_agent")
    registry.register_agent("mine", "own_agent:Own")
    registry.register_agent("mine", "own_agent:Own")  # a module imported twice is no mistake
    assert registry.agent_class("mine").__name__ == "Own"
    registry.register_agent("wrong", "own_agent:Nobody")
    with pytest.raises(ConfigError, match="exactly one subclass"):
        registry.agent_class("wrong")


def test_entry_points_add_agents_and_shadow_none(monkeypatch, own_agent):
    from importlib.metadata import EntryPoint

    group = extensions.GROUPS["agent"]
    points = [EntryPoint("guest", "own_agent:Own", group), EntryPoint("sac", "own_agent:Own", group)]
    monkeypatch.setattr(extensions.metadata, "entry_points", lambda group: points)
    monkeypatch.syspath_prepend(".")
    assert registry.agent_names()["guest"] == "from own_agent:Own"
    assert registry.agent_class("guest").__name__ == "Own"
    assert registry.agent_class("sac").__module__ == "rlsuite.agents.sac"
    assert presets.load_preset("guest", "default", "gym:X") == ({}, {})


STAGED = [f"train {agent}" for agent in AGENTS if hasattr(registry.agent_class(agent), "stages")]


def lines_of_every_command():
    """Dataclass of every command that takes flags; of `train`, with each agent."""
    yield "resume", resume.ResumeArgs
    yield "eval", eval.EvalArgs
    for action, kind in data.ACTIONS.items():
        yield f"data {action}", kind
    for agent in AGENTS:
        data_of = ["--dataset", "any.hdf5"] if registry.agent_class(agent).needs_data else []
        line, _ = parse_train(agent, ["--env", "gym:X", *data_of])
        yield f"train {agent}", type(line)


@pytest.mark.parametrize(("command", "kind"), list(lines_of_every_command()))
def test_flags_are_few_and_all_in_the_help(command, kind, rlsuite):
    flags = arguments.flags(kind)
    assert 0 < len(flags) <= (MAX_FLAGS_IN_STAGES if command in STAGED else MAX_FLAGS)
    text = rlsuite(*command.split(), "--help-all").out
    meant = {"--help", "--help-all", "--preset", "--dataset"}  # by the text around the flags
    assert set(re.findall(r"(?<![\w`])--[a-z][\w.-]*", text)) - meant <= set(flags)
    assert all(flag in text for flag in flags)


def test_every_file_of_the_folder_is_a_command():
    assert {"train", "resume", "eval", "list", "data"} <= set(cli.commands())
    assert all(cli.commands().values())


@pytest.mark.parametrize("kind", ["agents", "envs", "datasets", "presets"])
def test_list_is_one_line_each_names_first(rlsuite, kind):
    answer = rlsuite("list", kind)
    lines = answer.out.splitlines()
    names = {
        "agents": AGENTS,
        "envs": [name for name, _ in registry.env_names()],
        "datasets": [name for name, _ in registry.dataset_names()],
        "presets": [agent for agent, _ in PRESETS],
    }[kind]
    assert [line.split()[0] for line in lines] == names
    assert all("  " in line for line in lines)
