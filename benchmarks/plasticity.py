"""Loss of plasticity, and what neuron resets do about it: random labels, drawn anew again and again.

    python benchmarks/plasticity.py --out FOLDER

Every task gives the same inputs new random labels, and the network goes on from the weights and moments it
has. One that has lost plasticity can no longer fit them. At the end of each task stands the accuracy on its
labels, and the share of inactive units by both scores: GraMa's of gradients and ReDo's of activations. Seeds
are a leading axis of one process. What is finished already (one file for each network and arm) is not trained
again.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rlsuite.blocks.networks import network
from rlsuite.blocks.noise import normal
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.neurons.resets import NeuronReset, inactive_share
from rlsuite.plugins.redo import ReDo
from rlsuite.report.comparison import write_csv

TAU_GRADIENT, TAU_ACTIVATION = 0.01, 0.025  # thresholds of what is reported: the papers'
COLUMNS = ("network", "arm", "seed", "task", "accuracy", "inactive_by_gradient", "inactive_by_activation")
NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "perceptron": ("mlp", {}),
    "residual with norms": ("bronet", {}),
    "denoiser": ("denoiser", {"steps": 2}),
}
ARMS = ("plain", "grama", "redo")
LABELS = {"plain": "no resets", "grama": "GraMa", "redo": "ReDo"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Sizes of the experiment: all our choice, small enough for one core."""

    seeds: int = 5
    tasks: int = 30
    updates: int = 150
    """Updates on every task."""
    samples: int = 256
    inputs: int = 32
    classes: int = 10
    batch: int = 64
    hidden: tuple[int, ...] = (64, 64, 64)
    lr: float = 3e-3
    """Ten times the usual: what takes many tasks otherwise happens within thirty."""
    tau: float = 0.05
    """Threshold of both kinds of resets."""
    period: int = 50
    """Updates between resets."""


def arm(name: str, at: Setting, generators: tuple[torch.Generator, ...]) -> NeuronReset | None:
    """Make the reset of an arm; None for the plain one."""
    kinds: dict[str, type[NeuronReset]] = {"grama": GraMa, "redo": ReDo}
    if name == "plain":
        return None
    return kinds[name](tau=at.tau, period=at.period, generator=generators)


def draw(high: int, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw whole numbers below `high`, `[S, count]`, one row from each seed's stream."""
    return torch.stack([torch.randint(high, (count,), generator=own) for own in generators])


def train(net_name: str, arm_name: str, at: Setting) -> Iterator[dict[str, Any]]:
    """Train all seeds of one network and arm; yield a row for every seed and task."""
    generators = tuple(torch.Generator().manual_seed(seed) for seed in range(at.seeds))
    resets = tuple(torch.Generator().manual_seed(1000 + seed) for seed in range(at.seeds))
    kind, fields = NETWORKS[net_name]
    x = normal(torch.empty(at.seeds, at.samples, at.inputs), generators)
    sizes = (at.inputs, at.hidden, at.classes)
    net = network(kind, *sizes, lead=(at.seeds,), generator=generators, **fields)
    optimizer = torch.optim.Adam(net.parameters(), lr=at.lr, fused=True)
    example = (x[:, :2],)
    own = arm(arm_name, at, resets)
    if own is not None:
        own.attach(net, optimizer, example=example)
    meters: list[NeuronReset] = [GraMa(tau=TAU_GRADIENT), ReDo(tau=TAU_ACTIVATION)]
    for meter in meters:
        meter.attach(net, example=example)
    for task in range(at.tasks):
        labels = draw(at.classes, at.samples, generators)
        for _ in range(at.updates):
            rows = draw(at.samples, at.batch, generators)
            logits = net(x.gather(1, rows.unsqueeze(-1).expand(-1, -1, at.inputs)))
            loss = F.cross_entropy(logits.flatten(0, 1), labels.gather(1, rows).flatten(), reduction="none")
            optimizer.zero_grad()
            loss.view(at.seeds, -1).mean(-1).sum().backward()
            optimizer.step()
            if own is not None:
                own.step()
        by_gradient, by_activation = (inactive_share(meter.report()) for meter in meters)
        with torch.no_grad():
            accuracy = (net(x).argmax(-1) == labels).float().mean(-1)
        for seed in range(at.seeds):
            numbers = (accuracy[seed], by_gradient[seed], by_activation[seed])
            measured = [round(number.item(), 4) for number in numbers]
            yield dict(zip(COLUMNS, (net_name, arm_name, seed, task, *measured), strict=True))


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of every file of the folder, numbers as numbers."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                words = {key: row[key] for key in COLUMNS[:2]}
                rows.append({**words, **{key: float(row[key]) for key in COLUMNS[2:]}})
    return rows


def plot(rows: Sequence[dict[str, Any]], picture: Path) -> None:
    """Draw accuracy and both shares of inactive units over tasks: mean of the seeds, and their extremes."""
    nets = [name for name in NETWORKS if any(row["network"] == name for row in rows)]
    figure, axes = plt.subplots(
        3, len(nets), figsize=(4 * len(nets), 8), sharex=True, sharey="row", squeeze=False
    )
    for column, net in enumerate(nets):
        for axis, key in zip(axes[:, column], COLUMNS[4:], strict=True):
            for name in ARMS:
                own = [row for row in rows if row["network"] == net and row["arm"] == name]
                if not own:
                    continue
                tasks = sorted({row["task"] for row in own})
                values = np.array([[row[key] for row in own if row["task"] == task] for task in tasks])
                axis.plot(tasks, values.mean(1), label=LABELS[name])
                axis.fill_between(tasks, values.min(1), values.max(1), alpha=0.2)
            axis.set_ylabel(key.replace("_", " ") if column == 0 else "")
            axis.grid(alpha=0.3)
        axes[0, column].set_title(net)
        axes[-1, column].set_xlabel("task")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def main(argv: Sequence[str] | None = None, at: Setting | None = None) -> None:
    """Train what is not there yet, at the usual sizes unless others are given, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    line = parser.parse_args(argv)
    at = Setting() if at is None else at
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments of dead units; each costs a hundred times a number
    line.out.mkdir(parents=True, exist_ok=True)
    for net in NETWORKS:
        for name in ARMS:
            path = line.out / f"{net.replace(' ', '_')}-{name}.csv"
            if path.exists():
                continue
            rows = list(train(net, name, at))
            write_csv(path, COLUMNS, rows)
            last = [row["accuracy"] for row in rows if row["task"] == at.tasks - 1]
            print(f"{net}, {LABELS[name]}: accuracy on the last task {np.mean(last):.3f}", flush=True)
    plot(read(line.out), line.out / "plasticity.png")


if __name__ == "__main__":
    main()
