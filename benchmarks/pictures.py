"""Draws the pictures of README and docs from the committed results: python benchmarks/pictures.py [NAME ...].

One function per picture. Each reads the CSV files of a folder of `benchmarks/results` and writes beside them;
the script that measured those files calls it, too. Published curves: `benchmarks/results/published.csv`,
which names its source. Not drawn here: docs/pictures/cvar_frontier.png (from examples/cvar_frontier.py), the
histograms of benchmarks/stock_risk.py (their returns are not kept), and animations (gallery.py).
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlsuite.report import STYLE

ROOT = Path(__file__).parents[1]
RESULTS, PICTURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "pictures"
GREY = "0.45"
BLUE, RED, GREEN, PURPLE, ORANGE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"
COLORS = {"dsac_t": BLUE, "sac": RED, "td3": GREEN, "stac": PURPLE, "iql": ORANGE}
NAMES = {"dsac_t": "DSAC-T", "sac": "SAC", "td3": "TD3", "stac": "STAC", "iql": "IQL"}
ARM_COLORS = {"plain": GREY, "grama": BLUE, "least": BLUE, "redo": RED}
ARM_NAMES = {"plain": "without", "grama": "GraMa", "least": "LEAST", "redo": "ReDo"}
LENGTH_BIN = 50  # env steps, of lengths.csv

Rows = list[dict[str, Any]]
Peer = tuple[str, str, str]  # environment and algorithm of published.csv, and the label
PEERS: Mapping[str, Peer] = {
    "halfcheetah_100k": ("HalfCheetah-v4", "SAC", "published SAC (LayerNorm, v4)"),
    "swimmer_sac": ("Swimmer-v4", "SAC", "published SAC"),
    "swimmer_stac": ("Swimmer-v4", "STAC", "published STAC"),
}


def read(path: Path) -> Rows:
    """Return the rows of a CSV file, numbers as numbers; lines that begin with # are comments."""
    with path.open(newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(lines)]


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


@contextmanager
def panels(path: Path, count: int, size: tuple[float, float], rows: int = 1) -> Iterator[Sequence[Any]]:
    """Yield axes of `size` inches each in the common style, row by row, and save the picture afterwards."""
    with pyplot.style.context(STYLE):
        figure, axes = pyplot.subplots(
            rows, count // rows, figsize=(size[0] * count / rows, size[1] * rows), squeeze=False
        )
        yield list(axes.flat)
        figure.savefig(path, metadata={"Software": None})
        pyplot.close(figure)


def steps_axis(axes: Any, label: str = "env steps") -> None:
    """Label an axis of steps: few ticks, thousands as k."""
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
    axes.set_xlabel(label)


def draw_seeds(axes: Any, rows: Rows, y: str, color: str, label: str, x: str = "env_step") -> None:
    """Draw the mean over seeds as a thick line, and every seed as a thin one of the same colour."""
    by_seed: dict[float, dict[float, float]] = {}
    for row in rows:
        if row[y] != "":
            by_seed.setdefault(row["seed"], {})[row[x]] = row[y]
    shared = sorted(set.intersection(*map(set, by_seed.values())))
    means = [np.mean([curve[step] for curve in by_seed.values()]) for step in shared]
    count = "1 seed" if len(by_seed) == 1 else f"mean of {len(by_seed)} seeds"
    axes.plot(shared, means, color=color, label=f"{label}, {count}")
    if len(by_seed) > 1:
        for curve in by_seed.values():
            axes.plot(list(curve), list(curve.values()), color=color, alpha=0.4, linewidth=0.8)


def draw_published(axes: Any, peer: Peer, last: float) -> None:
    """Draw a published curve's mean and range over seeds, up to the env step `last`."""
    env, algorithm, label = peer
    rows = [
        row for row in read(RESULTS / "published.csv") if (row["env"], row["algorithm"]) == (env, algorithm)
    ]
    rows = [row for row in rows if row["env_step"] <= last]
    steps = [row["env_step"] for row in rows]
    count = f"mean and range of {rows[0]['seeds']:.0f} seeds"
    axes.plot(steps, [row["mean"] for row in rows], "--", color=GREY, label=f"{label}, {count}")
    low, high = ([row[key] for row in rows] for key in ("least", "greatest"))
    axes.fill_between(steps, low, high, color=GREY, alpha=0.15, linewidth=0)


def draw_agents(axes: Any, rows: Rows, peer: Peer | None = None) -> None:
    """Draw the evaluation returns of every agent in `rows`, over a published curve where given."""
    x, agent = ("env_step", "agent") if "agent" in rows[0] else ("env_steps", "group")
    if peer is not None:
        draw_published(axes, peer, max(row[x] for row in rows))
    for number, name in enumerate(dict.fromkeys(row[agent] for row in rows)):
        mine = [row for row in rows if row[agent] == name]
        draw_seeds(axes, mine, "return_mean", COLORS.get(name, f"C{number}"), NAMES.get(name, name), x)
    steps_axis(axes)
    axes.set(title=rows[0]["env"], ylabel="evaluation return")
    axes.legend()


def learning_curves(folder: Path, peer: Peer | None = None) -> None:
    """Draw `curves.csv` of a folder as `curves.png`."""
    with panels(folder / "curves.png", 1, (6.4, 3.8)) as (axes,):
        draw_agents(axes, read(folder / "curves.csv"), peer or PEERS.get(folder.name))


def fine_tuning(folder: Path, begun: float = 25_000) -> None:
    """Draw returns before and after a run went online, as `curves.png`."""
    with panels(folder / "curves.png", 1, (6.4, 3.8)) as (axes,):
        draw_agents(axes, read(folder / "curves.csv"))
        axes.axvline(begun, color="0.3", linestyle=":", linewidth=1, label="online from here")
        axes.set(xlabel="offline updates, then env steps", ylim=(0, None))
        axes.legend()


def arms(folder: Path, name: str, metrics: Sequence[str]) -> None:
    """Draw returns, metrics and lengths of episodes with and without a plug-in, as `NAME.png`."""
    returns, shares = read(folder / "curves.csv"), read(folder / "arms.csv")
    episodes = read(folder / "lengths.csv")
    varied = len({row["from_length"] for row in episodes}) > 1  # else all episodes end in time
    shown = [("return_mean", returns), *((metric, shares) for metric in metrics)]
    with panels(folder / f"{name}.png", len(shown) + varied, (3.3, 3.0)) as every:
        for axes, (metric, rows) in zip(every, shown, strict=False):
            for arm in dict.fromkeys(row["arm"] for row in rows if row[metric] != ""):
                mine = [row for row in rows if row["arm"] == arm and row[metric] != ""]
                draw_seeds(axes, mine, metric, ARM_COLORS.get(arm, BLUE), ARM_NAMES.get(arm, arm))
            steps_axis(axes)
            title = metric.rpartition("/")[2].replace("_", " ")
            axes.set_title("evaluation return" if metric == "return_mean" else title)
        if varied:
            draw_lengths(every[-1], episodes)
        every[0].set_ylabel(returns[0]["env"])
        every[0].legend()


def draw_lengths(axes: Any, episodes: Rows) -> None:
    """Draw the share of training episodes by length, one outline for every arm."""
    for arm in dict.fromkeys(row["arm"] for row in episodes):
        mine = [row for row in episodes if row["arm"] == arm]
        edges = [row["from_length"] for row in mine]
        total = sum(row["episodes"] for row in mine)
        heights = dict(zip(edges, (row["episodes"] / total for row in mine), strict=True))
        bins = np.arange(0, max(edges) + 2 * LENGTH_BIN, LENGTH_BIN)
        label = f"{ARM_NAMES.get(arm, arm)}, {total:,.0f}"
        values = [heights.get(start, 0) for start in bins[:-1]]
        axes.stairs(values, bins, color=ARM_COLORS.get(arm, BLUE), linewidth=1.2, label=label)
    axes.set(
        title="training episodes by length", xlabel="env steps of an episode", ylabel="share", yscale="log"
    )
    axes.legend()


def draw_tasks(axes: Any, rows: Rows, key: str) -> None:
    """Draw a column over the tasks of one network: mean of the seeds and their range, by arm."""
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [row for row in rows if row["arm"] == arm]
        tasks = sorted({row["task"] for row in mine})
        values = np.array([[row[key] for row in mine if row["task"] == task] for task in tasks])
        label = "no resets" if arm == "plain" else ARM_NAMES[arm]
        axes.plot(tasks, values.mean(1), color=ARM_COLORS[arm], label=label)
        axes.fill_between(tasks, values.min(1), values.max(1), color=ARM_COLORS[arm], alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def plasticity(folder: Path) -> None:
    """Draw accuracy and inactive units over tasks, a column for every network, as `plasticity.png`."""
    rows = [row for path in sorted(folder.glob("*-*.csv"), reverse=True) for row in read(path)]
    keys = ("accuracy", "inactive_by_gradient", "inactive_by_activation")
    networks = sorted({row["network"] for row in rows})
    with panels(folder / "plasticity.png", 3 * len(networks), (3.4, 2.4), rows=3) as every:
        for place, axes in enumerate(every):
            network, key = networks[place % len(networks)], keys[place // len(networks)]
            draw_tasks(
                axes, sorted((r for r in rows if r["network"] == network), key=lambda r: r["arm"]), key
            )
            axes.set(ylim=(-0.03, 1.03))
            if place < len(networks):
                axes.set_title("MLP" if network == "perceptron" else network)
            if place % len(networks) == 0:
                axes.set_ylabel(key.replace("_", " "))
            if place // len(networks) == 2:
                axes.set_xlabel("task")
        every[0].legend(loc="lower left")


def danger_paths(folder: Path) -> None:
    """Draw the first seed's paths around the danger disc, a panel for every beta, as `paths.png`."""
    from rlsuite.envs.toys.risky_pointmass import CENTER, GOAL_RADIUS, RADIUS

    rows = read(folder / "paths.csv")
    betas = list(dict.fromkeys(row["beta"] for row in rows))
    nearest = {row["beta"]: row["nearest"] for row in reversed(read(folder / "berth.csv"))}
    with panels(folder / "paths.png", len(betas), (2.9, 3.2)) as every:
        for axes, beta in zip(every, betas, strict=True):
            axes.add_patch(pyplot.Circle(CENTER, RADIUS, color=RED, alpha=0.25, linewidth=0))
            axes.add_patch(pyplot.Circle((0, 0), GOAL_RADIUS, color=GREEN))
            mine = [row for row in rows if row["beta"] == beta]
            first = mine[0]["seed"]
            for episode in sorted({row["episode"] for row in mine}):
                places = [(r["x"], r["y"]) for r in mine if (r["seed"], r["episode"]) == (first, episode)]
                axes.plot(*zip(*places, strict=True), color=BLUE, linewidth=0.7, alpha=0.6)
                axes.plot(*places[0], ".", color="0.3", markersize=2)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.set_title(f"beta {beta:g}\nnearest to the disc's edge {nearest[beta]:+.3f}", fontsize=9)


def candidates(folder: Path, name: str) -> None:
    """Draw candidate skills of several states, by the critics' value, as `NAME-candidates.png`."""
    rows = read(folder / f"{name}-candidates.csv")
    goals = {row["state"]: (row["x"], row["y"]) for row in read(folder / f"{name}-goals.csv")}
    with panels(folder / f"{name}-candidates.png", len(goals), (3.6, 3.4)) as every:
        for axes, (state, goal) in zip(every, goals.items(), strict=True):
            mine = [row for row in rows if row["state"] == state]
            values = {row["candidate"]: row["value"] for row in mine}
            low, high = min(values.values()), max(values.values())
            best = next(row["candidate"] for row in mine if row["chosen"])
            for candidate in sorted(values, key=lambda c: (c == best, values[c])):
                places = [(row["x"], row["y"]) for row in mine if row["candidate"] == candidate]
                color = pyplot.get_cmap("viridis")((values[candidate] - low) / max(high - low, 1e-9))
                chosen = {"color": RED, "linewidth": 2.4, "label": "chosen"}
                line = chosen if candidate == best else {"color": color, "linewidth": 0.8, "alpha": 0.7}
                axes.plot(*zip(*places, strict=True), **line)
            start = (mine[0]["x"], mine[0]["y"])
            axes.plot(*start, "ko", markersize=5, label="start")
            reach = 1.15 * max(max(abs(r["x"] - start[0]), abs(r["y"] - start[1])) for r in mine)
            axes.set(xlim=(start[0] - reach, start[0] + reach), ylim=(start[1] - reach, start[1] + reach))
            axes.set(aspect="equal", title=f"values {low:.2f} (dark) to {high:.2f} (light)")
            axes.locator_params(nbins=5)
            draw_maze(axes.inset_axes((0.0, 0.0 if goal[1] > start[1] else 0.7, 0.3, 0.3)), start, goal)
        every[0].legend(loc="upper left")


def draw_maze(axes: Any, start: tuple[float, float], goal: tuple[float, float]) -> None:
    """Draw PointMaze's U with a start and a goal, small, for orientation."""
    axes.add_patch(pyplot.Rectangle((-1.5, -1.5), 3, 3, color="white"))
    axes.add_patch(pyplot.Rectangle((-1.5, -0.5), 2, 1, color="0.75"))
    axes.plot(*start, "ko", markersize=3)
    axes.plot(*goal, "*", color=GREEN, markersize=8)
    axes.set(xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), aspect="equal", facecolor="0.75", xticks=(), yticks=())
    axes.grid(visible=False)


def bimodal(folder: Path) -> None:
    """Draw histograms of recorded and of sampled actions, as `bimodal.png`."""
    rows, inside = read(folder / "bimodal_counts.csv"), read(folder / "bimodal.csv")
    titles = {"recorded": "recorded", "diffusion": "diffusion prior", "gaussian": "Gaussian prior"}
    with panels(folder / "bimodal.png", len(inside), (3.4, 2.6)) as every:
        for axes, share in zip(every, inside, strict=True):
            mine = [row for row in rows if row["source"] == share["source"]]
            width = mine[1]["action"] - mine[0]["action"]
            for side in (-0.9, 0.9):
                axes.axvspan(side - 0.1, side + 0.1, color=GREEN, alpha=0.2, linewidth=0)
            axes.bar([row["action"] for row in mine], [row["count"] for row in mine], width, color=BLUE)
            axes.set(
                title=f"{titles[share['source']]}: {100 * share['inside']:.1f} % inside", xlabel="action"
            )
        every[0].set_ylabel("samples")


def stocks(folder: Path) -> None:
    """Draw achieved against requested returns, and CVaR against its level, as `risky_grid.png`."""
    rows = read(folder / "values.csv")
    tails = read(folder / "cvar.csv") if (folder / "cvar.csv").exists() else []
    with panels(folder / "risky_grid.png", 2, (4.6, 3.4)) as (left, right):
        for name, color, label in (
            ("mean", GREY, "mean objective (QR-DQN)"),
            ("target", RED, "target return"),
        ):
            mine = [row for row in rows if row["objective"] == name]
            asked = sorted({-row["stock"] for row in mine})
            at = [[row for row in mine if row["stock"] == -request] for request in asked]
            means = np.array([np.mean([row["mean_return"] for row in each]) for each in at])
            stds = np.array([np.mean([row["return_std"] for row in each]) for each in at])
            if asked:
                left.plot(asked, means, "o-", markersize=4, color=color, label=label)
                left.fill_between(asked, means - stds, means + stds, color=color, alpha=0.12, linewidth=0)
        requests = sorted({-row["stock"] for row in rows})
        left.plot(requests, requests, ":", color="0.2", linewidth=1, label="as requested")
        left.set(
            xlabel="requested return", ylabel="return: mean, band of one std", title="Returns on request"
        )
        left.legend(loc="upper left")
        for name, color in (("lower", BLUE), ("upper", GREEN)):
            mine = [row for row in tails if row["objective"] == name]
            exact = sorted({(row["tau"], row["optimum"]) for row in mine})
            if mine:
                right.plot(*zip(*exact, strict=True), color=color, label=f"{name} tail, optimum")
                points = [(row["tau"], row["achieved"]) for row in mine]
                right.plot(
                    *zip(*points, strict=True), "o", color=color, markersize=4, label="attained, every seed"
                )
        right.set(xlabel="level of the tail", ylabel="CVaR of the return", title="Best tails")
        if tails:
            right.legend()


def strip(picture: Path) -> None:
    """Draw the README's strip: two learning curves over published ones, and what resets keep alive."""
    with panels(picture, 3, (3.9, 3.3)) as (cheetah, swimmer, labels):
        for axes, folder in ((cheetah, "halfcheetah_100k"), (swimmer, "swimmer_stac")):
            draw_agents(axes, read(RESULTS / folder / "curves.csv"), PEERS[folder])
            axes.legend(fontsize=6.5, loc="upper left")
        cheetah.set(ylim=(-900, 8_700))
        swimmer.set(ylim=(-60, 155), ylabel=None)
        rows = [row for path in sorted((RESULTS / "plasticity").glob("denoiser-*.csv")) for row in read(path)]
        draw_tasks(labels, rows, "accuracy")
        labels.set(title="One network, task after task", xlabel="task (new random labels)", ylim=(0, 1.03))
        labels.set_ylabel("accuracy, mean and range of 5 seeds")
        labels.legend(loc="lower left")


ALL: Mapping[str, Callable[[], None]] = {
    "halfcheetah": lambda: learning_curves(RESULTS / "halfcheetah_100k"),
    "swimmer_sac": lambda: learning_curves(RESULTS / "swimmer_sac"),
    "swimmer_stac": lambda: learning_curves(RESULTS / "swimmer_stac"),
    "mountain_car": lambda: learning_curves(RESULTS / "mountain_car"),
    "hopper": lambda: fine_tuning(RESULTS / "hopper_finetune"),
    "grama": lambda: arms(RESULTS / "grama", "grama", ("grama/inactive_critic", "grama/inactive_actor")),
    "least": lambda: arms(RESULTS / "least", "least", ("least/stop_rate", "least/noise")),
    "plasticity": lambda: plasticity(RESULTS / "plasticity"),
    "paths": lambda: danger_paths(RESULTS / "risky_pointmass"),
    "candidates": lambda: candidates(RESULTS / "skills", "ldcq-B"),
    "bimodal": lambda: bimodal(RESULTS / "skills"),
    "stocks": lambda: stocks(RESULTS / "return_distributions"),
    "strip": lambda: strip(PICTURES / "strip.png"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the named pictures, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(ALL)}; none: all")
    for name in parser.parse_args(argv).names or ALL:
        ALL[name]()


if __name__ == "__main__":
    main()
