"""State that a run must keep to resume exactly: named tensors of agent and optimisers, sums of the loop."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.optim import Adam as TorchAdam

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent
from rlsuite.agents.optim import GuardedOptimizer
from rlsuite.errors import DataError
from rlsuite.offline.scores import Reference
from rlsuite.runs.tensorfile import check_like

UPDATE_COUNT = "update_count"
ADAM_KEYS = {"step", "exp_avg", "exp_avg_sq"}


def agent_tensors(agent: Agent) -> dict[str, Tensor]:
    """Return every parameter and buffer of `agent` once, by name, and its update count."""
    named = {**dict(agent.named_parameters()), **dict(agent.named_buffers())}
    return {
        **{name: tensor.detach() for name, tensor in named.items()},
        UPDATE_COUNT: agent.get_extra_state(),
    }


def load_agent_tensors(agent: Agent, saved: Mapping[str, Tensor]) -> None:
    """Copy `saved` into `agent` in place.

    Raises:
        DataError: a name is missing or unknown, or a shape differs; nothing is copied then.
    """
    present = agent_tensors(agent)
    saved = of_today(saved, present)
    check_like("agent", saved, present)
    with torch.no_grad():
        for name, tensor in present.items():
            tensor.copy_(saved[name])
    agent.set_extra_state(saved[UPDATE_COUNT])


def of_today(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `saved` as today's agents have it: counts with an axis, and doubles that were floats."""
    adapted = {}
    for name, tensor in saved.items():
        wanted = expected.get(name)
        if wanted is not None and not tensor.dim() and wanted.shape == (1,):
            tensor = tensor.reshape(1)
        if wanted is not None and (tensor.dtype, wanted.dtype) == (torch.float32, torch.float64):
            tensor = tensor.double()
        adapted[name] = tensor
    return adapted


def cut_seed(saved: Mapping[str, Tensor], index: int, single: Agent) -> dict[str, Tensor]:
    """Return what one seed of a batch of agents owns of `agent_tensors`, in the shapes of a `single` agent.

    What has no axis of seeds (counts, exploration scales) is the same for all and kept as it is.

    Raises:
        DataError: the tensors are not those of several such agents, or there is no such seed.
    """
    cut = {}
    present = agent_tensors(single)
    saved = of_today(saved, present)
    for name, tensor in saved.items():
        wanted = present[name].shape if name in present else None
        if tensor.shape != wanted and tensor.dim() and tensor.shape[1:] == wanted:
            if not 0 <= index < len(tensor):
                raise DataError(
                    f"seed index {index}: the run has {len(tensor)} seeds, 0 to {len(tensor) - 1}"
                )
            tensor = tensor[index]
        cut[name] = tensor
    check_like("agent", cut, present)
    return cut


def optimizer_tensors(agent: Agent) -> dict[str, Tensor]:
    """Return the state of every optimiser as `part|parameter|key`, by the parameters' names."""
    return {
        f"{part.name}|{name}|{key}": value
        for part in agent.parts()
        if part.optimizer is not None
        for name, parameter in part.module.named_parameters()
        for key, value in part.optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(agent: Agent, saved: Mapping[str, Tensor]) -> None:
    """Put the moments and step counts of `saved` into the optimisers of `agent`.

    Raises:
        DataError: an entry belongs to no parameter, or its shape is not the parameter's.
    """
    left = dict(saved)
    for part in agent.parts():
        if part.optimizer is None:
            continue
        for name, parameter in part.module.named_parameters():
            prefix = f"{part.name}|{name}|"
            entries = {key[len(prefix) :]: left.pop(key) for key in list(left) if key.startswith(prefix)}
            ours = isinstance(part.optimizer, GuardedOptimizer)
            expected = set(part.optimizer.state[parameter]) if ours else ADAM_KEYS
            if entries and (ours or isinstance(part.optimizer, TorchAdam)) and entries.keys() != expected:
                raise DataError(f"optimiser entries {prefix}: {sorted(entries)}, expected {sorted(expected)}")
            for key, value in entries.items():
                held = part.optimizer.state[parameter].get(key)
                wanted = parameter.shape if held is None else held.shape
                if value.dim() and value.shape != wanted:
                    raise DataError(
                        f"optimiser entry {prefix}{key} has shape {tuple(value.shape)}, "
                        f"the run's {tuple(wanted)}"
                    )
                if value.dtype != (parameter.dtype if value.dim() else torch.float32):
                    raise DataError(f"optimiser entry {prefix}{key} is {value.dtype}: no moment, no count")
            # In place where there is a state already: compiled updates and graphs keep its addresses.
            present = part.optimizer.state[parameter] if entries else {}
            for key, value in entries.items():
                if key in present:
                    present[key].copy_(value)
                else:
                    present[key] = value.to(parameter.device).clone()
    if left:
        raise DataError(f"optimiser entries of unknown parameters: {', '.join(sorted(left)[:5])}")


def td_tensors(td: TensorDictBase) -> dict[str, Tensor]:
    """Flatten the TensorDict that the loop carries from step to step."""
    return dict(td.flatten_keys("/").items())


def load_td(saved: Mapping[str, Tensor], num_envs: int, device: torch.device) -> TensorDict:
    """Rebuild the current TensorDict, `[num_envs]`, on `device`."""
    flat = TensorDict(dict(saved), batch_size=[num_envs], device=device)
    return flat.unflatten_keys("/")


class RunningSums:
    """Means of metrics between two log lines, summed on the device without a synchronisation.

    Every metric is `[]`, or `[S]` with one number per seed.
    """

    def __init__(self, seeds: int = 1) -> None:
        self.seeds = seeds
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.in_place: dict[str, Tensor] = {}  # what graphs add to, in memory that stays
        self._graphed: Counter[str] = Counter()  # how often they did

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one update's numbers; names need not be the same at every update."""
        for name, value in metrics.items():
            if name in self.sums:
                self.sums[name] += value
                self.counts[name] += 1
            else:
                self.sums[name] = value.clone()
                self.counts[name] = 1

    def add_in_place(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one update's numbers where a graph will, too; `count` then says how often."""
        for name, value in metrics.items():
            if name not in self.in_place:
                self.in_place[name] = torch.zeros_like(value)
        torch._foreach_add_([self.in_place[name] for name in metrics], list(metrics.values()))

    def count(self, names: Mapping[str, int]) -> None:
        """Count numbers that were added in place."""
        self._graphed.update(names)

    def _gather(self) -> None:
        """Move what was added in place to the sums."""
        for name, count in self._graphed.items():
            value = self.in_place[name]
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
            self.counts[name] = self.counts.get(name, 0) + count
            value.zero_()
        self._graphed.clear()

    def take(self) -> list[dict[str, float]]:
        """Return the means of every seed as floats, in one transfer, and start again."""
        self._gather()
        if not self.sums:
            return [{} for _ in range(self.seeds)]
        rows = ranks.mean(
            torch.stack([s.float().expand(self.seeds) for s in self.sums.values()], -1)
        ).tolist()
        counts = self.counts
        self.sums, self.counts = {}, {}
        return [
            {name: value / count for (name, count), value in zip(counts.items(), row, strict=True)}
            for row in rows
        ]

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Return sums and counts for the checkpoint."""
        self._gather()
        return dict(self.sums), dict(self.counts)

    def load(self, sums: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        """Restore what `state` returned, in its order: the order of the line's names is part of a run."""
        shapes = {(), (self.seeds,)}
        for name, count in counts.items():
            if type(count) is not int or count < 1 or tuple(sums[name].shape) not in shapes:
                raise ValueError(f"sum {name}: {count!r:.40} of {tuple(sums[name].shape)}")
        self.sums = {name: sums[name].clone() for name in counts}
        self.counts = dict(counts)


class EpisodeSums:
    """Return and length of the running episodes of all envs, and of those that ended since the last line.

    Beside them how all training episodes have ended, for the regret. The envs come in equal groups, one per
    seed.
    """

    def __init__(self, num_envs: int, device: torch.device, *, seeds: int = 1) -> None:
        self.seeds = seeds
        self.returns = torch.zeros(num_envs, dtype=torch.float64, device=device)
        self.lengths = torch.zeros(num_envs, dtype=torch.float64, device=device)
        # episodes, sum of returns, sum of lengths
        self.ended = torch.zeros(seeds, 3, dtype=torch.float64, device=device)
        # of the whole run: episodes, sum of returns, episodes that say whether they succeeded, successes
        self.whole = torch.zeros(seeds, 4, dtype=torch.float64, device=device)

    def add(self, reward: Tensor, done: Tensor, success: np.ndarray | None = None) -> None:
        """Count one vector step: rewards and ends of episodes, each `[B]`, and success where envs say so."""
        self.returns += reward
        self.lengths += 1
        if done.is_cpu and not done.any():  # a device is not asked: that would wait for it
            return
        closed = torch.stack((done.double(), self.returns * done, self.lengths * done), -1)
        self.ended += closed.unflatten(0, (self.seeds, -1)).sum(1)
        said, won = torch.zeros_like(self.returns), torch.zeros_like(self.returns)
        if success is not None:
            said, won = done.double(), torch.as_tensor(success, device=done.device) * done.double()
        whole = torch.stack((closed[:, 0], closed[:, 1], said, won), -1)
        self.whole += whole.unflatten(0, (self.seeds, -1)).sum(1)
        self.returns.masked_fill_(done, 0)
        self.lengths.masked_fill_(done, 0)

    def take(self) -> list[dict[str, float]]:
        """Return every seed's means over the episodes that ended, and start again."""
        rows = ranks.total(self.ended).tolist()
        self.ended.zero_()
        return [
            {
                "train/return_mean": returns / episodes,
                "train/length_mean": lengths / episodes,
                "train/episodes": episodes,
            }
            if episodes
            else {}
            for episodes, returns, lengths in rows
        ]

    def regrets(self, reference: Reference | None = None) -> list[dict[str, float]]:
        """Return every seed's regret: 1 less the share of all training episodes so far that succeeded.

        That is the measure of CORL's fine-tuning (Tarasov et al. 2022, arXiv 2210.07105). Where no episode
        says whether it succeeded, a hundredth of its score counts instead (our choice); where there is no
        score either, the line is empty.

        Args:
            reference: returns that score 0 and 100.
        """
        lines: list[dict[str, float]] = []
        for episodes, returns, said, won in ranks.total(self.whole).tolist():
            if said:
                lines.append({"train/regret": 1 - won / said})
            elif episodes and reference is not None:
                lines.append({"train/regret": 1 - reference.score(returns / episodes) / 100})
            else:
                lines.append({})
        return lines

    def state(self) -> dict[str, Tensor]:
        """Return the sums for the checkpoint."""
        return {"returns": self.returns, "lengths": self.lengths, "ended": self.ended, "whole": self.whole}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; DataError where it is of other envs or seeds.

        A checkpoint of before there was a regret begins it anew.
        """
        saved = {"whole": torch.zeros_like(self.whole), **saved}
        check_like("episodes", saved, self.state())
        for name, tensor in self.state().items():
            tensor.copy_(saved[name])
