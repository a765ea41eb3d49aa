"""Pictures without a display, and that looking changes nothing."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import whole_runs
from env_helpers import assert_equal, play, random_actions
from tensordict.nn import TensorDictModule

from rlsuite.envs.rendering import HEIGHT, WIDTH, mosaic
from rlsuite.errors import ConfigError, EnvironmentFailure
from rlsuite.training.evaluate import evaluate, evaluate_run


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


def test_the_camera_follows_who_runs_away(make):
    """Forty metres on, the cheetah is where it was in the picture; the floor's tiles repeat."""
    env = make("HalfCheetah", 1)
    env.reset()
    try:
        near = env.frame()
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    env._fields["qpos"][0, 0] += 40.0
    far = env.frame()
    env._fields["qpos"][0, 2] += 1.5  # turned over: another picture
    turned = env.frame()

    def difference(one, two):
        return np.abs(one.astype(float) - two).mean()

    assert difference(near, far) < 0.5 * difference(near, turned)


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


def test_a_mosaic_lays_pictures_out_in_rows():
    pictures = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30, 40, 50)]
    sheet = mosaic(pictures)
    assert sheet.shape == (4, 10, 3)  # codecs take even sides only
    np.testing.assert_array_equal(sheet[::2, :9:3, 0], [[10, 20, 30], [40, 50, 0]])
    assert (sheet[:, 9] == 0).all()
    np.testing.assert_array_equal(mosaic(pictures[:1])[:, :3], pictures[0])


def test_a_large_mosaic_is_thinned_out_to_what_players_take():
    sheet = mosaic([np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 10)
    assert sheet.shape == (3 * HEIGHT // 2, 4 * WIDTH // 2, 3)


def test_a_video_shows_the_asked_worlds_until_the_last_of_them_ends(make, tmp_path):
    """Frames as many as the longest filmed episode; the world that ended first stands still meanwhile."""
    imageio = pytest.importorskip("imageio.v2")
    env = make("InvertedPendulum", 4, seed=3, max_episode_steps=16)
    push = torch.tensor([[1.0], [0.02], [0.3], [0.0]])
    policy = TensorDictModule(lambda seen: push, in_keys=["observation"], out_keys=["action"])
    path = tmp_path / "video.mp4"
    try:
        found = evaluate(policy, env, seeds=3, video=path, video_envs=3)
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    lengths = [int(length) for length in found["lengths"]]
    frames = np.stack(list(imageio.get_reader(path).iter_data()))
    assert lengths[0] < max(lengths[:3])
    assert len(frames) == max(lengths[:3])
    assert frames.shape[1:] == (2 * HEIGHT, 2 * WIDTH, 3)
    assert imageio.get_reader(path).get_meta_data()["fps"] == pytest.approx(1 / env.task.dt)
    after = frames[lengths[0] - 1 :].astype(float)  # world 0 is over, 1 goes on
    change = abs(after[0] - after[-1])
    still, moving = change[:HEIGHT, :WIDTH].mean(), change[:HEIGHT, WIDTH:].mean()
    assert still < 0.2 < moving
    assert frames[:, HEIGHT:, WIDTH:].mean() < 2  # the place of no world is black


def test_a_video_of_more_worlds_than_episodes_is_refused(tmp_path):
    path = tmp_path / "run"
    whole_runs.train(path, steps=200, checkpoint_every=0, eval_every=0)
    with pytest.raises(ConfigError, match="from 1 to the number of episodes, 2"):
        evaluate_run(path, episodes=2, seed=0, video=None, which="last", video_envs=9)
