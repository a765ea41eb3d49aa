"""Three callbacks to take as they are: stop at a return, stop on a plateau, film every k-th evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsuite.errors import ConfigError
from rlsuite.training.callbacks import Callback, Evaluation, Start

FILMS = "videos"  # folder in the run's


class StopWhen(Callback):
    """Ends the run once the evaluation return is at least `at_least`, `times` evaluations in succession."""

    def __init__(self, at_least: float, times: int = 1) -> None:
        if times < 1:
            raise ConfigError(f"StopWhen: times = {times}: must be at least 1")
        self.at_least, self.times = float(at_least), times
        self.reached = 0

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Count evaluations that reach it; one that does not begins the count anew."""
        self.reached = self.reached + 1 if evaluation.return_mean >= self.at_least else 0

    def stop(self) -> bool | str:
        """Ask to end once there are enough."""
        return self.reached >= self.times and f"return of at least {self.at_least:g}"

    def state_dict(self) -> dict[str, Any]:
        """Return the count."""
        return {"reached": self.reached}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the count back."""
        self.reached = int(state["reached"])


class StopOnPlateau(Callback):
    """Ends the run when `patience` evaluations in succession do not exceed the best before by `gain`."""

    def __init__(self, patience: int, gain: float = 0.0) -> None:
        if patience < 1:
            raise ConfigError(f"StopOnPlateau: patience = {patience}: must be at least 1")
        self.patience, self.gain = patience, float(gain)
        self.best: float | None = None
        self.waited = 0

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Take a new best, or wait on."""
        if self.best is None or evaluation.return_mean > self.best + self.gain:
            self.best, self.waited = evaluation.return_mean, 0
        else:
            self.waited += 1

    def stop(self) -> bool | str:
        """Ask to end when it waited long enough."""
        return self.waited >= self.patience and f"no better return in {self.waited} evaluations"

    def state_dict(self) -> dict[str, Any]:
        """Return the best and the wait."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.best, self.waited = state["best"], int(state["waited"])


class FilmEvery(Callback):
    """Films an episode after every `every`-th evaluation: `videos/step-NNN.mp4` in the run folder."""

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ConfigError(f"FilmEvery: every = {every}: must be at least 1")
        self.every = every
        self.folder = Path()

    def on_start(self, start: Start) -> None:
        """Find out at once whether films can be made."""
        start.check_film()
        self.folder = start.folder / FILMS

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Film, where it is due."""
        if evaluation.number % self.every == 0:
            evaluation.film(self.folder / f"step-{evaluation.step:012d}.mp4")
