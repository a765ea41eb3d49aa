"""Neuron resets in a supervised classifier whose labels change: a stand-in for any training loop.

python examples/grama_classifier.py
"""

import torch
from torch import nn
from torch.nn import functional as F

from rlsuite.plugins.grama import GraMa


def main(tasks: int = 20, steps: int = 300, tau: float = 0.05, period: int = 100) -> tuple[GraMa, float]:
    """Learn random labels again and again; return the reset and the last task's accuracy."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(16, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    reset = GraMa(tau=tau, period=period).attach(net, optimizer)
    print(reset.summary())

    x, accuracy = torch.randn(256, 16), 0.0
    for task in range(tasks):
        labels = torch.randint(5, (256,))
        for _ in range(steps):
            batch = torch.randint(256, (64,))
            loss = F.cross_entropy(net(x[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            reset.step()
        inactive = {layer: round(own.fraction.item(), 3) for layer, own in reset.report().items()}
        accuracy = (net(x).argmax(-1) == labels).float().mean().item()
        print(f"task {task}: accuracy {accuracy:.3f}, inactive {inactive}")
    return reset, accuracy


if __name__ == "__main__":
    main()
