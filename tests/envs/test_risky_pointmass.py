"""RiskyPointMass: its reward, its end, its two descriptions."""

import math

import numpy as np
import pytest
import torch
from env_helpers import play, random_actions

from rlsuite.envs.toys.risky_pointmass import (
    PENALTY,
    RADIUS,
    distance_to_center,
    move,
    reached,
    reward,
    risk,
)
from rlsuite.errors import ConfigError


def t(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_risk_is_highest_in_the_middle_and_stops_at_the_edge():
    middle, edge, outside = t((0.5, 0.5)), t((0.5, 0.79)), t((0.5, 0.81))
    assert risk(middle).item() == pytest.approx(0.1)
    assert risk(edge).item() == pytest.approx(0.1 * math.exp(-4 * (0.29 / 0.3) ** 2))
    assert risk(outside).item() == 0.0


def test_reward_is_distance_and_step_cost_and_by_chance_the_penalty():
    places = t((0.6, 0.8), (0.5, 0.5), (0.5, 0.5))
    found = reward(places, t(0.0, 0.09, 0.11).flatten())
    far = math.hypot(0.5, 0.5)
    assert found.tolist() == pytest.approx([-1.1, -far - 0.1 - PENALTY, -far - 0.1])


def test_a_move_is_a_tenth_of_the_action_plus_the_slip_within_the_square():
    found = move(t((0.5, 0.05), (0.98, 0.5)), t((1.0, -1.0), (0.5, 0.0)), t((0.02, 0.0), (0.0, -0.01)))
    torch.testing.assert_close(found, t((0.62, 0.0), (1.0, 0.49)))


def test_the_goal_is_a_quarter_disc_at_the_origin():
    assert reached(t((0.03, 0.039), (0.03, 0.041))).tolist() == [True, False]


def step(env, position, action):
    env._position = np.tile(np.array(position), (env.num_envs, 1))
    td = env.reset().set("action", torch.tensor(action).expand(env.num_envs, 2).clone())
    env._position[:] = position
    return env.step(td)["next"]


def test_in_the_paper_the_place_reached_counts_in_the_code_the_place_left(make):
    """From one stride before the goal: the paper ends there, the code a step later."""
    paper, code = make("RiskyPointMass"), make("RiskyPointMass", options={"variant": "code"})
    start, action = (0.1, 0.0), (-1.0, 0.0)
    ended, open_ended = step(paper, start, action), step(code, start, action)
    assert ended["terminated"].item() and not ended["truncated"].item()
    assert not open_ended["terminated"].item()
    assert open_ended["reward"].item() == pytest.approx(-0.2)
    assert -0.15 < ended["reward"].item() <= -0.1


@pytest.mark.parametrize(("variant", "slip"), [("paper", 0.02), ("code", 0.002)])
def test_slips_are_uniform_and_bounded(make, variant, slip):
    env = make("RiskyPointMass", 500, options={"variant": variant}, dtype=torch.float64)
    moved = step(env, (0.9, 0.9), (0.0, 0.0))["observation"] - 0.9
    assert moved.abs().max() <= slip
    assert moved.std().item() == pytest.approx(slip / math.sqrt(3), rel=0.1)


def test_only_the_code_starts_inside_the_disc(make):
    starts = {}
    for variant in ("paper", "code"):
        env = make("RiskyPointMass", 300, options={"variant": variant}, dtype=torch.float64)
        starts[variant] = env.reset()["observation"]
        assert starts[variant].min() >= 0.3 and starts[variant].max() <= 1.0
    assert (distance_to_center(starts["paper"]) > RADIUS).all()
    inside = (distance_to_center(starts["code"]) <= RADIUS).double().mean().item()
    assert inside == pytest.approx(0.451, abs=0.1)  # the disc's share of the square of starts


def test_the_penalty_comes_as_often_as_its_risk(make):
    env = make("RiskyPointMass", 2_000, options={"variant": "code"})
    found = step(env, (0.5, 0.5), (1.0, 1.0))["reward"]
    assert (found < -PENALTY).double().mean().item() == pytest.approx(0.1, abs=0.03)


def test_episodes_are_cut_after_200_steps_and_worlds_are_their_own(make):
    env = make("RiskyPointMass", 3, seed=5)
    single = make("RiskyPointMass", 1, seed=6)
    still = torch.ones(200, 3, 2)
    rows, _ = play(env, env.reset(), still)
    alone, _ = play(single, single.reset(), still[:, :1])
    assert rows[-1]["next", "truncated"].all() and not rows[-2]["next", "done"].any()
    for row, own in zip(rows, alone, strict=True):
        assert torch.equal(row["next", "observation"][1], own["next", "observation"][0])


def test_what_was_handed_out_does_not_move_on(make):
    env = make("RiskyPointMass", 4, dtype=torch.float64, max_episode_steps=5)
    td = env.reset()
    kept = []
    for action in random_actions(env, 12):
        td = env.step(td.set("action", action))
        kept.append((td["next", "observation"], td["next", "observation"].clone()))
        td = env.maybe_reset(env.step_mdp(td))
    assert all(torch.equal(handed_out, copy) for handed_out, copy in kept)


def test_a_picture_shows_disc_goal_and_point(make):
    env = make("RiskyPointMass", 2)
    env._position[1] = torch.tensor([0.9, 0.9])
    picture = env.frame(1)
    assert picture.shape == (200, 200, 3) and picture.dtype == np.uint8
    assert picture[100, 100].tolist() == [230, 120, 120]
    assert picture[198, 2].tolist() == [60, 170, 60]
    assert picture[20, 180].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"variant": "codes"}}, 'Did you mean "code"'),
        ({"options": {"varient": "code"}}, 'Did you mean "variant"'),
        ({"engine": "native"}, "cannot run RiskyPointMass"),
        ({"legacy_margin": True}, "no contacts"),
    ],
)
def test_mistakes(make, options, message):
    with pytest.raises(ConfigError, match=message):
        make("RiskyPointMass", **options)
