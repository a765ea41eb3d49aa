"""Running statistics of observations."""

import pytest
import torch

from rlsuite.blocks.normalizer import CLIP, RunningNorm


@pytest.mark.parametrize("lead", [(), (3,)])
def test_batches_merge_to_the_statistics_of_all_rows(lead):
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(*lead, 90, 4, generator=g, dtype=torch.float64) * 3 + 7
    norm = RunningNorm(4, lead=lead).double()
    for part in rows.split([10, 50, 30], dim=-2):
        norm.observe(part)
    torch.testing.assert_close(norm.mean, rows.mean(-2))
    torch.testing.assert_close(norm.var, rows.var(-2, correction=0))
    assert norm.count == 90
    scaled = norm(rows)
    torch.testing.assert_close(scaled.mean(-2), torch.zeros(*lead, 4, dtype=torch.float64))


def test_nothing_changes_before_the_first_batch_and_outliers_are_cut():
    norm = RunningNorm(2)
    x = torch.tensor([[0.5, -2.0], [1e6, 3.0]])
    assert torch.equal(norm(x), x.clamp(max=CLIP))


def test_a_feature_that_never_varies_is_not_blown_up():
    norm = RunningNorm(1)
    norm.observe(torch.full((100, 1), 5.0))
    assert norm(torch.tensor([[5.001]])).abs() < 0.2


def test_a_batch_that_is_not_finite_leaves_the_statistics_alone():
    norm = RunningNorm(2)
    norm.observe(torch.randn(50, 2))
    before = norm.mean.clone(), norm.var.clone()
    bad = torch.randn(50, 2)
    bad[3, 0] = torch.nan
    norm.observe(bad)
    assert torch.equal(norm.mean[0], before[0][0]) and torch.equal(norm.var[0], before[1][0])
    assert not torch.equal(norm.mean[1], before[0][1])


def test_a_batch_without_a_finite_feature_does_not_count():
    spoilt, clean = RunningNorm(2), RunningNorm(2)
    good = torch.randn(50, 2)
    spoilt.observe(torch.full((50, 2), torch.inf))
    spoilt.observe(good)
    clean.observe(good)
    for name, kept in clean.state_dict().items():
        assert torch.equal(spoilt.state_dict()[name], kept), name
