"""Measures loss of plasticity, and what neuron resets do about it: two experiments with random labels.

    python benchmarks/plasticity.py --out FOLDER
    python benchmarks/plasticity.py --experiment planted --out FOLDER

`labels`: every task gives the same inputs new random labels, and the network goes on from the weights and
moments it has. One that has lost plasticity can no longer fit them. At the end of each task stands the
accuracy on its labels, and the share of inactive units by both scores: GraMa's of gradients and ReDo's of
activations. What is finished already (one file for each network and arm) is not trained again.

`planted`: most units of a fresh network are made useless, in a way that one of the scores is said to miss.
Saturated tanh units are as active as can be and get no gradient; dead ReLU units behind a norm are silent,
while their weights get a gradient from the others. Which of them each score finds before the first update,
and how well the network fits one set of random labels afterwards with and without resets, goes to
`planted.csv`.

Seeds are a leading axis of one process.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pictures
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.blocks.networks import Network, network
from rlsuite.blocks.noise import normal
from rlsuite.plugins.grama import GraMa
from rlsuite.plugins.neurons.resets import NeuronReset
from rlsuite.plugins.neurons.scores import inactive_share
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
    resets: dict[str, type[NeuronReset]] = {"grama": GraMa, "redo": ReDo}
    if name == "plain":
        return None
    return resets[name](tau=at.tau, period=at.period, generator=generators)


def draw(high: int, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw whole numbers below `high`, `[S, count]`, one row from each seed's stream."""
    return torch.stack([torch.randint(high, (count,), generator=each) for each in generators])


def streams(seeds: int, first: int = 0) -> tuple[torch.Generator, ...]:
    """Return a random stream for each seed."""
    return tuple(torch.Generator().manual_seed(first + seed) for seed in range(seeds))


def learn(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor) -> None:
    """Take one step on the cross-entropy of labels `[S, N]` of inputs `[S, N, I]`, every seed by itself."""
    loss = F.cross_entropy(net(x).flatten(0, 1), labels.flatten(), reduction="none")
    optimizer.zero_grad()
    loss.view(len(x), -1).mean(-1).sum().backward()
    optimizer.step()


@torch.no_grad()
def accuracy_of(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Share of labels `[S, N]` that the network gives, `[S]`."""
    return (net(x).argmax(-1) == labels).float().mean(-1)


def train(net_name: str, arm_name: str, at: Setting) -> Iterator[dict[str, Any]]:
    """Train all seeds of one network and arm; yield a row for every seed and task."""
    generators = streams(at.seeds)
    trunk, fields = NETWORKS[net_name]
    x = normal(torch.empty(at.seeds, at.samples, at.inputs), generators)
    sizes = (at.inputs, at.hidden, at.classes)
    net = network(trunk, *sizes, lead=(at.seeds,), generator=generators, **fields)
    optimizer = torch.optim.Adam(net.parameters(), lr=at.lr, fused=True)
    example = (x[:, :2],)
    reset = arm(arm_name, at, streams(at.seeds, 1000))
    if reset is not None:
        reset.attach(net, optimizer, example=example)
    meters: list[NeuronReset] = [GraMa(tau=TAU_GRADIENT), ReDo(tau=TAU_ACTIVATION)]
    for meter in meters:
        meter.attach(net, example=example)
    for task in range(at.tasks):
        labels = draw(at.classes, at.samples, generators)
        for _ in range(at.updates):
            batch = draw(at.samples, at.batch, generators)
            inputs = x.gather(1, batch.unsqueeze(-1).expand(-1, -1, at.inputs))
            learn(net, optimizer, inputs, labels.gather(1, batch))
            if reset is not None:
                reset.step()
        by_gradient, by_activation = (inactive_share(meter.report()) for meter in meters)
        accuracy = accuracy_of(net, x, labels)
        for seed in range(at.seeds):
            values = (accuracy[seed], by_gradient[seed], by_activation[seed])
            measured = [round(value.item(), 4) for value in values]
            yield dict(zip(COLUMNS, (net_name, arm_name, seed, task, *measured), strict=True))


PLANTED_COLUMNS = (
    "network",
    "arm",
    "seed",
    "recall_by_gradient",
    "recall_by_activation",
    "recall_without_scales",
    "false_by_gradient",
    "false_by_activation",
    "false_without_scales",
    "accuracy",
)
RECALLS = PLANTED_COLUMNS[3:6]
SATURATION, SHIFT = 8.0, -10.0  # biases of saturated tanh units; norm shifts of dead ReLU units


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Sizes of the experiment with planted units: our choice."""

    seeds: int = 5
    samples: int = 256
    inputs: int = 20
    classes: int = 10
    hidden: tuple[int, ...] = (64, 64, 64)
    lr: float = 3e-3
    updates: int = 300
    """On all samples at once."""
    period: int = 50
    """Updates between resets."""


def saturate(net: nn.Module, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Saturate nine of ten units of every hidden layer; return which, `[S, H]`, by layer."""
    planted = {}
    layers: list[tuple[str, Any]] = list(net.named_children())[:-2:2]
    for name, layer in layers:
        seeds, width = layer.bias.shape
        chosen = torch.arange(width) < round(0.9 * width)
        sign = draw(2, width, generators) * 2 - 1
        layer.bias.data = torch.where(chosen, SATURATION * sign, layer.bias)
        planted[name] = chosen.expand(seeds, -1)
    return planted


def silence(net: nn.Module, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
    """Kill 94 of a hundred units behind every norm before an activation; return which, `[S, H]`, by layer."""
    blocks = range(len(net.get_submodule("blocks")))  # type: ignore[arg-type]
    planted = {}
    for layer, norm in [("stem", "stem_norm"), *((f"blocks.{i}.0", f"blocks.{i}.1") for i in blocks)]:
        shift: Any = net.get_submodule(norm).bias
        seeds, width = shift.shape
        chosen = torch.arange(width) < round(0.94 * width)
        shift.data = torch.where(chosen, SHIFT, shift)
        planted[layer] = chosen.expand(seeds, -1)
    return planted


class Planting(NamedTuple):
    """A network, what is planted in it, and the arms that are trained."""

    trunk: Network
    fields: Mapping[str, Any]
    plant: Callable[[nn.Module, Sequence[torch.Generator]], dict[str, Tensor]]
    arms: tuple[str, ...]


PLANTINGS = {
    "perceptron, saturated tanh": Planting("mlp", {"activation": "tanh"}, saturate, ARMS),
    "residual, dead behind norms": Planting("bronet", {}, silence, (*ARMS, "grama without scales")),
}


def planted_arm(name: str, at: Planted) -> NeuronReset | None:
    """Make the reset of an arm, with its paper's threshold; None for the plain one."""
    common: dict[str, Any] = {"period": at.period, "generator": streams(at.seeds, 1000)}
    if name == "plain":
        return None
    if name == "redo":
        return ReDo(tau=TAU_ACTIVATION, **common)
    return GraMa(tau=TAU_GRADIENT, norms=name == "grama", **common)


def shares(meter: NeuronReset, planted: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return which share of the planted units a score flags, and which of all others, `[S]` each."""
    scores = meter.report()
    flagged = torch.cat([scores[name].inactive for name in planted], -1)
    chosen = torch.cat(list(planted.values()), -1)
    return tuple((flagged & mask).sum(-1) / mask.sum(-1) for mask in (chosen, ~chosen))  # type: ignore[return-value]


def plant(net_name: str, arm_name: str, at: Planted) -> list[dict[str, Any]]:
    """Plant units in all seeds of one network, measure, train with one arm; return a row for every seed."""
    generators = streams(at.seeds)
    planting = PLANTINGS[net_name]
    x = normal(torch.empty(at.seeds, at.samples, at.inputs), generators)
    labels = draw(at.classes, at.samples, generators)
    sizes = (at.inputs, at.hidden, at.classes)
    net = network(planting.trunk, *sizes, lead=(at.seeds,), generator=generators, **planting.fields)
    planted = planting.plant(net, generators)
    optimizer = torch.optim.Adam(net.parameters(), lr=at.lr, fused=True)
    meters = [GraMa(tau=TAU_GRADIENT), ReDo(tau=TAU_ACTIVATION), GraMa(tau=TAU_GRADIENT, norms=False)]
    for meter in meters:
        meter.attach(net, example=(x[:, :2],))
    reset = planted_arm(arm_name, at)
    if reset is not None:
        reset.attach(net, optimizer, example=(x[:, :2],))
    for update in range(at.updates):
        if reset is not None and update:  # not after the last one: what it cuts could not be learnt again
            reset.step()
        learn(net, optimizer, x, labels)
        if update == 0:  # the gradients and activations of the network as it was planted
            recalls, falses = zip(*(shares(meter, planted) for meter in meters), strict=True)
            for meter in meters:
                meter.detach()
    measured = torch.stack([*recalls, *falses, accuracy_of(net, x, labels)], -1)
    return [
        dict(zip(PLANTED_COLUMNS, (net_name, arm_name, seed, *(round(v, 4) for v in values)), strict=True))
        for seed, values in enumerate(measured.tolist())
    ]


def main(
    argv: Sequence[str] | None = None, at: Setting | None = None, planted: Planted | None = None
) -> None:
    """Run an experiment at its usual sizes unless others are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--experiment", choices=("labels", "planted"), default="labels")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments of dead units; each costs a hundred times a number
    args.out.mkdir(parents=True, exist_ok=True)
    if args.experiment == "planted":
        run_planted(args.out, planted or Planted())
    else:
        run_labels(args.out, at or Setting())


def run_labels(out: Path, at: Setting) -> None:
    """Train what is not there yet, then draw."""
    for net in NETWORKS:
        for name in ARMS:
            path = out / f"{net.replace(' ', '_')}-{name}.csv"
            if path.exists():
                continue
            rows = list(train(net, name, at))
            write_csv(path, COLUMNS, rows)
            last = [row["accuracy"] for row in rows if row["task"] == at.tasks - 1]
            print(f"{net}, {LABELS[name]}: accuracy on the last task {np.mean(last):.3f}", flush=True)
    pictures.plasticity(out)


def run_planted(out: Path, at: Planted) -> None:
    """Train every arm of every planted network, print, and write one table."""
    rows = []
    for net, planting in PLANTINGS.items():
        for name in planting.arms:
            begun = time.process_time()
            rows += plant(net, name, at)
            new = rows[-at.seeds :]
            recalls = ", ".join(f"{key[7:]} {np.mean([row[key] for row in new]):.3f}" for key in RECALLS)
            accuracies = " ".join(f"{row['accuracy']:.3f}" for row in new)
            seconds = time.process_time() - begun
            print(f"{net}, {name}: recall {recalls}; accuracy {accuracies}; {seconds:.1f} CPU s", flush=True)
    write_csv(out / "planted.csv", PLANTED_COLUMNS, rows)


if __name__ == "__main__":
    main()
