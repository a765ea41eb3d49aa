"""One local Ray cluster for the whole session."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cluster():
    """Start Ray with two CPUs; skip where it is not installed."""
    ray = pytest.importorskip("ray")
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}},
    )
    yield ray
    ray.shutdown()
    os.environ.pop("RAY_ADDRESS", None)
