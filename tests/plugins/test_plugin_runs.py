"""Plug-ins in our own runs: every agent, several seeds, checkpoints, the command line."""

import subprocess
import sys

import pytest
import torch
import whole_runs as runs
from agents.helpers import NAMES, random_batch
from safetensors.torch import load_file
from training.test_offline_training import learn

from rlsuite import registry
from rlsuite.agents.base import Spaces, StagedAgent, make_generators
from rlsuite.command import train as command
from rlsuite.errors import ConfigError
from rlsuite.plugins.grama import GraMaConfig, GraMaPlugin
from rlsuite.plugins.least import LEASTConfig, LEASTPlugin
from rlsuite.registry import agent_class, plugin_class, plugin_names
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import RunConfig, config_from_dict, config_to_dict
from rlsuite.strict import to_mapping
from rlsuite.training.assembly import build, new_plugin
from rlsuite.training.online import train_steps
from rlsuite.training.savedrun import load_run

ONLINE = ("sac", "td3", *(pytest.param(name, marks=pytest.mark.long) for name in ("dsac_t", "stac")))
ALL = {
    "grama": {"period": 7, "tau": 0.4},
    "redo": {"period": 11, "tau": 0.4, "parts": ["critic"]},
    "least": {
        "start": 0.0,
        "min_index": 2,
        "min_values": 2,
        "episodes": 9,
        "min_episodes": 3,
        "max_episodes": 20,
        "resize": 2,
        "resize_every": 50,
        "noise_episodes": 4,
    },
}


def plugin_tensors(path):
    return load_file(runs.newest(path) / "plugins.safetensors")


@pytest.mark.parametrize("agent", ONLINE)
def test_a_resumed_run_is_the_unbroken_one(agent, tmp_path):
    fields = {
        "plugins": ALL,
        "seeds": 2,
        "updates_per_step": 0.5,
        "num_envs": 2,
        "steps": 400,
        "eval_every": 200,
    }
    runs.train(tmp_path / "whole", agent, **fields)
    runs.train(tmp_path / "parts", agent, **{**fields, "steps": 302})
    runs.train(tmp_path / "parts", agent, resume=True, **fields)
    whole, parts = runs.weights(tmp_path / "whole"), runs.weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    whole, parts = plugin_tensors(tmp_path / "whole"), plugin_tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for key in whole:
        torch.testing.assert_close(whole[key], parts[key], rtol=0, atol=0, equal_nan=True)
    for name in ("grama/actor/resets/trunk.0", "redo/critic/resets/trunk.0", "least/stops"):
        assert (whole[name].sum(-1) > 0).all(), name
    logged = {key for line in runs.lines(tmp_path / "whole") for key in line}
    assert logged >= {"grama/inactive_actor", "redo/inactive_critic", "least/stop_rate", "least/noise"}
    assert load_run(tmp_path / "whole", "last").loaded.step == 400


def trained(agent, roots):
    chosen = agent_class(agent)
    config = TrainConfig(
        **{**runs.QUICK, "updates_per_step": 1.0, "seeds": len(roots), "plugins": ALL, "warmup_steps": 100}
    )
    torch.set_num_threads(1)
    run = build(chosen, chosen.Config(**runs.TINY), config, roots)
    train_steps(run, 160)
    run.env.close()
    run.eval_env.close()
    return run


@pytest.mark.parametrize("agent", ["sac", pytest.param("td3", marks=pytest.mark.long)])
def test_changing_one_seed_leaves_the_others_bit_equal(agent):
    ours, theirs = trained(agent, (3, 4, 5)), trained(agent, (3, 40, 5))
    for (name, a), b in zip(ours.agent.named_parameters(), theirs.agent.parameters(), strict=True):
        assert torch.equal(a[0], b[0]), name
        assert torch.equal(a[2], b[2]), name
    weight = "actor.trunk.0.weight"
    assert not torch.equal(ours.agent.get_parameter(weight)[1], theirs.agent.get_parameter(weight)[1])
    ours_least, theirs_least = ours.plugins["least"].least, theirs.plugins["least"].least
    assert torch.equal(ours_least.stops[[0, 2]], theirs_least.stops[[0, 2]])
    assert (ours.plugins["grama"].resets["critic"].resets["trunk.0"].sum(-1) > 0).all()


STAGED = [name for name in registry.agent_names() if issubclass(agent_class(name), StagedAgent)]


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plugin", ["grama", "redo"])
def test_neuron_resets_know_every_agent(plugin, name, lead):
    chosen = agent_class(name)
    spaces = Spaces(observation=4, action=2, half_range=(1.0, 1.0))
    seed = (0, 1) if lead else 0
    agent = chosen(spaces, chosen.Config(hidden=(16, 16)), make_generators(seed), lead=lead)
    plugin_kind = plugin_class(plugin)
    plugin_made = plugin_kind(plugin_kind.Config(period=2, tau=0.5), agent, make_generators(seed)["learn"])
    trained_parts = {p.name for p in agent.parts() if p.optimizer is not None and p.name != "alpha"}
    assert set(plugin_made.resets) == trained_parts
    logged = set()
    for update in range(4):
        agent.update(random_batch(rows=16, lead=lead, seed=update))
        logged |= set(plugin_made.after_update(agent))
    assert logged == {f"{plugin}/inactive_{part}" for part in trained_parts}
    assert all(reset.count == 4 for reset in plugin_made.resets.values())


@pytest.mark.parametrize("name", STAGED)
@pytest.mark.parametrize("plugin", ["grama", "redo", "least"])
def test_agents_that_learn_in_stages_take_no_plugins(plugin, name):
    with pytest.raises(ConfigError, match="learns in stages"):
        new_plugin(plugin, {}, object.__new__(agent_class(name)), None)


def test_offline_and_then_online(tmp_path, recorded):
    fields = {"plugins": ALL, "agent": "iql", "steps": 40, "updates_per_step": 0.5}
    learn(tmp_path / "whole", recorded, then_online=60, **fields)
    learn(tmp_path / "parts", recorded, then_online=50, **fields)
    learn(tmp_path / "parts", recorded, then_online=60, resume=True, **fields)
    whole, parts = runs.weights(tmp_path / "whole"), runs.weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    state = plugin_tensors(tmp_path / "whole")
    assert state["least/steps"] == 60
    assert state["grama/actor/count"] == state["grama/critic/count"] == 40 + 30


def test_measuring_alone_changes_nothing(tmp_path):
    runs.train(tmp_path / "plain", "sac")
    runs.train(tmp_path / "measured", "sac", plugins={"grama": {"period": 5, "measure_only": True}})
    a, b = runs.weights(tmp_path / "plain"), runs.weights(tmp_path / "measured")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any("grama/inactive_critic" in line for line in runs.lines(tmp_path / "measured"))
    assert (runs.newest(tmp_path / "measured") / "plugins.safetensors").exists()
    assert not (runs.newest(tmp_path / "plain") / "plugins.safetensors").exists()


def test_flags_of_plug_ins_and_their_way_to_the_file():
    words = ["--env", "HalfCheetah", "--plugins", "grama,least", "--grama.tau", "0.02", "--least.no-clip"]
    line, _ = command.parse_train("sac", words)
    assert set(line.train.plugins) == {"grama", "least"}
    assert line.train.plugins["grama"]["tau"] == 0.02
    assert line.train.plugins["least"]["clip"] is False
    config = RunConfig(agent_name="sac", preset="default", train=line.train, agent=line.agent)
    assert config_from_dict(config_to_dict(config), lambda name: agent_class(name).Config) == config


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plugins", "gramma"], 'Did you mean "grama"'),
        (["--plugins", "grama", "--grama.tua", "1"], 'Did you mean "--grama.tau"'),
        (["--grama.tau", "1"], "is not an option"),
        (["--plugins", "grama", "--grama.period", "0"], "period = 0"),
    ],
)
def test_mistakes_on_the_command_line(words, said):
    with pytest.raises(ConfigError, match=said):
        command.parse_train("sac", ["--env", "HalfCheetah", *words])


def test_what_a_run_cannot_do():
    chosen = agent_class("sac")
    spaces = Spaces(observation=4, action=2, half_range=(1.0, 1.0))
    agent = chosen(spaces, chosen.Config(hidden=(16, 16)), make_generators(0))
    source = make_generators(0)["act"]
    with pytest.raises(ConfigError, match="no trained network"):
        GraMaPlugin(GraMaConfig(parts=("critics",)), agent, source)
    with pytest.raises(ConfigError, match="time limit"):
        LEASTPlugin(LEASTConfig(), agent, source).begin(1, None, 100)
    chosen = agent_class("bc")
    cloned = LEASTPlugin(
        LEASTConfig(), chosen(spaces, chosen.Config(hidden=(16,)), make_generators(0)), source
    )
    cloned.begin(4, 10, 100)
    with pytest.raises(ConfigError, match="critics"):
        cloned.stop_mask(random_batch(rows=4))


def test_early_stopping_draws_nothing_from_the_agents_streams():
    chosen = agent_class("sac")
    spaces = Spaces(observation=4, action=2, half_range=(1.0, 1.0))
    agent = chosen(spaces, chosen.Config(hidden=(16, 16)), make_generators(0))
    plugin = LEASTPlugin(LEASTConfig(start=0.0, min_values=1, min_index=0), agent, torch.Generator())
    plugin.begin(8, 10, 100)
    before = [g.get_state() for g in agent.generators.values()]
    state = plugin.source.get_state()
    mask = plugin.stop_mask(random_batch(rows=8))
    assert mask.shape == (8,)
    assert all(torch.equal(g.get_state(), b) for g, b in zip(agent.generators.values(), before, strict=True))
    assert not torch.equal(plugin.source.get_state(), state)


def test_every_plug_in_is_documented_and_serialisable():
    assert set(plugin_names()) == {"grama", "least", "redo"}
    for name, summary in plugin_names().items():
        assert len(summary) > 20
        assert to_mapping(plugin_class(name).Config())


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torchrl", "tensordict", "gymnasium", "mujoco", "tyro", "rich"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.least import LEAST
from rlsuite.plugins.redo import ReDo
net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
GraMa(period=1).attach(net)
assert not {m for m in sys.modules if m.startswith(("rlsuite.agents", "rlsuite.training"))}
"""


def test_they_need_torch_alone():
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=runs.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
