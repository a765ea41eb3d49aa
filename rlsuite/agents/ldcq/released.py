"""The denoiser of LDCQ's authors' code, written from its equations (github.com/ldcq/ldcq, no licence).

Legend as in blocks/diffusion.py: N states, C latents of each, Z latent, F features, W width.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.agents.ldcq.model import rowwise
from rlsuite.blocks.diffusion import Block, Hourglass, time_features
from rlsuite.blocks.mlp import LayerNorm, Lead
from rlsuite.blocks.noise import Source


class ReleasedDenoiser(Hourglass):
    """Hourglass whose skips are added; arguments of `Hourglass`.

    Where it differs from ours: layer norm and GELU after every change of width, with one norm for each width,
    on the way down and up; one norm for all three places of a block; layer norm also after the last layers of
    the embeddings; no second block at the narrowest width, and a last one on the sum with the first layer's
    output; frequencies of time that end at the longest period.
    """

    def __init__(
        self,
        observation: int,
        latent: int,
        widths: Sequence[int],
        features: int,
        *,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__(observation, latent, widths, features, lead=lead, generator=generator)
        self.state_norm, self.time_norm = LayerNorm(features, lead=lead), LayerNorm(features, lead=lead)
        self.norms = nn.ModuleList(LayerNorm(width, lead=lead) for width in widths)

        def block(width: int) -> Block:
            return Block(width, features, lead, generator, shared=True)

        self.down = nn.ModuleList(block(width) for width in widths)
        self.up = nn.ModuleList(block(width) for width in widths[:-1])
        self.final = block(widths[0])

    def blocks(self) -> Sequence[Block]:
        """Return the blocks on the way down, those on the way up, widest first, and the last one."""
        return [*self.down, *self.up, self.final]

    def embed_state(self, observation: Tensor) -> Tensor:
        """Embed states, `[*lead, N, F]`."""
        return F.gelu(self.state_norm(self.state(observation)))

    def forward(self, latent: Tensor, time: Tensor, contexts: Sequence[Tensor]) -> Tensor:
        """Return predictions of z_0, `[*lead, N, C, Z]`; see `Hourglass.forward`."""
        features = time_features(time.to(latent.dtype), released=True)
        embedded = F.gelu(self.time_norm(self.time(features)))
        stem = rowwise(self.enter, latent)
        x = self.down[0](stem, contexts[0], embedded)
        seen = []
        for index, narrow in enumerate(self.narrow):
            seen.append(x)
            x = self._resized(narrow, index + 1, x)
            x = self.down[index + 1](x, contexts[index + 1], embedded)
        for index in reversed(range(len(self.up))):
            x = self._resized(self.widen[index], index, x) + seen.pop()
            x = self.up[index](x, contexts[len(self.down) + index], embedded)
        x = self.final(x + stem, contexts[-1], embedded)
        return rowwise(self.leave, x).to(latent.dtype)

    def _resized(self, linear: nn.Module, index: int, x: Tensor) -> Tensor:
        """Bring `[*lead, N, C, W]` to the width of that index."""
        return F.gelu(rowwise(lambda rows: self.norms[index](linear(rows)), x))
