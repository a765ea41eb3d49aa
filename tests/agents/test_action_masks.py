"""Masks of discrete actions: where they come from, that no other action is ever taken, what losses see."""

import gymnasium
import numpy as np
import pytest
import torch
import whole_runs as runs
from gymnasium import spaces
from torchrl.envs.utils import ExplorationType, check_env_specs, set_exploration_type

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.d_eta_n.stock import Stocked, sample_target
from rlsuite.agents.ppo.model import entropy, log_prob
from rlsuite.blocks.masks import allowed
from rlsuite.blocks.normalizer import RunningNorm
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.replay.batch import Batch

ACTIONS = 5


class Rooms(gymnasium.Env):
    """Five rooms with a reward of their number; each lets one stay or go to a neighbour. Others raise."""

    observation_space = spaces.Box(0, ACTIONS, (1,), np.float32)
    action_space = spaces.Discrete(ACTIONS)

    def __init__(self, strict: bool = True) -> None:
        self.strict = strict

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.room = int(self.np_random.integers(2))
        return self.told()

    def step(self, action):
        if self.strict and not self.mask()[action]:
            raise AssertionError(f"room {action} is no neighbour of {self.room}")
        self.room = int(action)
        observation, info = self.told()
        return observation, float(self.room), False, False, info

    def mask(self):
        return (np.abs(np.arange(ACTIONS) - self.room) <= 1).astype(np.int8)

    def told(self):
        return np.array([self.room], np.float32), {"action_mask": self.mask()}


class RoomsInADict(Rooms):
    """The same, with the mask among the observations, before them in the alphabet."""

    observation_space = spaces.Dict(
        action_mask=spaces.MultiBinary(ACTIONS), room=spaces.Box(0, ACTIONS, (1,), np.float32)
    )

    def told(self):
        return {"action_mask": self.mask(), "room": np.array([self.room], np.float32)}, {}


for name, cls in (("ToyRooms-v0", Rooms), ("ToyRoomsDict-v0", RoomsInADict)):
    gymnasium.register(name, cls, max_episode_steps=8)

ENVS = ("discrete:gym:ToyRooms-v0", "discrete:gym:ToyRoomsDict-v0")


@pytest.mark.parametrize("env_id", ENVS)
def test_the_mask_stands_last_and_under_torchrls_key(env_id):
    env = make_env(env_id, 3, options={"strict": False})  # the check draws any actions
    assert env.facts.masked and env.facts.observation_size == 1 + ACTIONS
    td = env.reset()
    assert torch.equal(td["action_mask"], td["observation"][:, 1:] > 0.5)
    rooms = td["observation"][:, :1]
    assert torch.equal(td["action_mask"], (torch.arange(ACTIONS) - rooms).abs() <= 1)
    check_env_specs(env)
    env.close()


RUNS = {
    "ppo": {
        "fields": {},
        "train": {"steps": 512, "epochs": 2, "replay_size": 128, "warmup_steps": 0, "batch_size": 64},
    },
    "d_eta_n": {"fields": {"quantiles": 8, "epsilon_share": 1.0}, "train": {"steps": 512}},
}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("env_id", ENVS)
@pytest.mark.parametrize("name", RUNS)
def test_no_masked_action_is_ever_taken(tmp_path, name, env_id, normalize):
    """The environment raises at one: in warm-up, behaviour, evaluation, before and after updates."""
    fields = {**RUNS[name]["fields"], "normalize_observations": normalize}
    train = {"num_envs": 4, "eval_every": 256, "seeds": 2, **RUNS[name]["train"]}
    runs.train(tmp_path / "run", name, fields, env=env_id, **train)
    assert runs.lines(tmp_path / "run")[-1]["updates"] > 8


def test_without_the_mask_the_rooms_raise():
    """The environment of the test above does notice."""
    env = make_env(ENVS[0], 1)
    env.reset_arrays()
    with pytest.raises(Exception, match="is no neighbour"):
        env.step_arrays(np.eye(ACTIONS)[[4]])
    env.close()


def made(name, **fields):
    kind = agent_class(name)
    shown = Spaces(
        observation=3 + ACTIONS, action=ACTIONS, half_range=(1.0,) * ACTIONS, discrete=True, masked=True
    )
    return kind(shown, kind.Config(hidden=(16, 16), **fields), make_generators(0))


def observations(rows=64):
    g = torch.Generator().manual_seed(1)
    mask = (torch.rand(rows, ACTIONS, generator=g) < 0.4).float()
    mask[0] = 0  # allows nothing: not heeded
    return torch.cat((torch.randn(rows, 3, generator=g), mask), -1)


@pytest.mark.parametrize("name", RUNS)
def test_policies_choose_what_is_allowed(name):
    agent, seen = made(name, **RUNS[name]["fields"]), observations(2000)
    permitted = allowed(seen, ACTIONS)
    assert permitted[0].all() and torch.equal(
        permitted[seen[:, 3:].any(-1)], (seen[:, 3:] > 0)[seen[:, 3:].any(-1)]
    )
    for kind in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
        with set_exploration_type(kind):
            chosen = agent.policy.module(seen).argmax(-1, keepdim=True)
        assert permitted.gather(-1, chosen).all()


def test_ppos_law_is_that_of_the_allowed_actions_alone():
    """Densities and entropy against torch's distribution over the allowed ones; gradients of others are 0."""
    agent, seen = made("ppo"), observations()
    logits = agent.actor(seen)
    logits.retain_grad()
    plain = agent.actor.trunk(seen)
    mask = allowed(seen, ACTIONS)
    for row in range(len(seen)):
        places = mask[row].nonzero().squeeze(-1)
        law = torch.distributions.Categorical(logits=plain[row][places])
        chosen = torch.nn.functional.one_hot(places, ACTIONS).float()
        ours = log_prob(logits[row].expand(len(places), -1), chosen)
        assert torch.allclose(ours, law.logits, atol=1e-5)
        assert torch.allclose(entropy(logits[row]), law.entropy(), atol=1e-5)
    action = torch.nn.functional.one_hot(mask.float().argmax(-1), ACTIONS).float()
    (log_prob(logits, action).sum() + entropy(logits).sum()).backward()
    assert logits.grad.isfinite().all() and (logits.grad[~mask] == 0).all()


def test_targets_of_d_eta_n_are_of_actions_that_are_allowed_next():
    agent, seen = made("d_eta_n", quantiles=8), observations()
    zeros = torch.zeros(len(seen))
    rows = Batch(seen, torch.eye(ACTIONS)[torch.zeros(len(seen), dtype=torch.long)], zeros, seen, zeros, 1.0)
    batch = Stocked(rows, zeros[:, None], zeros[:, None], zeros[:, None])
    config = agent.config
    target = sample_target(agent.target_critic, batch, agent.utility, config, mask=True)
    theta = agent.target_critic(seen, zeros[:, None])  # [N, A, K, 1]
    worth = theta.mean((-2, -1)).masked_fill(~allowed(seen, ACTIONS), -1e3)
    assert torch.allclose(target, theta[torch.arange(len(seen)), worth.argmax(-1)])
    other = sample_target(agent.target_critic, batch, agent.utility, config)
    assert not torch.allclose(target, other)


def test_statistics_leave_the_mask_alone():
    norm = RunningNorm(3 + ACTIONS, raw=ACTIONS)
    norm.observe(observations(500))
    seen = observations()
    assert torch.equal(norm(seen)[:, 3:], seen[:, 3:]) and not torch.allclose(norm(seen)[:, :3], seen[:, :3])


def test_a_mask_beside_a_stock_is_refused():
    with pytest.raises(ConfigError, match="shows a mask of actions or pictures, and cannot have a stock"):
        make_env(f"stock:{ENVS[0]}")
