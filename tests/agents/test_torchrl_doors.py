"""What a TorchRL program may try on our loss modules: batches with time, other keys, value estimators."""

import pytest
import torch
from helpers import NAMES, random_batch
from test_torchrl_loop import loss_module
from torchrl.objectives import ValueEstimators

from rlsuite.errors import ConfigError


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(4, 8), (2, 4, 4), (32, 1)])
def test_row_11_a_batch_with_more_axes_is_its_transitions(name, shape):
    loss, batch = loss_module(name), random_batch(32)
    losses = []
    for given in (batch, batch.reshape(*shape)):
        torch.manual_seed(1)
        losses.append({key: value.detach().clone() for key, value in loss(given).items() if "loss" in key})
        loss = loss_module(name)  # some keep statistics of what they have seen
    assert losses[0].keys() == losses[1].keys() != set()
    for key, value in losses[0].items():
        assert value.isfinite().all()
        assert torch.equal(value, losses[1][key])


@pytest.mark.parametrize("name", NAMES)
def test_row_11_what_a_loss_does_not_take_is_said(name):
    loss = loss_module(name)
    loss.set_keys()
    with pytest.raises(ConfigError, match=r"fixed keys.*action, reward"):
        loss.set_keys(action="a", reward="r")
    for asked in ((), (ValueEstimators.TD0,), ("td_lambda",)):
        with pytest.raises(ConfigError, match="takes no value estimator"):
            loss.make_value_estimator(*asked)
