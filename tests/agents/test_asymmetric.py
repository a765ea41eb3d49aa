"""Critics that see more than actors: what each reads, gradients, runs, what is refused."""

import pytest
import torch
import whole_runs as runs

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.replay.batch import Batch
from rlsuite.training.evaluate import evaluate_run
from rlsuite.training.loaded import load

AGENTS = ("sac", "td3", "dsac_t", "stac")
SHOWN, PRIVATE, ACTIONS = 5, 3, 2


def made(name, private=PRIVATE, **fields):
    kind = agent_class(name)
    spaces = Spaces(observation=SHOWN + PRIVATE, action=ACTIONS, half_range=(1.0,) * ACTIONS, private=private)
    return kind(spaces, kind.Config(hidden=(16, 16), **fields), make_generators(3))


def batch(size=32):
    g = torch.Generator().manual_seed(0)
    width = SHOWN + PRIVATE
    observation, following = torch.randn(2, size, width, generator=g)
    action = torch.rand(size, ACTIONS, generator=g) * 2 - 1
    reward = torch.randn(size, generator=g)
    return Batch(observation, action, reward, following, torch.zeros(size), 0.99)


def moved(values, size=PRIVATE):
    changed = values.clone()
    changed[..., -size:] += 1
    return changed


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("name", AGENTS)
def test_actors_do_not_see_what_critics_do(name, normalize):
    agent, rows = made(name, normalize_observations=normalize), batch()
    for _ in range(4):
        agent.update(rows)
    seen, private = rows.observation, moved(rows.observation)
    policy = agent.policy.module
    assert torch.equal(policy(seen), policy(private))
    assert torch.allclose(policy(seen), policy(seen[:, :SHOWN]))
    assert not torch.equal(policy(seen), policy(moved(seen[:, :SHOWN], 1)))
    one, two = (agent.state_value(rows).value for rows in (seen, private))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize("name", AGENTS)
def test_without_private_numbers_nothing_is_different(name):
    """An agent of before and one told that nothing is private are bit-equal after updates."""
    one, two = made(name, private=0), made(name, private=0)
    two.actor.seen = None  # as if it had never been asked
    two.actor.seen = SHOWN + PRIVATE
    for _ in range(3):
        one.update(batch()), two.update(batch())
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(left, right)
    assert one.actor.trunk(batch().observation).shape[-1] in (ACTIONS, 2 * ACTIONS)


def test_a_run_with_a_privileged_critic_is_resumed_evaluated_and_loaded(tmp_path):
    env = {"env": "Hopper", "env_options": {"vary_mass": (0.5, 1.5)}}
    fields = {**env, "steps": 400, "warmup_steps": 100, "eval_every": 200, "checkpoint_every": 200}
    runs.train(tmp_path / "whole", "sac", **fields)
    runs.train(tmp_path / "parts", "sac", **{**fields, "steps": 200})
    runs.train(tmp_path / "parts", "sac", resume=True, **fields)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "parts")
    played = evaluate_run(tmp_path / "whole", episodes=2, seed=0, video=None, which="last")
    assert "value_error" in played
    policy = load(tmp_path / "whole")
    assert policy.observation_size == 11 and policy.action_names == ("thigh_joint", "leg_joint", "foot_joint")
    assert policy.act(torch.zeros(11).numpy()).shape == (3,)


def test_agents_without_critics_of_their_own_are_refused(tmp_path):
    env = {"env": "Hopper", "env_options": {"vary_mass": (0.5, 1.5)}}
    with pytest.raises(ConfigError, match="take sac, td3, dsac_t or stac"):
        runs.train(tmp_path / "run", "iql", **env)
