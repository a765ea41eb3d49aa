"""What plug-ins cost: neuron resets per update, early stopping per env step.

    python benchmarks/plugin_cost.py --out FILE.csv

A reset costs the same at every period, so that its share of an update loop follows from three times: of an
update, of the call after each update, and of a whole reset. Timing two loops against each other would not
show one per cent on a machine that shares its cores. Turns alternate; each number is the median of all.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from races import write_csv
from tensordict import TensorDict
from workload import ACTION, OBSERVATION, filled_replay

from rlsuite.agents.base import Agent, Spaces, make_generators
from rlsuite.plugins.least import LEASTConfig, LEASTPlugin
from rlsuite.plugins.neurons.parts import ResetPlugin
from rlsuite.registry import agent_class, plugin_class

PERIOD = 1_000  # updates between resets: the papers'
LIMIT = 1_000  # env steps of an episode
ROWS = 10_000  # of the replay that updates draw from


@dataclass(frozen=True, slots=True)
class Row:
    """One measured time, and its share of an update or of a step with an update."""

    agent: str
    what: str
    microseconds: float
    share_of_update: float


def sample_agent(name: str) -> Agent:
    """Make an agent of HalfCheetah's sizes with its default fields."""
    kind = agent_class(name)
    spaces = Spaces(observation=OBSERVATION, action=ACTION, half_range=(1.0,) * ACTION)
    return kind(spaces, kind.Config(), make_generators(0))


def microseconds(work: Callable[[], Any], calls: int) -> float:
    """CPU time of one call, the mean of `calls`: what else the machine does does not count."""
    start = time.thread_time()
    for _ in range(calls):
        work()
    return (time.thread_time() - start) / calls * 1e6


def reset_rows(name: str, rounds: int) -> list[Row]:
    """Time updates, the call after each, and whole resets, in turns."""
    agent, replay = sample_agent(name), filled_replay(ROWS)

    def update() -> None:
        agent.update(replay.sample())

    def after(plugin: ResetPlugin) -> Callable[[], Any]:
        return lambda: plugin.after_update(agent)

    def reset(plugin: ResetPlugin) -> Callable[[], None]:
        def work() -> None:
            for own in plugin.resets.values():
                own.reset()

        return work

    works: dict[str, tuple[Callable[[], Any], int]] = {"update": (update, 5)}
    for kind in ("grama", "redo"):
        made = plugin_class(kind)
        plugin = made(made.Config(period=10**9), agent, torch.Generator().manual_seed(0))
        assert isinstance(plugin, ResetPlugin)
        works[f"{kind}: call after each update"] = (after(plugin), 50)
        works[f"{kind}: reset of actor and critics"] = (reset(plugin), 2)
    times: dict[str, list[float]] = {what: [] for what in works}
    for _ in range(rounds):
        for what, (work, calls) in works.items():
            if "reset of" in what:
                update()  # leaves gradients and activations to be scored
            times[what].append(microseconds(work, calls))
    found = {what: statistics.median(each) for what, each in times.items()}
    rows = [Row(name, what, spent, spent / found["update"]) for what, spent in found.items()]
    for kind in ("grama", "redo"):
        spent = (
            found[f"{kind}: call after each update"] + found[f"{kind}: reset of actor and critics"] / PERIOD
        )
        rows.append(Row(name, f"{kind}: per update at period {PERIOD:,}", spent, spent / found["update"]))
    return rows


def stop_rows(name: str, rounds: int) -> list[Row]:
    """Time early stopping on one world, before its start and with a full window, against an update."""
    agent, replay = sample_agent(name), filled_replay(ROWS)
    config = LEASTConfig(start=0.5)
    plugin = LEASTPlugin(config, agent, torch.Generator().manual_seed(0))
    plugin.begin(1, LIMIT, 10**9)
    assert plugin.least is not None
    plugin.least.values.uniform_(0, 1)
    plugin.least.errors.uniform_(0, 1)
    plugin.least.pushed.fill_(config.episodes)
    step = row_of(1)

    def mask() -> None:
        plugin.stop_mask(step)

    times: dict[str, list[float]] = {"update": [], "before the start": [], "after the start": []}
    for _ in range(rounds):
        times["update"].append(microseconds(lambda: agent.update(replay.sample()), 5))
        for what, start in (("before the start", 10**9), ("after the start", 0)):
            plugin.least.start_step.fill_(start)
            times[what].append(microseconds(mask, 20))
    found = {what: statistics.median(each) for what, each in times.items()}
    return [
        Row(name, f"least: env step {what}", found[what], found[what] / found["update"])
        for what in ("before the start", "after the start")
    ]


def row_of(worlds: int) -> TensorDict:
    """Return one env step of random numbers."""
    no = torch.zeros(worlds, 1, dtype=torch.bool)
    following = {"observation": torch.randn(worlds, OBSERVATION), "reward": torch.randn(worlds, 1)}
    flags = {"terminated": no, "truncated": no, "done": no}
    columns = {"observation": torch.randn(worlds, OBSERVATION), "action": torch.zeros(worlds, ACTION)}
    return TensorDict({**columns, "next": TensorDict({**following, **flags}, [worlds])}, [worlds])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--agents", nargs="+", default=["sac", "dsac_t"])
    parser.add_argument("--rounds", type=int, default=40)
    line = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [
        row for name in line.agents for row in (*reset_rows(name, line.rounds), *stop_rows(name, line.rounds))
    ]
    for row in rows:
        print(
            f"{row.agent:8} {row.what:38} {row.microseconds:10.1f} us {row.share_of_update:8.2%} of an update"
        )
    write_csv(line.out, rows, threads=1)


if __name__ == "__main__":
    main()
