"""Lines on stderr that say how far something long has come."""

import sys
import time
from collections.abc import Callable

SECONDS = 10.0  # between two lines


def progress(total: int) -> Callable[[int], None]:
    """Return a function that prints the steps so far, every ten seconds at most."""
    begun = last = time.monotonic()

    def tell(steps: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS:
            last = now
            rate = steps / (now - begun)
            print(f"{steps:,} of {total:,} env steps, {rate:,.0f} a second", file=sys.stderr, flush=True)  # noqa: T201

    return tell
