"""Ways in which the command line let users down: each ends right, in one line, and leaves nothing."""

import errno
import json
import re
import sys

import numpy as np
import pytest
import strange_envs
import whole_runs as runs

import rlsuite as package
from rlsuite.command import console
from rlsuite.errors import ConfigError
from rlsuite.replay import memory

TINY = (
    *("--import", "strange_envs", "--steps", "40", "--warmup-steps", "20", "--num-envs", "2"),
    *runs.SMALL_FLAGS,
)


def train(rlsuite, name, out, *more, agent="sac"):
    env = name if ":" in name else f"gym:strange/{name}-v0"
    return rlsuite("train", agent, "--env", env, *TINY, "--eval-every", "20", "--out", str(out), *more)


@pytest.fixture
def plain(rlsuite, tmp_path):
    assert train(rlsuite, "Strange", tmp_path / "run").code == 0
    return tmp_path / "run"


class Broken:
    """A stream that takes some characters and then fails."""

    encoding = "utf-8"

    def __init__(self, error, room=200):
        self.error, self.room = error, room

    def write(self, text):
        self.room -= len(text)
        if self.room < 0:
            raise self.error
        return len(text)

    def flush(self):
        if self.room < 0:
            raise self.error

    def isatty(self):
        return False

    def fileno(self):
        raise ValueError("no descriptor")


FAILURES = {
    "a reader that left": OSError(errno.EPIPE, "Broken pipe"),
    "a full disk": OSError(errno.ENOSPC, "No space left on device"),
    "a closed file": ValueError("I/O operation on closed file"),
    "an input error": OSError(errno.EIO, "Input/output error"),
}


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("room", [0, 100])
def test_row_1_a_console_that_fails_ends_no_run(monkeypatch, tmp_path, rlsuite, name, room):
    monkeypatch.setattr(sys, "stdout", Broken(FAILURES[name], room))
    out = tmp_path / "run"
    words = ("train", "sac", "--env", "gym:strange/Strange-v0", *TINY, "--eval-every", "0", "--out", str(out))
    assert rlsuite(*words).code == 0
    assert list((out / "ckpt").glob("step-000000000040"))
    assert not (out / "run.lock").exists()


def test_row_1_a_stream_that_was_closed_before_is_no_stream(monkeypatch, tmp_path, rlsuite):
    monkeypatch.setattr(sys, "stdout", None)
    assert train(rlsuite, "Strange", tmp_path / "run").code == 0


@pytest.mark.parametrize(
    ("name", "code"), [("a reader that left", 0), ("a full disk", 3), ("a closed file", 3)]
)
def test_row_1_a_list_that_nobody_gets_is_no_success(monkeypatch, rlsuite, name, code):
    monkeypatch.setattr(sys, "stdout", Broken(FAILURES[name], 0))
    assert rlsuite("list", "presets").code == code


@pytest.mark.parametrize("name", ["a reader that left", "a full disk"])
def test_row_1_nor_a_branch(monkeypatch, plain, rlsuite, name):
    """Its result is a run folder, and what it prints can be had again by `rlsuite compare --paired`."""
    monkeypatch.setattr(sys, "stdout", Broken(FAILURES[name], 0))
    out = plain.with_name("branch")
    answer = rlsuite("branch", str(plain), "--import", "strange_envs", "--at", "30", "--out", str(out))
    assert answer.code == 0, answer.err
    assert list((out / "ckpt").glob("step-000000000040"))


@pytest.mark.parametrize("ends", [(10, 60), (20, 60), (30, 120), (10, 40)])
def test_row_2_seeds_that_share_no_evaluation_are_told_apart(rlsuite, tmp_path, ends):
    for seed, steps in enumerate(ends):
        lines = [
            {"step": at, "updates": at, "seconds": at / 10, "eval/return_mean": at, "eval/return_std": 0.0}
            for at in ([steps] if seed == 0 else range(ends[0] + 10, steps + 1, 10))
        ]
        run = tmp_path / f"s{seed}"
        run.mkdir()
        (run / "config.toml").write_text(
            'agent_name = "sac"\npreset = "default"\n[agent]\n[train]\nenv = "E"\n'
            f"seed = {seed}\nsteps = {steps}\n"
        )
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    answer = rlsuite("report", str(tmp_path / "s0"), str(tmp_path / "s1"), "--out", str(tmp_path / "report"))
    assert answer.code == 0, answer.err
    assert "seed 0 apart: it shares no evaluation with the other seeds" in answer.out
    assert "1 seed\n" in answer.out
    assert "1 seeds" not in answer.out
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize("error", ["ValueError", "OSError", "KeyError"])
def test_rows_3_and_18_an_environment_that_cannot_be_made_leaves_nothing(rlsuite, tmp_path, error):
    answer = train(rlsuite, "Unready", tmp_path / "a" / "run", "--env-option", f"error={error}")
    assert answer.code == 5
    assert "no robot on port 9999" in answer.err
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("env", "code", "words"),
    [
        ("gym:Typo-v1", 2, "Did you mean"),
        ("gym:CartPole-v1", 2, "agents of discrete actions: d_eta_n"),
        ("gym:FrozenLake-v1", 2, "agents of discrete actions: d_eta_n"),
        ("gym:strange/Discrete-v0", 2, "sac is for continuous actions"),
    ],
)
def test_row_18_a_wrong_environment_is_refused_before_title_and_folder(rlsuite, tmp_path, env, code, words):
    answer = train(rlsuite, env, tmp_path / "b" / "run")
    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1", "LunarLander-v3", "MountainCarContinuous-v0"])
def test_a_gymnasium_id_is_answered_with_its_door(rlsuite, name):
    answer = rlsuite("train", "sac", "--env", name)
    assert answer.code == 2
    assert f"--env gym:{name}" in answer.err


@pytest.mark.parametrize("name", ["Discrete", "Strange"])
def test_row_4_actions_are_those_of_the_environment(rlsuite, tmp_path, name):
    env, agent = (f"gym:strange/{name}-v0", "sac")
    if name == "Discrete":
        env, agent = f"discrete:{env}", "d_eta_n"
    assert train(rlsuite, env, tmp_path / "run", agent=agent).code == 0
    policy, space = package.load(tmp_path / "run"), getattr(strange_envs, name).action_space
    observations = np.random.default_rng(0).normal(size=(50, 3)) * 100
    assert all(space.contains(policy.act(observation)) for observation in observations)
    assert len(policy.act(observations)) == 50
    assert policy.act(np.zeros((0, 3))).shape == ((0,) if name == "Discrete" else (0, 2))


@pytest.mark.parametrize("name", ["Asymmetric", "Whole", "Square"])
def test_row_4_saturated_actions_are_inside_their_box(rlsuite, tmp_path, name):
    assert train(rlsuite, name, tmp_path / "run").code == 0
    policy, space = package.load(tmp_path / "run"), getattr(strange_envs, name).action_space
    observations = np.random.default_rng(0).normal(size=(100, 3)) * 1e4
    assert all(space.contains(policy.act(observation)) for observation in observations)
    assert policy.act(observations).shape == (100, *space.shape)
    assert policy.act(observations[:0]).shape == (0, *space.shape)


@pytest.mark.parametrize("name", ["Parts", "Numbered", "Matrix"])
def test_row_4_observations_are_taken_as_the_environment_shows_them(rlsuite, tmp_path, name):
    import gymnasium

    assert train(rlsuite, name, tmp_path / "run").code == 0
    policy, env = package.load(tmp_path / "run"), gymnasium.make(f"strange/{name}-v0")
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(policy.act(observation))
    with pytest.raises(ConfigError, match="shows"):
        policy.act({"nonsense": 1.0})
    with pytest.raises(ConfigError, match="shows"):
        policy.act(np.zeros((3, 1, 4)))


@pytest.mark.parametrize(("checkpoint", "step"), [(40, 40), ("40", 40), ("last", 40)])
def test_row_4_a_checkpoint_may_be_a_number(plain, checkpoint, step):
    assert package.load(plain, checkpoint=checkpoint).facts["env_steps"] == step


@pytest.mark.parametrize("checkpoint", [True, -1, 1.0, "4 0", "٤٠", "9" * 5000])
def test_row_4_and_no_other_thing(plain, checkpoint):
    with pytest.raises(ConfigError, match="checkpoint"):
        package.load(plain, checkpoint=checkpoint)


def test_row_4_stable_baselines3_evaluates_what_is_loaded(rlsuite, tmp_path):
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    import gymnasium

    env = "discrete:gym:strange/Discrete-v0"
    assert train(rlsuite, env, tmp_path / "run", agent="d_eta_n").code == 0
    returns, _ = evaluation.evaluate_policy(
        package.load(tmp_path / "run"), gymnasium.make("strange/Discrete-v0"), n_eval_episodes=2, warn=False
    )
    assert returns == strange_envs.EPISODE


@pytest.mark.parametrize(("height", "width"), [(31, 33), (32, 33), (31, 34), (40, 40)])
def test_row_6_pictures_of_any_size_make_a_video(rlsuite, plain, tmp_path, height, width):
    import imageio.v2 as imageio

    config = plain / "config.toml"
    text = config.read_text().replace("[train.env_options]", "")
    config.write_text(text + f"\n[train.env_options]\nheight = {height}\nwidth = {width}\n")
    video = tmp_path / "new" / "film.mp4"
    answer = rlsuite("eval", str(plain), "--import", "strange_envs", "--episodes", "1", "--video", str(video))
    assert answer.code == 0, answer.err
    with imageio.get_reader(video) as reader:
        assert reader.get_data(0).shape == (height + height % 2, width + width % 2, 3)
    assert [path.name for path in video.parent.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("shown", ["nothing", "failure"])
def test_row_6_without_pictures_there_is_no_file(rlsuite, plain, tmp_path, shown):
    config = plain / "config.toml"
    text = config.read_text().replace("[train.env_options]", "")
    config.write_text(text + f'\n[train.env_options]\nshown = "{shown}"\n')
    video = tmp_path / "film.mp4"
    answer = rlsuite("eval", str(plain), "--import", "strange_envs", "--episodes", "1", "--video", str(video))
    assert answer.code in (2, 5)
    assert answer.err.count("\n") == 1
    assert not list(tmp_path.glob("*film*"))


@pytest.mark.parametrize("video", ["film.txt", ".", "/proc/film.mp4", "", "run"])
def test_row_6_a_video_needs_a_name_that_can_be_one(rlsuite, tmp_path, monkeypatch, video):
    monkeypatch.chdir(tmp_path)
    answer = rlsuite("eval", "run", "--episodes", "1", "--video", video)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


UNUSABLE = [
    *(("--updates-per-step", value) for value in ("nan", "inf", "-inf", "-1")),
    *(("--agent.hidden", *value.split()) for value in ("0", "-5", "9999999999", "8 0")),
    *(("--threads", value) for value in ("-1", "99999999999", "1e99")),
    *(("--n-step", value) for value in ("0", "1000000000000")),
    *(("--batch-size", value) for value in ("0", "99999999999999999")),
    *(("--num-envs", value) for value in ("0", "100000000000", "1e300")),
    *(("--agent.lr-actor", value) for value in ("inf", "nan", "-1", "0")),
    ("--replay-size", "1"),
    ("--seed", "-1"),
    ("--step-timeout", "nan"),
    ("--agent.target-entropy", "nan"),
    ("--agent.hidden", "60000", "60000", "60000", "60000", "60000"),
    ("--steps", "20"),
    ("--updates-per-step", "0"),
    ("--eval-every", ""),
    ("--import", "../x"),
    ("--import", ""),
]


@pytest.mark.parametrize("words", UNUSABLE, ids=" ".join)
def test_row_7_values_that_no_run_can_use_are_refused_first(rlsuite, tmp_path, words):
    answer = train(rlsuite, "Strange", tmp_path / "c" / "run", *words)
    assert (answer.code, answer.out) == (2, ""), answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "words",
    [
        *(("--seed", value) for value in ("-1", "1.5")),
        *(("--episodes", value) for value in ("0", "99999999999")),
        *(("--checkpoint", value) for value in ("9" * 5000, "٤٠", "-1", "best ")),
        *(("--import", value) for value in ("", "../x", "a-b")),
        ("--seed-index", "-1"),
        ("--video-envs", "11"),
        ("--same-episodes",),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_row_7_and_so_are_those_of_an_evaluation(rlsuite, plain, words):
    answer = rlsuite("eval", str(plain), *words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("hidden", ["[0]", "[-1]", "[99999999]"])
def test_row_7_a_configuration_that_was_edited_is_checked_too(rlsuite, plain, hidden):
    config = plain / "config.toml"
    text, count = re.subn(r"hidden = \[[^]]*\]", f"hidden = {hidden}", config.read_text())
    assert count == 1
    config.write_text(text)
    answer = rlsuite("eval", str(plain), "--import", "strange_envs")
    assert answer.code == 2
    assert "hidden" in answer.err


@pytest.mark.parametrize("number", ["1e5", "1E5", "1.5e5", "100_000"])
def test_whole_numbers_may_be_powers_of_ten(loop, rlsuite, tmp_path, number):
    answer = rlsuite(
        "train", "sac", "--env", "HalfCheetah", "--steps", number, "--out", str(tmp_path / "run")
    )
    assert answer.code == 0, answer.err
    assert loop.calls[0]["train"].steps == int(float(number.replace("_", "")))


@pytest.mark.parametrize("number", ["1.5e0", "1e-3", "1e5000", "1e"])
def test_others_are_refused(rlsuite, number):
    assert rlsuite("train", "sac", "--env", "HalfCheetah", "--steps", number).code == 2


@pytest.mark.parametrize("flag", ["--lr", "--agent.lr", "--learning-rate", "--agent.learning-rate"])
def test_the_learning_rates_are_named(rlsuite, flag):
    answer = rlsuite("train", "sac", "--env", "HalfCheetah", flag, "1e-3")
    assert answer.code == 2
    assert all(name in answer.err for name in ("--agent.lr-actor", "--agent.lr-critic", "--agent.lr-alpha"))


@pytest.mark.parametrize(("steps", "every"), [(10_000, 500), (40, 2), (7, 1), (1_000_000, 10_000)])
def test_a_short_run_is_evaluated_twenty_times(loop, rlsuite, tmp_path, steps, every):
    words = ("train", "sac", "--env", "HalfCheetah", "--steps", str(steps), "--warmup-steps", "0")
    assert rlsuite(*words, "--out", str(tmp_path / "run")).code == 0
    assert loop.calls[0]["train"].eval_every == every
    assert rlsuite(*words, "--eval-every", "0", "--out", str(tmp_path / "never")).code == 0
    assert loop.calls[1]["train"].eval_every == 0


@pytest.mark.parametrize("agent", ["bc", "iql", "td3_bc"])
def test_row_12_agents_of_data_want_data(rlsuite, tmp_path, agent):
    answer = rlsuite("train", agent, "--env", "HalfCheetah", "--out", str(tmp_path / "d" / "run"))
    assert (answer.code, answer.out) == (2, "")
    assert "--dataset" in answer.err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("steps", ["1", "39", "3e1"])
def test_row_12_a_run_is_not_resumed_to_where_it_has_been(rlsuite, plain, steps):
    before = (plain / "config.toml").read_text()
    answer = rlsuite("resume", str(plain), "--steps", steps, "--import", "strange_envs")
    assert answer.code == 2
    assert "has done 40 of 40" in answer.err
    assert (plain / "config.toml").read_text() == before


@pytest.mark.parametrize("name", ["meta.pt2", "config.pt2", "other.onnx", "none/x.pt2"])
def test_row_12_an_export_replaces_no_file_of_the_run(rlsuite, plain, name):
    before = (plain / "meta.json").read_text()
    (plain / "config.json").write_text("{}")
    answer = rlsuite(
        "export", str(plain), "--import", "strange_envs", "--format", "torch", "--out", str(plain / name)
    )
    assert answer.code == 2
    assert (plain / "meta.json").read_text() == before


@pytest.mark.parametrize("words", [("--out", ""), ("--out=",), ("--num-envs", " ")], ids=" ".join)
def test_row_12_an_empty_value_is_none(rlsuite, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    answer = rlsuite("train", "sac", "--env", "gym:strange/Strange-v0", *TINY, *words)
    assert answer.code == 2
    assert "empty value" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("report", "{run}", "--out", "/proc/report"),
        ("report", "{run}", "--out", "{run}/config.toml"),
        ("export", "{run}", "--import", "strange_envs", "--format", "torch", "--out", "/proc/x.pt2"),
        ("train", "sac", "--env", "gym:strange/Strange-v0", *TINY, "--out", "/proc/x"),
    ],
    ids=lambda words: " ".join(words)[:30],
)
def test_row_9_places_that_cannot_be_written_are_one_line(rlsuite, plain, words):
    answer = rlsuite(*(word.format(run=plain) for word in words))
    assert answer.code in (2, 3)
    assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("room", [0, 1_000, 100_000])
def test_row_9_an_export_without_room_leaves_nothing(rlsuite, plain, monkeypatch, room):
    from rlsuite.training import export

    class Usage:
        free = room

    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: Usage)
    before = sorted(plain.iterdir())
    answer = rlsuite("export", str(plain), "--import", "strange_envs", "--format", "torch")
    assert answer.code == 3
    assert "No space left" in answer.err
    assert sorted(plain.iterdir()) == before


@pytest.mark.parametrize("failure", ["strings", "missing", "junk"])
def test_row_10_a_failed_start_does_not_block_its_repetition(rlsuite, recorded, tmp_path, failure):
    import shutil

    import h5py

    data = tmp_path / "data.hdf5"
    if failure == "strings":
        shutil.copy(recorded, data)
        with h5py.File(data, "r+") as file:
            count = len(file["rewards"])
            del file["rewards"]
            file["rewards"] = np.array([b"a"] * count)
    elif failure == "junk":
        data.write_bytes(b"junk")
    words = ("train", "iql", "--import", "toys", "--dataset", str(data), "--env", "gym:ToyReach-v0")
    words += ("--steps", "3", "--eval-every", "0", "--agent.hidden", "8", "--out", str(tmp_path / "run"))
    assert rlsuite(*words).code in (2, 3)
    assert not (tmp_path / "run").exists()
    shutil.copy(recorded, data)
    assert rlsuite(*words).code == 0


def test_row_14_what_is_done_again_stands_once_in_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    import shutil

    fields = {"loggers": ("tensorboard",), "eval_every": 40, "checkpoint_every": 40, "steps": 120}
    runs.train(tmp_path / "run", **fields, warmup_steps=20)
    shutil.rmtree(tmp_path / "run" / "ckpt" / "step-000000000120")
    runs.train(tmp_path / "run", **fields, warmup_steps=20, resume=True)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("eval/return_mean")] == [40, 80, 120]


@pytest.mark.parametrize("reward", ["nan", "inf", "-inf"])
def test_row_15_an_environment_whose_every_step_is_bad_is_blamed(rlsuite, tmp_path, reward):
    answer = train(rlsuite, "Strange", tmp_path / "run", "--env-option", f"reward={reward}")
    assert answer.code in (4, 5)
    assert answer.err.count("\n") == 1
    assert "not finite" in answer.err or "no finite numbers" in answer.err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
@pytest.mark.parametrize("words", [("list", "agents"), ("train", "--help"), ("train", "d_eta_n", "--help")])
def test_row_16_a_console_shows_what_it_can(encoding, words, tmp_path, monkeypatch):
    import io

    from rlsuite.cli import main as cli

    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["rlsuite", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    stream.flush()
    assert stream.buffer.getvalue()


def test_row_17_policies_are_loaded_whatever_the_default_type(plain, float64):
    assert package.load(plain).act([0, 0, 0]).dtype == np.float32


@pytest.mark.parametrize("room", ["memory.max", "memory.limit_in_bytes"])
@pytest.mark.parametrize(
    ("limit", "used", "cache", "left"), [(1000, 400, 0, 600), (1000, 900, 300, 400), (10, 20, 0, 0)]
)
def test_limits_of_containers_count(tmp_path, room, limit, used, cache, left):
    second = room == "memory.max"
    group = tmp_path / ("job" if second else "memory/job")
    group.mkdir(parents=True)
    (group / room).write_text(f"{limit}\n")
    (group / ("memory.current" if second else "memory.usage_in_bytes")).write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")
    (tmp_path / "self").write_text("0::/job\n" if second else "3:cpu:/x\n5:memory:/job\n")
    assert memory.cgroup_free_bytes(tmp_path, tmp_path / "self") == left
    (group / room).write_text("max\n")
    assert memory.cgroup_free_bytes(tmp_path, tmp_path / "self") == float("inf")
    assert memory.cgroup_free_bytes(tmp_path, tmp_path / "none") == float("inf")
    assert 0 < memory.host_free_bytes() < 2**60


def test_a_console_goes_on_after_its_stream_failed(caplog):
    stream = console.Console(Broken(FAILURES["a full disk"], 5))
    for _ in range(3):
        assert stream.write("four") == 4
    stream.flush()
    assert stream.lost
    assert caplog.text.count("going on without it") == 1
    assert not stream.isatty()
