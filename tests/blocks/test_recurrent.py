"""The GRU with leading axes is torch's GRU."""

import pytest
import torch

from rlsuite.blocks.recurrent import BiGRU


def oracle(own: BiGRU, index: tuple[int, ...], inputs: int) -> torch.nn.GRU:
    gru = torch.nn.GRU(inputs, own.hidden, own.layers, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for layer in range(own.layers):
            for direction, suffix in enumerate(("", "_reverse")):
                for ours, theirs in (("input", "ih"), ("hidden", "hh")):
                    weight = getattr(own, f"{ours}_weight_{layer}")[(*index, direction)]
                    bias = getattr(own, f"{ours}_bias_{layer}")[(*index, direction)]
                    getattr(gru, f"weight_{theirs}_l{layer}{suffix}").copy_(weight.T)
                    getattr(gru, f"bias_{theirs}_l{layer}{suffix}").copy_(bias[0])
    return gru


@pytest.mark.parametrize("lead", [(), (2,)])
def test_outputs_and_gradients_are_those_of_torch(lead):
    own = BiGRU(5, 4, 2, lead=lead, generator=None)
    x = torch.randn(*lead, 3, 7, 5, requires_grad=True)
    found = own(x)
    assert found.shape == (*lead, 3, 7, 8)
    (grad,) = torch.autograd.grad(found.square().sum(), x)
    for index in [(0,), (1,)] if lead else [()]:
        gru = oracle(own, index, 5)
        part = x[index].detach().clone().requires_grad_()
        expected = gru(part)[0]
        torch.testing.assert_close(found[index], expected, rtol=1e-5, atol=1e-6)
        (theirs,) = torch.autograd.grad(expected.square().sum(), part)
        torch.testing.assert_close(grad[index], theirs, rtol=1e-4, atol=1e-6)


def test_weights_come_from_the_generator():
    one, two = (BiGRU(5, 4, 1, generator=torch.Generator().manual_seed(3)) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert max(p.abs().max().item() for p in one.parameters()) <= 0.5  # 1 / sqrt(4)
