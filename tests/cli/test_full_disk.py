"""Commands whose files find no room: one line, the right exit code, and the folders as they were before.

The room is the kernel's limit on the size of a file: a write beyond it fails inside whatever library writes.
HDF5 does not survive that, so of data sets it is the free space that ends.
"""

import contextlib
import json
import os
import resource
import signal

import pytest
import strange_envs  # noqa: F401 - the run of the tests is on one of its environments
import whole_runs as runs

from rlsuite.runs.files import FileLayer

ENV = "gym:strange/Strange-v0"


@contextlib.contextmanager
def room(size):
    """Let no file of this process, or of those that it starts, grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)


@contextlib.contextmanager
def silent_children():
    """Fail where another program writes to this process's standard error."""
    read, write = os.pipe()
    old = os.dup(2)
    os.dup2(write, 2)
    try:
        yield
    finally:
        os.dup2(old, 2)
        os.close(old)
        os.close(write)
        assert os.read(read, 1_000) == b""
        os.close(read)


def contents(folder):
    """Return what every file below a folder holds, and which folders there are."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def filling(times):
    """Return a method that finds room so many times, and then none."""
    left = iter([2**40] * times)
    return lambda layer, path: next(left, 0)


def assert_refused(answer, codes=(2, 3)):
    assert answer.code in codes, answer.err
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("rlsuite: ")
    assert any(text in answer.err for text in ("cannot be written", "cannot write", "is not whole"))


@pytest.fixture
def curves(tmp_path):
    """A folder with two runs that have evaluations, and no more."""
    for seed in range(2):
        run = tmp_path / "runs" / f"s{seed}"
        run.mkdir(parents=True)
        (run / "config.toml").write_text(
            'agent_name = "sac"\npreset = "default"\n[agent]\n[train]\nenv = "E"\n'
            f"seed = {seed}\nsteps = 200\n"
        )
        lines = [
            {"step": at, "updates": at, "seconds": at / 7, "eval/return_mean": at / 3, "eval/return_std": 0.1}
            for at in range(10, 210, 10)
        ]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return tmp_path


@pytest.mark.parametrize("size", [100, 10_000, 1_000_000])  # the tables, the picture, the page
@pytest.mark.parametrize("earlier", [False, True])
def test_row_9_a_report_without_room_leaves_what_there_was(rlsuite, curves, size, earlier):
    out = curves / "pages" / "new"
    if earlier:
        assert rlsuite("report", str(curves / "runs" / "s0"), "--out", str(out)).code == 0
        assert {path.name for path in out.iterdir()} >= {"report.html", "curves.png", "summary.csv"}
    before = contents(curves)
    with room(size):
        answer = rlsuite("report", str(curves / "runs"), "--out", str(out))
    assert_refused(answer, codes=(3,))
    assert contents(curves) == before


@pytest.mark.parametrize("layout", ["minari", "d4rl"])
@pytest.mark.parametrize("episodes", [-1, 0, 1, 7])
def test_row_9_data_without_room_are_not_made(rlsuite, tmp_path, monkeypatch, layout, episodes):
    words = ("data", "make", "hopper/random", "--steps", "400", "--num-envs", "4", "--layout", layout)
    with monkeypatch.context() as patch:
        patch.setattr(FileLayer, "free_bytes", filling(episodes + 1))
        answer = rlsuite(*words, "--out", str(tmp_path / "new" / "data"))
    assert_refused(answer)
    assert "No space left on device" in answer.err
    assert not contents(tmp_path)
    assert rlsuite(*words, "--out", str(tmp_path / "new" / "data")).code == 0


@pytest.mark.parametrize("layout", ["minari", "d4rl"])
def test_row_9_nor_are_they_converted(rlsuite, recorded, tmp_path, monkeypatch, layout):
    out = tmp_path / "new" / ("data" if layout == "minari" else "data.hdf5")
    words = ("data", "convert", str(recorded), str(out), "--layout", layout)
    before = contents(tmp_path)
    monkeypatch.setattr(FileLayer, "free_bytes", filling(3))
    answer = rlsuite(*words, *(("--name", "tests/ours-v0") if layout == "minari" else ()))
    assert_refused(answer)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ("data", "make", "hopper/random", "--steps", "20", "--num-envs", "2", "--out", "/proc/data"),
        ("data", "convert", "{data}", "/proc/data.hdf5"),
        ("sweep", "sac", "--env", ENV, "--out", "/proc/sweep"),
        ("bench", "study", "--agents", "sac", "--envs", ENV, "--out", "/proc/study"),
        ("pull", "nobody/nothing", "--out", "/proc/run"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_row_9_places_that_take_no_files_are_one_line(rlsuite, recorded, words):
    answer = rlsuite(*(word.format(data=recorded) for word in words))
    assert answer.code in (2, 3), answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("size", [0, 1_000])
def test_row_9_a_video_without_room_is_none(rlsuite, tmp_path, size):
    runs.train(tmp_path / "run", "sac", env=ENV, num_envs=2, steps=40, warmup_steps=20, batch_size=8)
    words = (
        "eval",
        str(tmp_path / "run"),
        "--episodes",
        "1",
        "--video",
        str(tmp_path / "films" / "film.mp4"),
    )
    with room(size), silent_children():
        answer = rlsuite(*words)
    assert_refused(answer)
    assert not list((tmp_path / "films").rglob("*"))


def test_row_9_a_replay_without_room_leaves_the_run_as_it_was(rlsuite, tmp_path):
    run = tmp_path / "runs" / "one"
    runs.train(run, "sac", env=ENV, num_envs=2, steps=40, warmup_steps=20, batch_size=8, checkpoint_every=20)
    before = contents(tmp_path)
    words = ("replay", str(run), "--import", "strange_envs", "--from", "30", "--to", "34")
    with room(10):
        answer = rlsuite(*words)
    assert answer.code == 3
    assert answer.err.count("\n") == 1
    assert "no room beside" in answer.err and "--out" not in answer.err  # it has none
    assert contents(tmp_path) == before
    assert rlsuite(*words).code == 0


def test_the_room_is_one(tmp_path):
    with room(100), pytest.raises(OSError, match="File too large"):
        (tmp_path / "file").write_bytes(b"x" * 101)
    assert (tmp_path / "file").write_bytes(b"x" * 101) == 101
