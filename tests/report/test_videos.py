"""`rlsuite report --videos`: which runs are recorded, what the page shows, and what does not end a report."""

import builtins
from typing import ClassVar

import gymnasium
import pytest
import toys
import whole_runs

from rlsuite.cli.main import run as rlsuite
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError, EnvironmentFailure
from rlsuite.report import videos
from rlsuite.report.study import read_study

ENV = "RiskyPointMass"


@pytest.fixture
def runs(tmp_path):
    """Two runs of one agent, and one of another."""
    size = {"env": ENV, "num_envs": 1, "steps": 80, "warmup_steps": 60, "eval_every": 40}
    for name, agent, seed in (("a0", "sac", 0), ("a1", "sac", 1), ("b0", "td3", 0)):
        whole_runs.train(tmp_path / name, agent, seed=seed, checkpoint_every=40, eval_episodes=1, **size)
    return tmp_path


def films(path):
    return sorted(film.relative_to(path).as_posix() for film in path.glob("**/*.mp4"))


def test_the_first_run_of_each_agent_gets_a_video_once(runs, tmp_path, capsys):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "out"
    words = ["report", *(str(runs / name) for name in ("a0", "a1", "b0")), "--out", str(out)]
    assert rlsuite(words) == 0 and not films(runs)  # asked for only
    assert rlsuite([*words, "--videos"]) == 0
    assert films(runs) == ["a0/videos/best.mp4", "b0/videos/best.mp4"]
    page = (out / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 2 and "a0: best.mp4" in page
    assert page.count('poster="data:image/jpeg;base64,') == 2 and "on RiskyPointMass, best evaluation" in page
    frames = list(imageio.get_reader(runs / "a0" / "videos" / "best.mp4").iter_data())
    assert len(frames) > 5
    before = (runs / "a0" / "videos" / "best.mp4").read_bytes()
    (runs / "b0" / "videos" / "best.mp4").rename(runs / "b0" / "mine.mp4")
    capsys.readouterr()
    assert rlsuite([*words, "--videos"]) == 0
    assert films(runs) == ["a0/videos/best.mp4", "b0/mine.mp4"] and "video" not in capsys.readouterr().out
    assert (runs / "a0" / "videos" / "best.mp4").read_bytes() == before
    assert not [path for path in (runs / "a0").iterdir() if path.name.startswith(".")]


def test_what_cannot_be_recorded_is_a_line(runs, tmp_path, capsys, monkeypatch):
    real = builtins.__import__

    def without_imageio(name, *rest):
        if name.startswith("imageio"):
            raise ImportError(name)
        return real(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without_imageio)
        out = tmp_path / "out"
        assert rlsuite(["report", str(runs / "a0"), "--out", str(out), "--videos"]) == 0
    assert (out / "report.html").exists() and not films(runs)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no video of")]
    assert 'pip install "rlsuite[video]"' in line

    def torn(run, *, video, **_):
        video.write_bytes(b"half a film")
        raise EnvironmentFailure("cannot\nrender here")

    monkeypatch.setattr(videos, "evaluate_run", torn)
    videos.record_videos(read_study([runs / "b0"]))
    assert capsys.readouterr().out == f"no video of {runs / 'b0'}: cannot render here\n"
    assert not films(runs)


def test_an_environment_without_pictures_is_a_line(tmp_path, capsys):
    pytest.importorskip("imageio.v2")
    whole_runs.train(tmp_path / "run", steps=240, num_envs=1, eval_every=120)  # a toy that draws nothing
    capsys.readouterr()
    videos.record_videos(read_study([tmp_path / "run"]))
    assert capsys.readouterr().out.startswith(f"no video of {tmp_path / 'run'}: ")
    assert not films(tmp_path)


class Blind(toys.Reach):
    """Says that it draws, and does not."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return None


class Headless(Blind):
    """Finds no display to draw on."""

    def render(self):
        raise RuntimeError("no video device")


@pytest.mark.parametrize("kind", [Blind, Headless])
def test_an_environment_that_draws_nothing_says_so(kind):
    gymnasium.register("Blind-v0", kind, max_episode_steps=5)
    try:
        env = make_env("gym:Blind-v0", 1, render=True)
        env.reset()
        with pytest.raises(ConfigError, match="gym:Blind-v0 gives no pictures"):
            env.frame()
        env.close()
    finally:
        del gymnasium.registry["Blind-v0"]
