"""Pictures without a display, and that looking changes nothing."""

import subprocess
import sys

import numpy as np
import pytest
from env_helpers import assert_equal, play, random_actions

from rlsuite.envs.rendering import HEIGHT, WIDTH
from rlsuite.errors import EnvironmentFailure


@pytest.mark.parametrize("env_id", ["HalfCheetah", "dmc:quadruped-walk", "dmc:fish-upright"])
def test_a_picture_shows_something_and_changes_nothing(make, env_id):
    seen, unseen = make(env_id, 2, seed=1), make(env_id, 2, seed=1)
    actions = random_actions(seen, 6)
    _, left = play(seen, seen.reset(), actions[:3])
    _, right = play(unseen, unseen.reset(), actions[:3])
    try:
        first, second = seen.frame(0), seen.frame(1)
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert first.dtype == np.uint8
    assert first.std() > 1
    assert not np.array_equal(first, second)
    for ours, theirs in zip(
        play(seen, left, actions[3:])[0], play(unseen, right, actions[3:])[0], strict=True
    ):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("name", ["reacher-easy", "finger-turn_easy"])
def test_a_picture_shows_the_goal_of_its_world(make, name):
    """As dm_control's own camera does, from the same seed."""
    ours, theirs = (make(f"dmc:{name}", 2, seed=4, engine=engine) for engine in ("native", "dmc"))
    ours.reset()
    theirs.reset()
    try:
        pictures = [(ours.frame(world), theirs.frame(world)) for world in (0, 1, 0)]
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    for left, right in pictures:
        assert np.array_equal(left, right)
    assert not np.array_equal(pictures[0][0], pictures[1][0])


def test_where_nothing_can_draw_the_error_says_what_to_install(make, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    env = make("HalfCheetah")
    env.reset()

    def broken(*_):
        raise OSError("libEGL.so.1 is missing")

    monkeypatch.setattr("mujoco.Renderer", broken)
    with pytest.raises(EnvironmentFailure, match=r"egl: libEGL.so.1 is missing.*libosmesa6"):
        env.frame()


def test_training_does_not_load_opengl():
    names = ("HalfCheetah", "gym:Pendulum-v1", "dmc:cheetah-run", "dmc:fish-upright")
    code = (
        "import sys; from rlsuite.envs.make import make_env;"
        f"[make_env(name).reset() for name in {names}];"
        "loaded = [name for name in sys.modules if name.startswith('OpenGL')]; assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
