"""The queue of long runs, on programs that take milliseconds and on one small real run."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import change_of_task
import evidence
import pytest
import sb3_baseline

from rlsuite.bench import d4rl, paper
from rlsuite.cli import bench
from rlsuite.command.train import parse_train

STUB = """
import json, os, signal, sys, time
from pathlib import Path
out, steps, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
with (out.parent / "journal").open("a") as file: file.write(f"begin {out.name}\\n")
out.mkdir(parents=True, exist_ok=True)
(out / "config.toml").write_text('agent_name = "stub"\\n[train]\\nenv = "E"\\nseed = 4\\n')
(out / "meta.json").write_text('{"versions": {"stub": "1"}}')
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
state = out / "state"
step = int(state.read_text()) if state.exists() else 0
while step < steps and not asked:
    time.sleep(seconds)
    step += 1
    with (out / "metrics.jsonl").open("a") as file:
        line = {"step": step, "updates": 2 * step, "seconds": 1.0, "eval/return_mean": step / 2}
        file.write(json.dumps(line) + "\\n")
    state.write_text(str(step))
with (out.parent / "journal").open("a") as file: file.write(f"end {out.name}\\n")
sys.exit(75 if step < steps else int(sys.argv[4]) if len(sys.argv) > 4 else 0)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty project: the queue's folders are below it."""
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    monkeypatch.delenv(evidence.PUBLISHED_VARIABLE, raising=False)
    (tmp_path / "stub.py").write_text(STUB)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    yield tmp_path
    for number, handler in handlers:
        signal.signal(number, handler)


def entry(name, *, steps=3, seconds=0.01, code=0, whole=False, **more):
    """Write an entry of the list as text."""
    words = ["python", "stub.py", "{out}", "{steps}", str(seconds), str(code), *(["{jobs}"] if whole else [])]
    keys = {"name": name, "command": words, "results": "stubs", "steps": steps, **more}
    return "[[entry]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def call(place, *entries, words=()):
    (place / "list.toml").write_text("\n".join(entries))
    return evidence.main(["--file", str(place / "list.toml"), "--results", str(place / "results"), *words])


def journal(place):
    return (place / evidence.WORK / "journal").read_text().splitlines()


def rows(path):
    return evidence.read_rows(path)[1]


def test_the_list_is_worked_off_in_order_and_kept_and_then_nothing_happens(place, capsys):
    texts = [entry("a", label="first"), entry("b"), entry("c", code=3)]
    assert call(place, *texts, words=["--jobs", "1"]) == 1
    assert [line for line in journal(place) if line.startswith("begin")] == ["begin a", "begin b", "begin c"]
    folder = place / "results" / "stubs"
    found = rows(folder / "a.csv")
    assert [row["env_step"] for row in found] == ["1", "2", "3"]
    assert {(row["label"], row["seed"], row["env"]) for row in found} == {("first", "4", "E")}
    assert found[-1]["eval/return_mean"] == "1.5"
    record = json.loads((folder / "a.json").read_text())
    assert record["finished"]
    assert record["runs"]["runs/evidence/a"]["meta"] == {"versions": {"stub": "1"}}
    assert record["runs"]["runs/evidence/a"]["config"]["agent_name"] == "stub"
    assert not json.loads((folder / "c.json").read_text())["finished"]
    assert str(place) not in (folder / "a.json").read_text()
    assert (folder / "curves.png").stat().st_size > 1_000
    summary = {row["label"]: row for row in csv.DictReader((folder / "summary.csv").open())}
    assert summary["first"]["mean"] == "1.5"

    before = journal(place)
    assert call(place, *texts[:2]) == 0
    assert "everything on the list is finished" in capsys.readouterr().out
    assert journal(place) == before
    assert call(place, entry("a", label="first", steps=4), words=["a"]) == 0  # another command: not finished
    assert journal(place) == [*before, "begin a", "end a"]


def test_two_at_a_time_and_what_takes_the_machine_alone(place):
    texts = [entry("a", steps=30), entry("b", steps=30), entry("c"), entry("whole", whole=True), entry("d")]
    assert call(place, *texts) == 0
    running, most = set(), {}
    for line in journal(place):
        what, name = line.split()
        running = running | {name} if what == "begin" else running - {name}
        for one in running:
            most[one] = max(most.get(one, 0), len(running))
    assert most["a"] == most["b"] == 2
    assert most["whole"] == 1


def test_what_must_come_before_is_made_once(place):
    made = "runs/evidence/data/set"
    words = ["python", "-c", f"import pathlib; pathlib.Path({made!r}).mkdir(parents=True); print('made')"]
    before = f"[entry.before]\n{json.dumps(made)} = {json.dumps(words)}\n"
    assert call(place, entry("a") + before, entry("b") + before, words=["--jobs", "1"]) == 0
    logs = [(place / evidence.WORK / "logs" / f"{name}.log").read_text() for name in "ab"]
    assert [log.count("\nmade\n") for log in logs] == [1, 0]


def queue(place, text):
    """Start the queue as a process of its own."""
    (place / "list.toml").write_text(text)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(evidence.__file__).parent)!r}); import evidence, pathlib; "
        f"evidence.ROOT = pathlib.Path({str(place)!r}); "
        f"sys.exit(evidence.main(['--file', 'list.toml', '--results', 'results']))"
    )
    return subprocess.Popen([sys.executable, "-c", program], cwd=place, start_new_session=True)


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it has not happened"
        time.sleep(0.02)


def test_a_queue_that_is_killed_leaves_its_runs_to_save_and_goes_on(place):
    text = entry("a", steps=40, seconds=0.05)
    state = place / evidence.WORK / "a" / "state"
    process = queue(place, text)
    wait_for(lambda: state.exists() and int(state.read_text() or 0) >= 3)
    process.kill()
    process.wait()
    assert queue(place, text).wait(120) == 0
    steps = [int(row["env_step"]) for row in rows(place / "results" / "stubs" / "a.csv")]
    assert steps == list(range(1, 41))  # nothing was lost, and nothing done twice
    assert journal(place) == ["begin a", "end a"] * 2


def test_a_queue_that_is_stopped_says_so_and_keeps_what_there_is(place):
    process = queue(place, entry("a", steps=1_000, seconds=0.02))
    state = place / evidence.WORK / "a" / "state"
    wait_for(lambda: state.exists() and int(state.read_text() or 0) >= 3)
    process.terminate()
    assert process.wait(120) == evidence.INTERRUPTED
    assert len(rows(place / "results" / "stubs" / "a.csv")) >= 3
    assert not json.loads((place / "results" / "stubs" / "a.json").read_text())["finished"]


def test_a_real_run_that_is_killed_with_its_queue_loses_one_checkpoint_at_most(place):
    words = ["rlsuite", "train", "sac", "--env", "InvertedPendulum-v5", "--seed", "3", "--steps", "{steps}"]
    words += [
        "--warmup-steps",
        "20",
        "--agent.hidden",
        "8",
        "8",
        "--eval-every",
        "50",
        "--eval-episodes",
        "1",
    ]
    words += ["--checkpoint-every", "50", "--log-every", "10", "--threads", "1", "--out", "{out}"]
    text = f'[[entry]]\nname = "run"\ncommand = {json.dumps(words)}\nresults = "real"\nsteps = 400\n'
    run = place / evidence.WORK / "run"
    process = queue(place, text)

    def last_step():
        return max((line["step"] for line in evidence.lines_of(run)), default=0)

    wait_for(lambda: last_step() >= 110)
    os.kill(json.loads((run / "run.lock").read_text())["pid"], signal.SIGKILL)
    process.kill()
    process.wait()
    killed_at = last_step()
    assert queue(place, text).wait(300) == 0
    steps = [line["step"] for line in evidence.lines_of(run)]
    assert steps == list(range(10, 401, 10))
    discarded = run / "metrics.discarded.jsonl"
    lost = discarded.read_text().count("\n") * 10 if discarded.exists() else 0
    assert lost <= 50 + 10, killed_at
    record = json.loads((place / "results" / "real" / "run.json").read_text())
    assert record["finished"]
    assert record["runs"]["runs/evidence/run"]["meta"]["versions"]["torch"]
    evaluations = rows(place / "results" / "real" / "run.csv")
    assert [row["env_step"] for row in evaluations] == [str(step) for step in range(50, 401, 50)]


def test_pictures_come_from_the_csv_files_alone(place):
    assert call(place, entry("a"), entry("b", label="other")) == 0
    folder = place / "results" / "stubs"
    kept = {name: (folder / name).read_bytes() for name in ("summary.csv", "curves.png")}
    for path in [*folder.glob("*.json"), folder / "summary.csv", folder / "curves.png"]:
        path.unlink()
    assert evidence.main(["--draw", "--results", str(place / "results")]) == 0
    assert {name: (folder / name).read_bytes() for name in kept} == kept


def write_csv(path, head, columns, table):
    with path.open("w", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in head.items())
        csv.writer(file).writerows([columns, *table])


def test_blocks_are_means_and_a_window_takes_the_ends_of_late_tasks(tmp_path):
    columns = [*evidence.FIRST_COLUMNS, "m"]
    table = [
        ("x", "E", seed, step, 0, 0, (100 if step % 10 in (9, 0) and step > 20 else 0) + seed)
        for seed in (0, 2)
        for step in range(1, 41)
    ]
    head = {"entry": "a", "draw": "m", "block": 0, "window": "20 10 2"}
    write_csv(tmp_path / "a.csv", head, columns, table)
    (series,) = evidence.series_of(tmp_path)
    assert series.late() == (40, [100, 102])
    write_csv(tmp_path / "a.csv", {**head, "block": 10, "window": ""}, columns, table)
    (series,) = evidence.series_of(tmp_path)
    assert series.curves["2"] == {10: 2, 20: 2, 30: 22, 40: 22}
    assert series.late() == (40, [20, 22])


def test_labels_are_compared_where_both_have_two_seeds_at_one_step(tmp_path):
    one = evidence.Entry(name="one", command=("true",), results="r")
    head = dict.fromkeys(evidence.EVALUATION, "")
    ends = {"plain": (1.0, 3.0), "reset": (4.0, 8.0), "alone": (5.0,)}
    rows = [
        {"label": label, "env": "E", "seed": seed, "env_step": 10, **head, "eval/return_mean": value}
        for label, values in ends.items()
        for seed, value in enumerate(values)
    ]
    evidence.write_rows(tmp_path / "one.csv", one, rows)
    evidence.draw(tmp_path)
    (row,) = csv.DictReader((tmp_path / "differences.csv").open())
    assert (row["label"], row["less"], row["difference"]) == ("reset", "plain", "4")
    half = 13.83705  # t of 0.975 at 25 / 17 degrees, times sqrt(5): variances are 2 and 8, of two seeds each
    assert (float(row["low"]), float(row["high"])) == pytest.approx((4 - half, 4 + half), rel=1e-5)


def test_published_curves_are_kept_as_statistics(place, monkeypatch):
    source = place / "published.csv"
    table = [("E", "STUB", seed, step, 10 * seed + step) for seed in (1, 2, 3) for step in (2, 3)]
    table += [("E", "OTHER", 1, 3, 0), ("elsewhere", "STUB", 1, 3, 0)]
    write_csv(source, {}, ("env", "algorithm", "seed", "env_step", "mean_return"), table)
    monkeypatch.setenv(evidence.PUBLISHED_VARIABLE, str(source))
    assert call(place, entry("a") + 'published = { stub = "STUB" }\n') == 0
    folder = place / "results" / "stubs"
    (row,) = [row for row in rows(folder / "published.csv") if row["env_step"] == "3"]
    assert (row["label"], row["mean"], row["std"], row["low"], row["high"]) == (
        "stub",
        "23",
        "10",
        "13",
        "33",
    )
    summary = [row for row in csv.DictReader((folder / "summary.csv").open()) if row["whose"] == "published"]
    assert [row["mean"] for row in summary] == ["23"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[entry]]\nname = "a"\ncommand = []\nresults = "r"\ncolour = 1\n', "colour is no key"),
        ('[[entry]]\nname = "a"\nresults = "r"\n', "lacks command"),
        (entry("a") + entry("a"), "two entries a"),
    ],
)
def test_a_wrong_list_is_refused_in_one_line(place, text, message):
    (place / "list.toml").write_text(text)
    with pytest.raises(SystemExit, match=message):
        evidence.load(place / "list.toml")


def test_where_the_list_stands(place, capsys):
    assert call(place, entry("a"), words=["a"]) == 0
    capsys.readouterr()
    assert call(place, entry("a"), entry("b"), words=["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["a", "finished"], ["b", "waiting"]]


def committed():
    return evidence.load(evidence.LIST)


@pytest.mark.parametrize("one", committed(), ids=lambda one: one.name)
def test_every_command_of_the_list_is_understood(one, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evidence, "WORK", tmp_path)  # not what has run in this checkout
    words = evidence.words_of(one, 2)[1:]
    if words[0] == "-m":
        words = words[2:]
    for path, before in one.before.items():
        assert list(before[:3]) == ["rlsuite", "data", "make"]
        assert path.endswith(f"{before[3]}-v0")
    if words[0].endswith(".py"):
        script = {"sb3_baseline.py": sb3_baseline, "change_of_task.py": change_of_task}[Path(words[0]).name]
        script.parse(words[1:])
        assert (Path(evidence.LIST).parent.parent / words[0]).is_file()
    elif words[0] == "train":
        args, _ = parse_train(words[1], words[2:])
        assert args.train.steps == one.steps
    elif words[1] == "study":
        at = words.index("--") if "--" in words else len(words)
        assert bench.run([*words[1:at], "--status", *words[at:]]) == 0
        assert "waiting" in capsys.readouterr().out
    elif words[1] == "paper":
        seen = {}
        monkeypatch.setattr(paper, "carry_out", lambda plans, *_: seen.update(plans) or 75)
        assert bench.run(words[1:]) == 75
        contenders = words[words.index("--agents") + 1].split(",")
        assert len(seen) == one.seeds * len(contenders)
        assert {plan.config.train.steps for plan in seen.values()} == {one.steps}
    else:
        env = "gym:gymnasium_robotics:PointMaze_Medium-v3"  # the data are not here to say so
        monkeypatch.setattr("rlsuite.offline.load.environment_of", lambda name: env)
        monkeypatch.setattr(d4rl, "main", lambda args, extra: seen_plans(args, extra, one))
        assert bench.run(words[1:]) == 0


def seen_plans(args, extra, one):
    for name in d4rl.names(args.datasets):
        for agent in d4rl.names(args.agents):
            plan = d4rl.plan(name, agent, args, extra)
            assert (plan.config.train.steps, plan.config.train.seeds) == (one.steps, one.seeds)
    return 0
