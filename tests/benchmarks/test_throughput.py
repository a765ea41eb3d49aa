"""Races, in turns too short to mean anything."""

import sys
import time

import contenders
import pytest
import throughput
import torch
import turns
from races import Routine, race
from throughput import Entry, Goal, Race, Turn
from torch.utils.flop_counter import FlopCounterMode
from workload import SPACES, filled_replay

from rlsuite.agents.base import make_generators
from rlsuite.registry import agent_class


def test_ratios_are_of_speeds_and_work_comes_in_whole_grains():
    asked = []

    def slow(count):
        asked.append(count)
        time.sleep(count * 2e-3)

    rows = list(
        race("r", "u/s", [Routine("slow", slow, 5), Routine("fast", slow_by_half)], seconds=0.04, rounds=3)
    )
    assert all(count % 5 == 0 for count in asked)
    assert [row.contender for row in rows] == ["slow", "fast"]
    assert rows[0].ratio == 1
    assert rows[1].ratio == pytest.approx(2, rel=0.3)
    assert rows[1].ratio_low <= rows[1].ratio <= rows[1].ratio_high


def slow_by_half(count):
    time.sleep(count * 1e-3)


# Contenders in processes of their own.

SLEEPER = """
import sys, time
sys.path.insert(0, {folder!r})
from turns import Gate, Unavailable, answer, claim_output, turns
claim_output()
print("libraries print")
{body}
"""
ASLEEP = "for count in turns(): time.sleep(count * {seconds})"


def process(body):
    """A contender's process that needs the standard library alone."""
    return turns.Process([sys.executable, "-c", SLEEPER.format(folder=str(throughput.HERE), body=body)], [])


def contender(name, seconds, *, copies=1, grain=1):
    return turns.Contender(name, [process(ASLEEP.format(seconds=seconds)) for _ in range(copies)], grain)


def test_a_contender_works_when_it_is_told_to_and_says_what_it_cost():
    sleeper = contender("sleeper", 1e-3, grain=3)
    try:
        cost = sleeper.work(30)
        assert cost.units == 30
        assert 0.03 <= cost.wall_seconds < 1
        assert cost.cpu_seconds < cost.wall_seconds
        assert 1 < cost.peak_mib < 200
        assert sleeper.processes[0].versions["python"] == sys.version.split()[0]
        count = sleeper.fill(0.06, "wall_seconds")
        assert count % 3 == 0
        assert 6 <= count <= 60
    finally:
        sleeper.close()
    assert sleeper.processes[0].process.poll() is not None


def test_processes_that_share_the_work_do_it_at_the_same_time():
    pair = contender("pair", 2e-2, copies=2)
    try:
        start = time.perf_counter()
        cost = pair.work(40)
        assert time.perf_counter() - start < 0.75  # one after the other: 0.8
        assert cost.units == 40
        assert cost.wall_seconds >= 0.4
    finally:
        pair.close()


def test_a_gate_lets_a_loop_do_what_a_turn_asks_for():
    loop = "gate, done = Gate(5), 0\nwhile gate.passed(done): done += 1\nassert done == 5 + 7 + 2"
    looped = process(loop)
    for count in (7, 2):
        looped.start(count)
        assert looped.finish().units == count
    looped.close()
    assert looped.process.returncode == 0


def test_a_contender_that_cannot_run_says_why():
    with pytest.raises(turns.Unavailable, match="no such library"):
        process("answer({'unavailable': 'no such library'})")
    with pytest.raises(RuntimeError, match="exit code 3"):
        process("sys.exit(3)")


def test_a_race_alternates_and_leaves_out_who_is_missing(monkeypatch, capsys):
    speeds = {"slow": 2e-3, "fast": 1e-3}

    def begin(entry, threads):
        if entry.name not in speeds:
            raise turns.Unavailable("it is not installed")
        return contender(entry.name, speeds[entry.name])

    monkeypatch.setattr(throughput, "begin", begin)
    one = Race(
        "unit", tuple(map(Entry, ("slow", "absent", "fast"))), ("slow",), (Goal("fast", "slow", None, 1.2),)
    )
    monkeypatch.setattr(throughput, "RACES", {"sleep": one})
    rows = list(throughput.run_race("sleep", one, 2, seconds=0.05, rounds=2, origins={}))
    assert [(row.round, row.contender) for row in rows] == [
        (0, "slow"), (0, "fast"), (1, "fast"), (1, "slow")
    ]  # fmt: skip
    assert "absent: left out: it is not installed" in capsys.readouterr().out
    assert throughput.ratio(rows, "fast", "slow").median == pytest.approx(2, rel=0.4)
    assert "goal: fast 1.2 x slow" in "\n".join(throughput.summary(rows))


def turn(name, round_, cpu, wall, threads=1):
    return Turn("updates", name, threads, round_, "update", 10, cpu, wall, 0.5, 100.0)


def test_one_thread_counts_cpu_time_and_two_the_wall_clock(tmp_path):
    rows = [turn("sb3 sac", at, 2.0, 8.0) for at in range(3)]
    rows += [turn("sac compiled", at, cpu, 4.0) for at, cpu in enumerate((1.0, 1.25, 0.8))]
    found = throughput.ratio(rows, "sac compiled", "sb3 sac")
    assert tuple(found) == pytest.approx((1.6, 2.0, 2.5))
    both = [Turn(**{**{f: getattr(r, f) for f in Turn.__slots__}, "threads": 2}) for r in rows]
    assert tuple(throughput.ratio(both, "sac compiled", "sb3 sac")) == (2, 2, 2)
    assert throughput.ratio(rows, "sac compiled", "absent") is None
    lines = "\n".join(throughput.summary(rows))
    assert "goal: sac compiled 1.8 x sb3 sac: 2.00 [1.60, 2.50]: met" in lines
    throughput.write(tmp_path / "t.csv", rows, {"seeds": "0"}, {"here": "torch 1"})
    assert throughput.read(tmp_path / "t.csv") == rows
    head = (tmp_path / "t.csv").read_text()
    for fact in ("# command: ", "# commit: ", "# cpu: ", "# seeds: 0", "# versions, here: torch 1"):
        assert fact in head


def test_the_limit_has_the_products_of_our_update():
    kind = agent_class("sac")
    agent, replay = kind(SPACES, kind.Config(), make_generators(0)), filled_replay(300)
    batch = replay.sample()
    with FlopCounterMode(display=False) as counter:
        agent.update(batch)
    products = list(contenders.sac_products())
    count = sum(members * rows * inner * columns for members, rows, inner, columns in products)
    assert 2 * count == counter.get_total_flops()


def test_turns_of_training_are_env_steps_of_the_real_loop(monkeypatch):
    asked, seen = [7, 5], []

    def fake_turns():
        for count in asked:
            before = done()
            yield count
            seen.append(done() - before)

    real = contenders._Turnstile
    stiles = []

    def turnstile(run, seeds):
        stiles.append(real(run, seeds))
        return stiles[-1]

    def done():
        return stiles[-1].run.clock.env_steps

    monkeypatch.setattr(contenders, "WARM_UP", 20)
    monkeypatch.setattr(contenders, "SETTLE", 3)
    monkeypatch.setattr(contenders, "TASK", "InvertedPendulum-v5")
    monkeypatch.setattr(contenders, "_Turnstile", turnstile)
    monkeypatch.setattr(turns, "turns", fake_turns)
    threads = torch.get_num_threads()
    contenders.training("sac", 1, compile_it=False)
    torch.set_num_threads(threads)
    assert seen == asked
    run = stiles[-1].run
    assert (run.clock.env_steps, run.clock.updates) == (20 + 3 + 12, 15)


@pytest.mark.parametrize("name", [one.name for race in throughput.RACES.values() for one in race.entries])
def test_every_entry_is_somebodys_contender(name):
    assert name in {**contenders.CONTENDERS, **throughput.peers.CONTENDERS}


def test_every_goal_and_peer_is_an_entry():
    for raced in throughput.RACES.values():
        labels = {entry.label for entry in raced.entries}
        assert labels >= set(raced.peers) | {goal.contender for goal in raced.goals}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nonsense", "unknown race nonsense"),
        ("--threads 4096", "cores"),
        ("--rounds 0", "must be above 0"),
    ],
)
def test_a_wrong_line_is_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        throughput.parse(words.split())
    assert message in capsys.readouterr().err


def test_a_real_contender_races_from_the_command_to_the_csv(tmp_path, capsys):
    out = tmp_path / "t.csv"
    words = "updates --threads 1 --seconds 0.02 --rounds 2 --only"
    assert throughput.main([*words.split(), "products alone", "--out", str(out)]) == 0
    rows = throughput.read(out)
    assert [row.round for row in rows] == [0, 1]
    assert all(row.units > 0 and row.cpu_seconds > 0 and row.wall_seconds > 0 for row in rows)
    assert throughput.main(["--read", str(out)]) == 0
    assert capsys.readouterr().out.count("products alone") == 2
