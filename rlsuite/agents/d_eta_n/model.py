"""The network of DηN.

Legend: N batch, O observation, A actions, K quantiles, m components of the stock (1 without a stock).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from rlsuite.agents.base import Spaces
from rlsuite.agents.d_eta_n.config import DEtaNConfig
from rlsuite.blocks.convolution import ConvTrunk
from rlsuite.blocks.mlp import ACTIVATIONS, MLP, Linear
from rlsuite.blocks.noise import Source
from rlsuite.returns.stock import EMBEDDING_SIZE, embed


class StockQuantiles(nn.Module):
    """Quantiles of the return by action: a trunk sees the observation, the stock's features come in after it.

    Features are relu(W_o trunk(o) + W_c phi(c)), then one hidden layer and a linear head.

    Args:
        spaces: sizes, and the shape of pictures.
        config: widths.
        outputs: components of the return, m.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    bound: Tensor

    def __init__(
        self, spaces: Spaces, config: DEtaNConfig, outputs: int, *, lead: tuple[int, ...], generator: Source
    ) -> None:
        super().__init__()
        self.shape = (spaces.action, config.quantiles, outputs)
        self.size = 0 if spaces.stock is None else spaces.stock.size
        self.mask = spaces.masked
        shared: dict[str, Any] = {"activation": config.activation, "lead": lead, "generator": generator}
        *hidden, width = config.hidden
        shown = spaces.observation - self.size
        if spaces.picture is not None:
            self.trunk: nn.Module = ConvTrunk(spaces.picture, hidden, width, **shared)
        else:
            self.trunk = MLP(shown, hidden, width, **shared)
        if spaces.stock is not None:
            self.embedding = Linear(EMBEDDING_SIZE * self.size, width, lead=lead, generator=generator)
            self.register_buffer("bound", torch.tensor(spaces.stock.bound), persistent=False)
        self.activation = ACTIVATIONS[config.activation]()
        self.head = MLP(width, (width,), math.prod(self.shape), **shared)

    def forward(self, shown: Tensor, stock: Tensor) -> Tensor:
        """Return `[*lead, N, A, K, m]` for what is shown `[*lead, N, O - m]` and stocks `[*lead, N, m]`."""
        features = self.trunk(shown)
        if self.size:
            features = features + self.embedding(embed(stock, self.bound))
        return self.head(self.activation(features)).to(shown.dtype).unflatten(-1, self.shape)
