"""Texts that `train` and `resume` print before and after a run."""

from pathlib import Path
from typing import TYPE_CHECKING

from rlsuite.errors import Interrupted
from rlsuite.presets import preset_names
from rlsuite.runs.config import NO_ENV, OfflineConfig, TrainConfig
from rlsuite.runs.mapping import RunConfig

if TYPE_CHECKING:
    from rlsuite.training.loop import TrainResult

EXIT_INTERRUPTED = Interrupted.exit_code


def title(config: RunConfig) -> str:
    """Return one line naming agent, task and preset, so that no demo is taken for a paper's run."""
    described = preset_names(config.agent_name).get(config.preset, "no longer known")
    return f'{config.agent_name} on {about(config.train)}, preset "{config.preset}" ({described})'


def goal(train: TrainConfig | OfflineConfig) -> int:
    """Return where a run ends: its steps, and those online after offline ones."""
    return train.steps + (train.then_online if isinstance(train, OfflineConfig) else 0)


def about(train: TrainConfig | OfflineConfig) -> str:
    """Return what a run is about: its environment, or its data set."""
    return Path(train.dataset).name if isinstance(train, OfflineConfig) else train.env


def outcome_code(result: "TrainResult") -> int:
    """Return the exit code of a run."""
    return EXIT_INTERRUPTED if result.interrupted else 0


def say_outcome(config: RunConfig, path: Path, result: "TrainResult") -> int:
    """Print the learning curve and where the run lies; return the exit code."""
    from rlsuite.training.recorder import curve_picture

    print(f"\n{title(config)}")
    print(curve_picture(path / "metrics.jsonl"))
    if result.interrupted:
        count = getattr(config.train, "ranks", 1)
        program = "rlsuite" if count == 1 else f"torchrun --nproc-per-node {count} -m rlsuite"
        print(f"interrupted, nothing lost; go on with: {program} resume {path}", flush=True)
        return outcome_code(result)
    if result.best_return is not None:
        final = "-" if result.final_return is None else f"{result.final_return:,.1f}"
        print(f"best return {result.best_return:,.1f}, final {final}")
    if result.stopped_by:
        print(f"ended at {result.env_steps:,} steps by {result.stopped_by}")
    advice = "" if config.train.env == NO_ENV else f"; try: rlsuite eval {path} --checkpoint best"
    print(f"run folder: {path}{advice}", flush=True)
    return outcome_code(result)
