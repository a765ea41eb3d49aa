"""The weights of the best evaluation, kept at each new best: `best/step-NNN/` in the run folder.

A checkpoint like others, of the agent alone. With several seeds every agent has an evaluation of its own that
was best, and its slice of the tensors is of that moment.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from rlsuite.errors import DataError
from rlsuite.runs import machine
from rlsuite.runs.checkpoint import CheckpointStore, CheckpointWriteError, Loaded
from rlsuite.runs.runfolder import BEST_FOLDER
from rlsuite.strict import is_number
from rlsuite.training.assembly import SEED_LIMIT, Run

logger = logging.getLogger(__name__)

EVALUATION = "evaluation"  # the document: a `BestEvaluation` of every seed


@dataclass(frozen=True, slots=True, kw_only=True)
class BestEvaluation:
    """One evaluation of one seed: when it was, what it gave, and of which episodes.

    Attributes:
        step, updates: of the run.
        mean: of the returns.
        first_seed: of the first episode; the others count up.
        episodes: how many.
    """

    step: int
    updates: int
    mean: float
    first_seed: int
    episodes: int

    def __post_init__(self) -> None:
        """Raise ValueError for a value of another type."""
        counts = (self.step, self.updates, self.first_seed, self.episodes)
        if not is_number(self.mean) or any(type(count) is not int or count < 0 for count in counts):
            raise ValueError("not an evaluation")


class BestWeights:
    """Keeps the agents of the best evaluations of one run.

    Args:
        folder: the run folder.
        run: whose clock says what was best so far.
    """

    def __init__(self, folder: Path, run: Run) -> None:
        self._run = run
        self._store = CheckpointStore(folder / BEST_FOLDER, keep_last=1)
        self._tensors: dict[str, Tensor] = {}
        self._evaluations: list[BestEvaluation | None] = [None for _ in run.seeds]
        self._unsaved = False

    def resume(self) -> None:
        """Take back what an earlier session kept; without it, the next evaluation is the best there is."""
        clock = self._run.clock
        if not any(value is not None for value in clock.best_returns):
            return
        try:
            loaded = self._store.load(config_digest=None)
        except DataError as error:
            logger.warning("%s; the next evaluation counts as the best", error)
            loaded = None
        evaluations = evaluations_of(loaded, len(self._run.seeds)) if loaded is not None else []
        if loaded is None or not evaluations:
            clock.best_returns = []
            return
        device = self._run.device
        self._tensors = {name: tensor.to(device) for name, tensor in loaded.tensors["agent"].items()}
        self._evaluations = [*evaluations]

    def consider(
        self,
        metrics: Sequence[Mapping[str, float]],
        first_seeds: Sequence[int],
        *,
        step: int,
        updates: int,
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Keep the agents whose evaluation is better than all before; a failed write costs a warning.

        Args:
            metrics: of every seed's evaluation.
            first_seeds: of every seed's first episode; the others count up.
            step, updates: of the run when it was made.
            tensors: of the agents that were evaluated.
        """
        run, clock = self._run, self._run.clock
        bests: list[float | None] = clock.best_returns or [None for _ in run.seeds]
        returns = [line["eval/return_mean"] for line in metrics]
        better = [
            index
            for index, (new, old) in enumerate(zip(returns, bests, strict=True))
            if math.isfinite(new) and (old is None or new > old)
        ]
        if better:
            for index in better:
                bests[index] = returns[index]
                self._evaluations[index] = BestEvaluation(
                    step=step,
                    updates=updates,
                    mean=returns[index],
                    first_seed=int(first_seeds[index]) % SEED_LIMIT,
                    episodes=run.config.eval_episodes,
                )
            clock.best_returns = bests
            reached = [value for value in bests if value is not None]
            clock.best_return = sum(reached) / len(reached)
            self._take(better, tensors)
        if (better or self._unsaved) and None not in self._evaluations:
            self._write(step)

    def _take(self, better: Sequence[int], current: Mapping[str, Tensor]) -> None:
        """Copy the agents of some seeds."""
        seeds, device = len(self._run.seeds), self._run.device
        if seeds == 1 or not self._tensors:
            self._tensors = {name: tensor.to(device, copy=True) for name, tensor in current.items()}
            return
        for name, tensor in current.items():
            if tensor.dim() and len(tensor) == seeds:
                self._tensors[name][list(better)] = tensor[list(better)].to(device)
            else:  # counts and scales that all seeds share
                self._tensors[name] = tensor.to(device, copy=True)

    def _write(self, step: int) -> None:
        run = self._run
        evaluations = [item for item in self._evaluations if item is not None]
        try:
            path = self._store.save(
                step,
                tensors={"agent": self._tensors},
                documents={EVALUATION: {"seeds": [asdict(item) for item in evaluations]}},
                config_digest=run.digest,
                score=sum(item.mean for item in evaluations) / len(evaluations),
                written_by=machine.maker(run.device),
            )
            self._store.keep_only(path)
        except CheckpointWriteError as error:
            self._unsaved = True
            logger.warning("the best weights so far are not kept: %s", error)
        else:
            self._unsaved = False


def evaluations_of(loaded: Loaded, seeds: int) -> list[BestEvaluation]:
    """Return every seed's evaluation that the weights of `loaded` are of; [] where it does not say so."""
    document = loaded.documents.get(EVALUATION)
    entries = document.get("seeds") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) != seeds:
        return []
    try:
        return [BestEvaluation(**entry) for entry in entries]
    except (TypeError, ValueError):
        return []
