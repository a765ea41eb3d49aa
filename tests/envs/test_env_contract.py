"""What every environment promises: specs, keys, true successors, two kinds of end, masked resets."""

import pytest
import torch
from env_helpers import assert_equal, play, random_actions
from gymnasium_tasks import NAMES
from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from rlsuite.envs.names import suite_tasks_by_name, toys_by_name
from rlsuite.errors import ConfigError, EnvironmentFailure

FOREIGN = ("gym:Pendulum-v1", "gym:Hopper-v5", "dmc:fish-upright", "dmc:point_mass-easy")
OURS = (*NAMES, *toys_by_name())
SUITE = tuple(f"dmc:{name}" for name in suite_tasks_by_name())
END_KEYS = ("done", "terminated", "truncated")


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("env_id", (*OURS, *SUITE, *FOREIGN))
def test_specs_hold(make, env_id, num_envs):
    env = make(env_id, num_envs)
    check_env_specs(env, seed=0)
    assert env.batch_size == (num_envs,)
    assert len(env.half_range) == env.action_spec.shape[-1]
    assert env.max_episode_steps > 0
    assert {"torch", "python"} <= set(env.versions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("env_id", ["Hopper", "gym:Pendulum-v1", "dmc:fish-upright"])
def test_keys_shapes_and_types(make, env_id, dtype):
    env = make(env_id, 2, dtype=dtype)
    (row,), _ = play(env, env.reset(), random_actions(env, 1))
    size = env.observation_spec["observation"].shape[-1]
    for part in (row, row["next"]):
        assert part["observation"].shape == (2, size)
        assert part["observation"].dtype == dtype
        assert part["step_count"].dtype == torch.int64
        for key in (*END_KEYS, "valid"):
            assert part[key].shape == (2, 1)
            assert part[key].dtype == torch.bool
    assert row["next", "reward"].shape == (2, 1)
    assert row["next", "reward"].dtype == dtype
    assert row["next", "step_count"].flatten().tolist() == [1, 1]


@pytest.mark.parametrize(
    "env_id", ["Hopper", "InvertedPendulum", "RiskyPointMass", "gym:Pendulum-v1", "dmc:fish-upright"]
)
def test_lean_loop_is_torchrls_loop(make, env_id):
    """Our `step`, `step_mdp` and `maybe_reset` against EnvBase's own, with a key that a policy carries."""
    lean, plain = (make(env_id, 4, seed=3, max_episode_steps=17) for _ in range(2))
    ours, theirs = lean.reset(), plain.reset()
    partial = 0
    for step, action in enumerate(random_actions(lean, 60)):
        for td in (ours, theirs):
            td["action"] = action
            td["carried"] = torch.full((4, 2), float(step))
        ours = lean.step(ours)
        theirs = EnvBase.step(plain, theirs)
        if step % 7 == 3:  # an outside hand ends the episode of one world
            for td in (ours, theirs):
                td["next", "truncated"][1] = True
                td["next", "done"][1] = True
        assert_equal(ours, theirs)
        ended = ours["next", "done"]
        partial += bool(ended.any() and not ended.all())
        before = lean.step_mdp(ours)
        ours = lean.maybe_reset(before)
        assert ours is before  # in place, as TorchRL
        theirs = EnvBase.maybe_reset(plain, EnvBase.step_mdp(plain, theirs))
        assert_equal(ours, theirs)
    assert partial > 5


def test_what_is_carried_in_nested_keys_goes_torchrls_way(make):
    env = make("InvertedPendulum", 2)
    td = env.reset()
    td["action"] = torch.zeros(2, 1)
    td["memory", "hidden"] = torch.ones(2, 3)
    after = env.step_mdp(env.step(td))
    assert after["memory", "hidden"].sum() == 6
    assert "reward" not in after


def test_a_preset_next_and_a_wrong_batch_size_go_torchrls_way(make):
    env = make("InvertedPendulum", 2)
    td = env.reset()
    td["action"] = torch.zeros(2, 1)
    td["next"] = td.empty()
    td["next", "extra"] = torch.ones(2, 1)
    assert env.step(td)["next", "extra"].sum() == 2
    with pytest.raises(RuntimeError, match="batch"):
        env.step(td[:1])


def test_successor_at_the_end_is_the_true_one(make):
    """The last observation of an episode continues its trajectory; it is not the next episode's first."""
    long, short = make("HalfCheetah", 2, seed=1), make("HalfCheetah", 2, seed=1, max_episode_steps=5)
    actions = random_actions(long, 5)
    expected, _ = play(long, long.reset(), actions)
    rows, fresh = play(short, short.reset(), actions)
    assert torch.equal(rows[-1]["next", "observation"], expected[-1]["next", "observation"])
    assert not torch.equal(rows[-1]["next", "observation"], fresh["observation"])


def test_time_limit_truncates_and_does_not_terminate(make):
    env = make("HalfCheetah", 2, max_episode_steps=4)
    rows, fresh = play(env, env.reset(), random_actions(env, 4))
    assert not torch.stack([row["next", "done"] for row in rows[:3]]).any()
    last = rows[-1]["next"]
    assert last["truncated"].all()
    assert not last["terminated"].any()
    assert last["done"].all()
    assert last["step_count"].flatten().tolist() == [4, 4]
    assert fresh["step_count"].flatten().tolist() == [0, 0]
    assert not any(fresh[key].any() for key in END_KEYS)


def test_a_falling_hopper_terminates_and_is_not_truncated(make):
    env = make("Hopper", 2)
    rows, _ = play(env, env.reset(), random_actions(env, 100))
    fallen = [row["next"] for row in rows if row["next", "done"].any()]
    assert fallen
    assert all(torch.equal(row["terminated"], row["done"]) for row in fallen)
    assert not any(row["truncated"].any() for row in fallen)


def test_falling_at_the_time_limit_is_both(make):
    """The flags are independent, as Gymnasium's are."""
    free = make("InvertedPendulum", 1, seed=0)
    push = torch.ones(100, 1, 1)
    rows, _ = play(free, free.reset(), push)
    fall = next(i for i, row in enumerate(rows) if row["next", "terminated"].all()) + 1
    limited = make("InvertedPendulum", 1, seed=0, max_episode_steps=fall)
    last = play(limited, limited.reset(), push[:fall])[0][-1]["next"]
    assert last["terminated"].all()
    assert last["truncated"].all()


def test_an_outside_mask_ends_one_episode_only(make):
    env = make("HalfCheetah", 3)
    td = env.reset()
    td["action"] = random_actions(env, 1)[0]
    td = env.step(td)
    mask = torch.tensor([[False], [True], [False]])
    td["next", "truncated"] |= mask
    td["next", "done"] |= mask
    after = env.maybe_reset(env.step_mdp(td))
    assert after["step_count"].flatten().tolist() == [1, 0, 1]
    kept = ~mask.flatten()
    assert torch.equal(after["observation"][kept], td["next", "observation"][kept])
    assert not torch.equal(after["observation"][1], td["next", "observation"][1])


@pytest.mark.parametrize(
    "env_id",
    ["HalfCheetah", "InvertedDoublePendulum", "gym:Pendulum-v1", "dmc:fish-upright", "dmc:finger-turn_easy"],
)
def test_partial_reset_leaves_the_others_alone(make, env_id):
    """World 0 is bitwise the same whether or not its neighbours are reset at odd times."""
    calm, disturbed = make(env_id, 3, seed=5), make(env_id, 3, seed=5)
    actions = random_actions(calm, 30)
    expected, _ = play(calm, calm.reset(), actions)
    td = disturbed.reset()
    for step, action in enumerate(actions):
        td["action"] = action
        td = disturbed.step(td)
        for key in ("observation", "reward", "done"):
            assert torch.equal(td["next", key][0], expected[step]["next", key][0])
        if step % 4 == 1:
            td["next", "truncated"][1:] = True
            td["next", "done"][1:] = True
        td = disturbed.maybe_reset(disturbed.step_mdp(td))


def test_reset_with_a_mask_through_torchrls_reset(make):
    env = make("HalfCheetah", 3)
    _, td = play(env, env.reset(), random_actions(env, 3))
    kept = td["observation"].clone()
    td["_reset"] = torch.tensor([[True], [False], [False]])
    td = env.reset(td)
    assert td["step_count"].flatten().tolist() == [0, 3, 3]
    assert torch.equal(td["observation"][1:], kept[1:])


@pytest.mark.parametrize("env_id", ["HalfCheetah", "gym:Pendulum-v1"])
def test_what_was_handed_out_is_the_callers(make, env_id):
    """Writing into returned tensors changes nothing inside, also where no cast separates the two."""
    clean, dirty = (make(env_id, 2, seed=2, dtype=torch.float64) for _ in range(2))
    left, right = clean.reset(), dirty.reset()
    for action in random_actions(clean, 4):
        for td in (left, right):
            td["action"] = action.clone()
        for key in ("observation", "step_count"):
            right[key].fill_(77)
        left, right = clean.step(left), dirty.step(right)
        assert_equal(left["next"], right["next"])
        for key in ("observation", "step_count", "action"):
            right[key].fill_(77)
        left, right = clean.step_mdp(left), dirty.step_mdp(right)
    right["observation"].fill_(77)
    mask = torch.tensor([[True], [False]])
    for td in (left, right):
        td.clear()
        td["_reset"] = mask
    assert_equal(clean.reset(left), dirty.reset(right))
    saved = dirty.state_dict()
    for key, value in clean.state_dict().items():
        assert torch.equal(value, saved[key]), key


@pytest.mark.parametrize("env_id", ["HalfCheetah", "gym:Pendulum-v1", "dmc:cheetah-run", "dmc:quadruped-run"])
def test_actions_are_clamped_scaled_and_checked(make, env_id):
    inside, outside = make(env_id, 2, seed=1), make(env_id, 2, seed=1)
    ones = torch.ones(inside.action_spec.shape)
    (left,), _ = play(inside, inside.reset(), ones[None])
    (right,), _ = play(outside, outside.reset(), 5 * ones[None])
    assert torch.equal(left["next", "observation"], right["next", "observation"])
    bad = ones.clone()
    bad[1] = torch.nan
    with pytest.raises(EnvironmentFailure, match=r"NaN in env\(s\) \[1\]"):
        inside.step(inside.reset().set("action", bad))
    with pytest.raises(ConfigError, match="shape"):
        inside.step(inside.reset().set("action", torch.ones(2, 50)))


def test_half_range_is_in_the_environments_units(make):
    assert make("gym:Pendulum-v1").half_range == (2.0,)
    assert make("InvertedPendulum").half_range == (3.0,)
    assert make("HalfCheetah").half_range == (1.0,) * 6


@pytest.mark.parametrize("env_id", ["Hopper", "gym:Pendulum-v1", "dmc:fish-upright"])
def test_seeds_make_trajectories(make, env_id):
    first, same, other = make(env_id, 2, seed=4), make(env_id, 2, seed=9), make(env_id, 2, seed=5)
    same.set_seed(4)
    start = first.reset()["observation"]
    assert torch.equal(start, same.reset()["observation"])
    assert torch.equal(start[1], other.reset()["observation"][0])  # world i has seed + i
    assert not torch.equal(start[0], start[1])


def test_stepping_a_finished_episode_is_refused_where_the_library_would_reset(make):
    env = make("gym:Pendulum-v1", 2, max_episode_steps=2)
    td = env.reset()
    td["action"] = torch.zeros(2, 1)
    td = env.step_mdp(env.step(td))
    td = env.step_mdp(env.step(td))
    with pytest.raises(EnvironmentFailure, match="reset"):
        env.step(td)
