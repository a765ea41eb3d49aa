"""Agents that learn from pictures: who trains the encoder, seeds, whole runs, what is refused."""

import gymnasium
import numpy as np
import pytest
import torch
import whole_runs as runs
from gymnasium import spaces

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.compiled import obstacle
from rlsuite.errors import ConfigError
from rlsuite.registry import agent_class
from rlsuite.replay.batch import Batch
from rlsuite.training import state

AGENTS = ("sac", "td3", "dsac_t", "stac")
PIXELS = (12, 12, 3, 2)
SIZE = 12 * 12 * 3 * 2
CNN = {"encoder": "cnn", "encoder_channels": (4, 4), "encoder_features": 6, "random_shift": 1}


class Dot(gymnasium.Env):
    """A bright column on black that should be in the middle: it moves by 3 a, reward 1 - |distance| / 5."""

    observation_space = spaces.Box(0, 255, (12, 12, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.uniform(0, 11)
        return self.show(), {}

    def step(self, action):
        self.x = float(np.clip(self.x + 3 * float(action[0]), 0, 11))
        return self.show(), 1 - abs(self.x - 5.5) / 5.5, False, False, {}

    def show(self):
        picture = np.zeros((12, 12, 3), np.uint8)
        picture[:, round(self.x)] = 255
        return picture


class Both(Dot):
    """The picture beside a number."""

    observation_space = spaces.Dict(picture=Dot.observation_space, place=spaces.Box(0, 11, (1,), np.float32))

    def show(self):
        return {"picture": super().show(), "place": np.array([self.x], np.float32)}


for name, cls in (("ToyDot-v0", Dot), ("ToyDotBoth-v0", Both)):
    gymnasium.register(name, cls, max_episode_steps=20)


def made(name, lead=(), seed=3, pixels=PIXELS, **fields):
    kind = agent_class(name)
    shown = Spaces(observation=SIZE, action=2, half_range=(1.0, 1.0), pixels=pixels)
    generators = (
        make_generators(seed)
        if not lead
        else {
            key: tuple(make_generators(seed + index)[key] for index in range(lead[0]))
            for key in ("init", "act", "learn")
        }
    )
    return kind(shown, kind.Config(hidden=(16, 16), **{**CNN, **fields}), generators, lead=lead)


def batch(*lead, size=16):
    g = torch.Generator().manual_seed(0)
    shape = (*lead, size)
    pictures = torch.randint(0, 256, (2, *shape, SIZE), generator=g, dtype=torch.uint8)
    action = torch.rand(*shape, 2, generator=g) * 2 - 1
    return Batch(pictures[0], action, torch.randn(shape, generator=g), pictures[1], torch.zeros(shape), 0.99)


def copies(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def changed(before, module):
    return [not torch.equal(one, two) for one, two in zip(before, module.parameters(), strict=True)]


@pytest.mark.parametrize("name", AGENTS)
def test_the_critics_alone_train_the_encoder(name):
    """With a critic that does not move the actor learns and the encoder stays, to the bit."""
    agent = made(name)
    before = copies(agent.encoder)
    for _ in range(2):
        agent.update(batch())
    assert all(changed(before, agent.encoder))
    agent = made(name)
    for group in agent.critic_optimizer.param_groups:
        group["lr"] = 0.0
    encoder, actor = copies(agent.encoder), copies(agent.actor)
    for _ in range(4):
        agent.update(batch())
    assert not any(changed(encoder, agent.encoder)) and any(changed(actor, agent.actor))


@pytest.mark.parametrize("name", AGENTS)
def test_seeds_do_not_feel_one_another_and_a_restored_agent_goes_on(name):
    both, alone = made(name, (2,)), made(name, seed=4)
    rows = batch(2)
    one = Batch(*(part[1] if isinstance(part, torch.Tensor) else part for part in rows))
    for _ in range(3):
        both.update(rows)
        alone.update(one)
    for mine, theirs in zip(both.encoder.parameters(), alone.encoder.parameters(), strict=True):
        assert torch.allclose(mine[1], theirs, atol=1e-5)
    other = made(name, seed=77)
    state.load_agent_tensors(other, state.agent_tensors(alone))
    state.load_optimizer_tensors(other, state.optimizer_tensors(alone))
    other.update_count = alone.update_count
    for key, generator in alone.generators.items():
        other.generators[key].set_state(generator.get_state())
    for agent in (alone, other):
        agent.update(one)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), other.parameters(), strict=True))
    assert torch.equal(alone.policy.module(one.observation), other.policy.module(one.observation.float()))
    assert alone.state_value(one.observation).value.shape == (16,)


FAST = {"hidden": (32, 32), "lr_actor": 3e-3, "lr_critic": 3e-3, **CNN}


def test_a_resumed_run_equals_the_unbroken_one(tmp_path):
    options = {"env": "pixels:gym:ToyDot-v0", "env_options": {"pixels_size": 16, "pixels_stack": 2}}
    fields = {**options, "steps": 400, "replay_size": 300, "seeds": 2, "batch_size": 8, "eval_every": 200}
    fields["warmup_steps"] = 100
    runs.train(tmp_path / "whole", "sac", FAST, **fields)
    runs.train(tmp_path / "parts", "sac", FAST, **{**fields, "steps": 200})
    runs.train(tmp_path / "parts", "sac", FAST, resume=True, **fields)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_pictures_alone_say_where_the_dot_is(tmp_path):
    """Random actions make about 10 of 20; the middle is reached within two steps."""
    train = {"env": "gym:ToyDot-v0", "steps": 1_600, "updates_per_step": 0.5, "eval_every": 1_600}
    fields = {**FAST, "gamma": 0.8, "alpha_init": 0.1, "tau": 0.05, "random_shift": 0}
    runs.train(
        tmp_path / "run", "sac", fields, **train, replay_size=2_000, eval_episodes=20, checkpoint_every=0
    )
    last = [line for line in runs.lines(tmp_path / "run") if "eval/return_mean" in line][-1]
    assert last["eval/return_mean"] > 15.5


def test_what_does_not_fit_is_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"shows 2 picture.s. of 12 x 12 x 3: .* --agent.encoder cnn"):
        made("sac", encoder="none")
    with pytest.raises(ConfigError, match="shows numbers, not pictures"):
        made("sac", pixels=None)
    with pytest.raises(ConfigError, match="normalize_observations: pictures"):
        made("td3", normalize_observations=True)
    with pytest.raises(ConfigError, match=r"--agent.encoder cnn"):
        runs.train(tmp_path / "tqc", "tqc", env="gym:ToyDot-v0")
    with pytest.raises(ConfigError, match=r"replay her: .* shows pictures"):
        runs.train(tmp_path / "her", "sac", FAST, env="gym:ToyDot-v0", replay="her")
    kind = agent_class("sac")
    assert "convolutions" in obstacle(kind, kind.Config(**CNN))


def test_a_picture_is_chosen_from_a_dictionary_or_stands_among_its_numbers():
    from rlsuite.envs.make import make_env

    chosen = make_env("gym:ToyDotBoth-v0", observation_keys=["picture"])
    assert chosen.facts.pixels == (12, 12, 3, 1) and chosen.facts.observation_size == 432
    every = make_env("gym:ToyDotBoth-v0")
    assert every.facts.pixels is None and every.facts.parts == (("picture", 432), ("place", 1))
    for env in (chosen, every):
        env.close()
