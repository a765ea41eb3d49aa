"""Ending a run whose environment does not come back.

An environment of other people's code may wait for a socket, a lock or a simulator that died. Nothing can make
the thread that is inside it go on, so a second thread watches the clock, says where the first one hangs, and
ends the process with the exit code of an environment's failure. What was saved before is intact: to a
checkpoint this is a kill like any other.
"""

import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rlsuite.envs.base import VectorEnv
from rlsuite.errors import EnvironmentFailure

POLL_SECONDS = 1.0  # between looks, or a tenth of a shorter limit
SHOWN_FRAMES = 4  # innermost lines of the thread that hangs
SHOWN_SEEDS = 8


class Watchdog:
    """Context manager that ends the process when one call of foreign environment code takes too long.

    Args:
        envs: watched are those that say when they went into foreign code (`VectorEnv.foreign_since`).
        seconds: limit of one call, 0 for none.
    """

    def __init__(self, envs: Sequence[VectorEnv], seconds: float) -> None:
        self._envs = [env for env in envs if env.foreign]
        self._seconds = seconds
        self._over = threading.Event()
        self._watched = threading.get_ident()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._envs and self._seconds:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, cls: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        pause = min(POLL_SECONDS, self._seconds / 10)
        while not self._over.wait(pause):
            for env in self._envs:
                since = env.foreign_since
                if since is not None and time.monotonic() - since > self._seconds:
                    self._end(env)

    def _end(self, env: VectorEnv) -> None:
        """Say who was waited for, and leave; the thread that hangs can neither raise nor clean up."""
        frame = sys._current_frames().get(self._watched)
        where = "".join(traceback.format_stack(frame)[-SHOWN_FRAMES:]) if frame is not None else ""
        seeds = [int(seed) for seed in env.episode_seeds()[:SHOWN_SEEDS]]
        said = (
            f"{env.env_id} has not come back for {self._seconds:g} s; its {env.num_envs} env(s) began "
            f"their episodes from the seeds {seeds}. Go on from the last checkpoint with `rlsuite resume`, "
            "or allow more with --step-timeout"
        )
        os.write(2, f"{where}rlsuite: {said}\n".encode())
        os._exit(EnvironmentFailure.exit_code)
