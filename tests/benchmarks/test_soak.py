"""What the soak calls flat, and one short soak of a toy."""

from dataclasses import replace

import pytest
import soak
import whole_runs as runs
from soak import SoakSession, verdict

from rlsuite.errors import ConfigError
from rlsuite.runs.config import TrainConfig

STEADY = SoakSession(
    session=0,
    seconds=120.0,
    env_steps=900,
    updates=900,
    updates_per_cpu_second=50.0,
    resident_mib=500.0,
    allocated_mib=140.0,
    descriptors=9,
    threads=2,
)


def test_what_grows_after_the_warm_up_is_seen():
    grown = replace(
        STEADY,
        resident_mib=510.0,
        allocated_mib=147.0,
        updates_per_cpu_second=45.0,
        descriptors=11,
        threads=3,
    )
    found = verdict([replace(STEADY, resident_mib=300.0), STEADY, STEADY, STEADY, grown, grown, grown])
    changes = {"resident": 0.02, "allocated": 0.05, "speed": -0.1, "descriptors": 2, "threads": 1}
    assert found == pytest.approx(changes)
    assert verdict([STEADY] * 4) == dict.fromkeys(changes, 0)


def test_too_few_sessions_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="1 sessions of 120 s: ask for 3"):
        soak.soak(tmp_path / "run", minutes=2)


def test_sessions_go_on_where_the_last_stopped(tmp_path, monkeypatch):
    settings = TrainConfig(**{**runs.QUICK, "steps": 10**9, "checkpoint_every": 10**6, "eval_every": 0})
    monkeypatch.setattr(soak, "SETTINGS", settings)
    monkeypatch.setattr(soak, "SAMPLE_SECONDS", 0.05)
    rows = soak.soak(tmp_path / "run", minutes=0.05, session_seconds=1.0)
    assert [row.session for row in rows] == [0, 1, 2]
    assert all(row.env_steps > 0 and row.resident_mib > row.allocated_mib > 10 for row in rows)
    assert int(runs.newest(tmp_path / "run").name.removeprefix("step-")) == sum(row.env_steps for row in rows)
    assert rows[-1].descriptors == rows[1].descriptors and rows[-1].threads == rows[1].threads
