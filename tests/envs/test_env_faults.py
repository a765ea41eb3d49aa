"""Worlds that diverge, libraries that fail."""

import gymnasium
import numpy as np
import pytest
import torch
from env_helpers import play, random_actions

from rlsuite.errors import EnvironmentFailure

NATIVE = ("HalfCheetah", "Hopper", "Walker2d", "Swimmer", "InvertedPendulum", "InvertedDoublePendulum")
POISONED = 2
HUGE = 1e11  # beyond MuJoCo's own bound of 1e10, but finite


@pytest.fixture(autouse=True)
def scratch_folder(tmp_path, monkeypatch):
    """MuJoCo writes its warnings to a file in the working directory."""
    monkeypatch.chdir(tmp_path)


def poison(env, value):
    """Put `value` into the first velocity of one world."""
    fields = env.engine.read()
    qpos, qvel = fields["qpos"].clone(), fields["qvel"].clone()
    qvel[POISONED, 0] = value
    mask = torch.arange(env.num_envs) == POISONED
    env.engine.set_state(mask, qpos, qvel)


@pytest.mark.parametrize("value", [np.nan, np.inf, HUGE])
@pytest.mark.parametrize("env_id", (*NATIVE, "dmc:walker-walk", "dmc:acrobot-swingup"))
def test_a_diverged_world_is_cut_off_and_the_others_do_not_notice(make, env_id, value):
    healthy, sick = make(env_id, 4, seed=1), make(env_id, 4, seed=1)
    actions = random_actions(healthy, 3)
    expected, _ = play(healthy, healthy.reset(), actions)
    td = sick.reset()
    poison(sick, value)
    td["action"] = actions[0]
    td = sick.step(td)
    after = td["next"]
    others = [world for world in range(4) if world != POISONED]
    assert after["valid"].flatten().tolist() == [True, True, False, True]
    assert after["truncated"][POISONED].item() is True
    assert after["terminated"][POISONED].item() is False
    assert after["done"][POISONED].item() is True
    assert sick.nan_resets == 1
    for key in ("observation", "reward"):
        assert (after[key][POISONED] == 0).all()
        assert torch.equal(after[key][others], expected[0]["next", key][others])
    fresh = sick.maybe_reset(sick.step_mdp(td))
    assert fresh["valid"].all()
    assert fresh["observation"].isfinite().all()
    rows, _ = play(sick, fresh, actions[1:])
    assert all(row["next", "valid"].all() for row in rows)
    assert torch.equal(rows[0]["next", "observation"][others], expected[1]["next", "observation"][others])
    assert sick.nan_resets == 1


def test_the_count_of_diverged_worlds_is_saved(make):
    env, other = make("HalfCheetah", 3), make("HalfCheetah", 3)
    td = env.reset()
    poison(env, np.nan)
    td["action"] = random_actions(env, 1)[0]
    env.step(td)
    other.load_state_dict(env.state_dict())
    assert other.nan_resets == 1


def test_dm_controls_physics_errors_are_truncations(make):
    env = make("dmc:cheetah-run", 3, engine="dmc")
    td = env.reset()
    with env._originals[1].physics.reset_context():
        env._originals[1].physics.data.qvel[:] = np.nan
    td["action"] = torch.zeros(3, 6)
    td = env.step(td)
    assert td["next", "valid"].flatten().tolist() == [True, False, True]
    assert td["next", "truncated"].flatten().tolist() == [False, True, False]
    assert td["next", "observation"].isfinite().all()
    td = env.maybe_reset(env.step_mdp(td))
    td["action"] = torch.zeros(3, 6)
    assert env.step(td)["next", "valid"].all()


class Moody(gymnasium.Env):
    """Observes whatever it is told to; an action above 0.5 raises."""

    observation_space = gymnasium.spaces.Dict(
        {
            "position": gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "mode": gymnasium.spaces.Discrete(3),
        }
    )
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"position": np.zeros(2), "mode": 1}, {}

    def step(self, action):
        if action[0] > 0.5:
            raise OSError("the robot is on fire")
        position = np.full(2, np.nan if action[0] < -0.5 else 1.0)
        return {"position": position, "mode": 2}, 1.0, False, False, {}


@pytest.fixture
def moody():
    gymnasium.register("Moody-v0", Moody, max_episode_steps=10)
    yield "gym:Moody-v0"
    del gymnasium.registry["Moody-v0"]


def test_a_dictionary_of_observations_is_flattened(make, moody):
    env = make(moody, 2)
    (row,), _ = play(env, env.reset(), torch.zeros(1, 2, 1))
    # Gymnasium sorts the keys: mode (one-hot), then position.
    assert row["observation"][0].tolist() == [0, 1, 0, 0, 0]
    assert row["next", "observation"][0].tolist() == [0, 0, 1, 1, 1]


def test_bad_numbers_of_a_foreign_environment_are_cut_off(make, moody):
    env = make(moody, 2)
    (row,), fresh = play(env, env.reset(), torch.tensor([[[-1.0], [0.0]]]))
    assert row["next", "valid"].flatten().tolist() == [False, True]
    assert row["next", "truncated"].flatten().tolist() == [True, False]
    assert fresh["step_count"].flatten().tolist() == [0, 1]
    assert env.nan_resets == 1


def test_an_error_of_a_foreign_environment_names_it(make, moody):
    env = make(moody, 2)
    td = env.reset().set("action", torch.ones(2, 1))
    with pytest.raises(EnvironmentFailure, match="Moody-v0 failed: OSError: the robot is on fire"):
        env.step(td)
