"""Settings of all tests: one thread (results do not depend on the machine), quiet loggers."""

import logging

import pytest
import torch

torch.set_num_threads(1)
logging.getLogger("torchrl").setLevel(logging.WARNING)


@pytest.fixture
def float64():
    """Make float64 the default type of one test."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
