"""StitchMaze and the routes recorded in it: walls, the way that nobody walked, and that it can be joined."""

import numpy as np
import pytest
from offline_helpers import shared  # noqa: F401 (a fixture)

from rlsuite.envs.make import make_env
from rlsuite.envs.toys import stitch_maze as maze
from rlsuite.offline import stitch
from rlsuite.offline.load import load_dataset
from rlsuite.offline.make import save, stitch_source
from rlsuite.offline.names import recipe


@pytest.fixture(scope="module")
def episodes():
    return list(stitch.record(2_000, seed=1))


def places(episode):
    return (episode.observations + 1) * maze.SIZE / 2


def at(corner, position):
    return np.linalg.norm(position - maze.CORNERS[corner], axis=-1) < 0.75


@pytest.mark.parametrize(
    ("place", "is_free"),
    [((0.5, 0.5), True), ((2.5, 2.5), True), ((2.5, 1.9), False), ((1.1, 4.0), False), ((4.5, 5.1), False)],
)
def test_the_maze_is_an_h(place, is_free):
    assert maze.free(np.array(place)) == is_free


def test_walls_stop_one_axis_and_let_the_other_slide():
    moved = maze.move(np.array([[0.9, 0.5]]), np.array([[0.25, 0.25]]))
    assert moved[0].tolist() == pytest.approx([0.9, 0.75])


def test_every_step_costs_one_and_the_goal_ends_the_episode():
    env = make_env("StitchMaze", 2, seed=0)
    walked = stitch.walk(env, stitch.Waypoints(stitch.SHORTCUT, 2), 0.0, np.random.default_rng(0))
    for seen, actions, terminated in walked:
        assert terminated and 24 <= len(actions) <= 40
        last = (seen[-2:] + 1) * maze.SIZE / 2
        assert maze.reached(last).tolist() == [False, True]
    still = make_env("StitchMaze", 1, seed=0)
    td = still.reset()
    for step in range(100):
        td["action"] = td["observation"] * 0
        after = still.step(td)["next"]
        assert after["reward"].item() == -1 and not after["terminated"].item()
        assert after["truncated"].item() == (step == 99)


def test_no_recorded_route_leads_from_start_to_goal_and_joined_they_do(episodes):
    assert sum(map(len, episodes)) == 2_000
    whole = [episode for episode in episodes if episode.whole]
    passage = np.array([[0.5, 2.5], [4.5, 2.5]])
    reach = {"home": set(), "top_left": set(), "bottom_right": set()}
    for episode in whole:
        seen = places(episode)
        start = next(name for name in reach if at(name, seen[0]))
        ends = {
            f"end {side}" for side in range(2) if (np.linalg.norm(seen - passage[side], axis=-1) < 0.4).any()
        }
        ends |= {name for name in maze.CORNERS if at(name, seen[-1])}
        reach[start] |= ends
        assert maze.free(seen).all()
        assert episode.terminations.any() == (start == "bottom_right")
        assert episode.truncations[-1] != episode.terminations[-1]
    assert "goal" not in reach["home"] | reach["top_left"]
    assert {"end 0"} < reach["home"] and {"end 0", "end 1"} < reach["top_left"]
    assert {"end 1", "goal"} <= reach["bottom_right"]


def test_recording_repeats_with_its_seed(episodes):
    again = next(stitch.record(50, seed=1))
    assert np.array_equal(again.actions, episodes[0].actions[: len(again)])
    assert not np.array_equal(next(stitch.record(50, seed=2)).actions[:5], again.actions[:5])


def test_a_set_on_disk_scores_0_for_never_and_100_for_the_joined_way(tmp_path):
    made = save(stitch_source(300, 0), recipe("stitch"), tmp_path, layout="minari", command="x", seed=0)
    data = load_dataset(str(made.path))
    assert data.env == "StitchMaze" and len(data.rows) == 300
    assert data.reference.low == -100 and -40 < data.reference.high < -24
    assert data.behaviour_return() == -100
