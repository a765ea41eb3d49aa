"""Row 19: a replay that cannot fit is refused before it is made, in bytes, with what to do about it."""

import pytest
import whole_runs as runs

from rlsuite.errors import ConfigError


def test_a_replay_that_does_not_fit_is_refused_before_it_is_made(tmp_path):
    with pytest.raises(ConfigError, match=r"GiB are free: lower --replay-size"):
        runs.train(tmp_path / "run", replay_size=10**12)
