"""The skill model: windows of recorded steps to latents and back, a beta-VAE (LDCQ, section 4.1).

Legend: N windows, T steps of a window, O observation, A action, Z latent. Everything is written for the last
axes; leading axes are independent seeds.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlsuite.blocks.diffusion import Noise, rowwise
from rlsuite.blocks.heads import Gaussian, log_density
from rlsuite.blocks.mlp import MLP, LayerNorm, Lead, Linear
from rlsuite.blocks.noise import Source, fill
from rlsuite.blocks.recurrent import BiGRU

HEADS = 4  # of the transformer's attention; authors' code
TOKEN_STD = 0.02  # of the transformer's first tokens, as usual; our choice


class GaussianHead(nn.Module):
    """Features to mean and standard deviation, each by an MLP with one hidden layer.

    Args:
        inputs: length of the features.
        outputs: length of the Gaussian.
        hidden: width of the hidden layers; None is that of the features.
        std_min: added to softplus of the second output. Recorded actions on their bounds would otherwise
            draw the std to 0 and the likelihood to infinity; the authors' code has no such bound.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        std_min: float,
        hidden: int | None = None,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        width = inputs if hidden is None else hidden
        self.mean = MLP(inputs, (width,), outputs, lead=lead, generator=generator)
        self.raw_std = MLP(inputs, (width,), outputs, lead=lead, generator=generator)
        self.std_min = std_min

    def forward(self, features: Tensor) -> Gaussian:
        """Return the Gaussian `[*lead, N, outputs]` of features `[*lead, N, inputs]`."""
        precision = self.mean[-1].bias.dtype  # under autocast the layers compute in bfloat16
        mean, raw = self.mean(features).to(precision), self.raw_std(features).to(precision)
        return Gaussian(mean, F.softplus(raw) + self.std_min)


class GaussianNetwork(nn.Module):
    """A Gaussian of inputs: two hidden layers with ReLU, then `GaussianHead`.

    Args:
        inputs: length of the input.
        hidden: width of all layers.
        outputs: length of the Gaussian.
        std_min: see `GaussianHead`.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        std_min: float,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        self.trunk = MLP(inputs, (hidden,), hidden, lead=lead, generator=generator)
        self.head = GaussianHead(hidden, outputs, std_min=std_min, lead=lead, generator=generator)

    def forward(self, x: Tensor) -> Gaussian:
        """Return the Gaussian `[*lead, N, outputs]` for `[*lead, N, inputs]`."""
        return self.head(self.trunk(x).relu())


class GRUEncoder(nn.Module):
    """q(z | window) by a bidirectional GRU over (embedded state, action).

    The posterior reads what each direction says when it has seen the whole window: the forward one at the
    last step, the backward one at the first. The authors' code (`released`) reads both at the last step,
    where the backward one has seen a single step, and has a narrower head.

    Args:
        observation: O.
        action: A.
        latent: Z.
        hidden: width of the embedding and of the GRU.
        layers: of the GRU.
        std_min: see `GaussianHead`.
        released: as in the authors' code.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    def __init__(  # noqa: PLR0913 (sizes)
        self,
        observation: int,
        action: int,
        latent: int,
        hidden: int,
        layers: int,
        *,
        std_min: float,
        released: bool = False,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        self.released = released
        options: dict[str, Any] = {"lead": lead, "generator": generator}
        self.embed = MLP(observation, (hidden,), hidden, **options)
        self.gru = BiGRU(hidden + action, hidden, layers, **options)
        width = hidden if released else 2 * hidden
        self.head = GaussianHead(2 * hidden, latent, std_min=std_min, hidden=width, **options)

    def forward(self, observation: Tensor, action: Tensor, mask: Tensor) -> Gaussian:
        """Return the posterior, `[*lead, N, 1, Z]` each.

        Args:
            observation: `[*lead, N, T, O]`.
            action: `[*lead, N, T, A]`.
            mask: 1 at the window's steps, 0 after its end, `[*lead, N, T]`; the first step is 1.
        """
        steps = torch.cat((rowwise(self.embed, observation).relu(), action), -1) * mask.unsqueeze(-1)
        ahead, back = self.gru(steps).chunk(2, -1)
        last = (mask.sum(-1, keepdim=True).long() - 1).unsqueeze(-1)  # [*lead, N, 1, 1]
        last = last.expand(*last.shape[:-1], ahead.shape[-1])
        whole = back.gather(-2, last) if self.released else back[..., :1, :]
        gaussian = self.head(torch.cat((ahead.gather(-2, last), whole), -1).squeeze(-2))
        return Gaussian(gaussian.mean.unsqueeze(-2), gaussian.std.unsqueeze(-2))


class _Block(nn.Module):
    """One pre-norm transformer layer over `[*lead, N, T, F]`."""

    def __init__(self, width: int, lead: Lead, generator: Source) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm(width, lead=lead) for _ in range(2))
        self.queries = Linear(width, 3 * width, lead=lead, generator=generator)
        self.join = Linear(width, width, lead=lead, generator=generator)
        self.feed = MLP(width, (2 * width,), width, activation="gelu", lead=lead, generator=generator)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Attend to the steps in `seen` `[*lead, N, 1, 1, T]`."""
        projected = rowwise(lambda rows: self.queries(self.norms[0](rows)), x)
        query, key, value = projected.unflatten(-1, (3, HEADS, -1)).transpose(-4, -2).unbind(-3)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x = x + rowwise(self.join, attended.transpose(-2, -3).flatten(-2))
        return x + rowwise(lambda rows: self.feed(self.norms[1](rows)), x)


class TransformerEncoder(nn.Module):
    """q(z | window) by a transformer with a learnt token that becomes the latent; arguments of `GRUEncoder`.

    Args:
        observation: O.
        action: A.
        latent: Z.
        hidden: width of the tokens, a multiple of 4.
        layers: transformer layers.
        horizon: longest window, in steps.
        std_min: see `GaussianHead`.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    def __init__(  # noqa: PLR0913 (sizes)
        self,
        observation: int,
        action: int,
        latent: int,
        hidden: int,
        layers: int,
        *,
        horizon: int,
        std_min: float,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        self.embed = MLP(observation + action, (hidden,), hidden, lead=lead, generator=generator)
        self.tokens = nn.Parameter(torch.empty(*lead, 1 + horizon, hidden))  # the latent's, then positions
        with torch.no_grad():
            fill(self.tokens, generator, lambda part, rng: part.normal_(0, TOKEN_STD, generator=rng))
        self.blocks = nn.ModuleList(_Block(hidden, lead, generator) for _ in range(layers))
        self.head = GaussianHead(hidden, latent, std_min=std_min, lead=lead, generator=generator)

    def forward(self, observation: Tensor, action: Tensor, mask: Tensor) -> Gaussian:
        """Return the posterior, `[*lead, N, 1, Z]` each; see `GRUEncoder.forward`."""
        steps = rowwise(self.embed, torch.cat((observation, action), -1))
        tokens = self.tokens[..., None, : 1 + steps.shape[-2], :]
        first = tokens[..., :1, :].expand(*steps.shape[:-2], 1, -1)
        x = torch.cat((first, steps + tokens[..., 1:, :]), -2)
        seen = F.pad(mask.bool(), (1, 0), value=True)[..., None, None, :]
        for block in self.blocks:
            x = block(x, seen)
        gaussian = self.head(x[..., 0, :])
        return Gaussian(gaussian.mean.unsqueeze(-2), gaussian.std.unsqueeze(-2))


class Decoder(nn.Module):
    """pi(a | s, z), one action after the other: network i reads (s, a_0 .. a_(i-1), z) and gives a Gaussian.

    Args:
        observation: O.
        action: A.
        latent: Z.
        hidden: width of all layers.
        std_min: see `GaussianHead`.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    def __init__(
        self,
        observation: int,
        action: int,
        latent: int,
        hidden: int,
        *,
        std_min: float,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            GaussianNetwork(
                observation + index + latent, hidden, 1, std_min=std_min, lead=lead, generator=generator
            )
            for index in range(action)
        )

    def log_prob(self, observation: Tensor, action: Tensor, latent: Tensor) -> Tensor:
        """Return log pi `[*lead, N, T]` of actions `[*lead, N, T, A]` under latents `[*lead, N, 1, Z]`."""
        shared = torch.cat((observation, latent.expand(*observation.shape[:-1], -1)), -1).flatten(-3, -2)
        actions = action.flatten(-3, -2)
        total = torch.zeros_like(actions[..., 0])
        for index, member in enumerate(self.members):
            gaussian = member(torch.cat((shared, actions[..., :index]), -1))
            total = total + log_density(gaussian, actions[..., index : index + 1])
        return total.unflatten(-1, action.shape[-3:-1])

    def act(self, observation: Tensor, latent: Tensor, noise: Noise | None = None) -> Tensor:
        """Return actions in [-1, 1], `[*lead, N, A]`: each one's mean given those before it, or a draw.

        Args:
            observation: `[*lead, N, O]`.
            latent: `[*lead, N, Z]`.
            noise: of the draw; None takes means.
        """
        shared = torch.cat((observation, latent), -1)
        action = shared[..., :0]
        for member in self.members:
            gaussian = member(torch.cat((shared, action), -1))
            chosen = gaussian.mean
            if noise is not None:
                chosen = chosen + gaussian.std * noise(chosen)
            action = torch.cat((action, chosen.clamp(-1, 1)), -1)
        return action


def kl_divergence(left: Gaussian, right: Gaussian) -> Tensor:
    """KL(left || right) of diagonal Gaussians `[..., Z]`, summed over Z."""
    ratio = (left.std / right.std).square()
    shift = ((left.mean - right.mean) / right.std).square()
    return 0.5 * (ratio + shift - 1 - ratio.log()).sum(-1)


def skill_loss(
    log_prob: Tensor, mask: Tensor, kl: Tensor, final: Tensor, beta: float, horizon: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the skill model over its horizon: -log pi a step + (beta KL - log p(s_T | s_0, z)) / H.

    Args:
        log_prob: of the data's actions, `[N, T]`.
        mask: 1 at a window's steps, `[N, T]`.
        kl: of posterior and prior, `[N]`.
        final: log-density of the last state under the abstract dynamics, `[N]`.
        beta: weight of the KL.
        horizon: H, steps of a whole window; the authors' code divides the ELBO by it.
    """
    imitation = -(log_prob * mask).sum((-2, -1)) / mask.sum((-2, -1))
    dynamics = -final.mean(-1) / horizon
    divergence = kl.mean(-1)
    loss = imitation + beta * divergence / horizon + dynamics
    return loss, {
        "skills/loss": loss.detach(),
        "skills/action_nll": imitation.detach(),
        "skills/kl": divergence.detach(),
        "skills/dynamics_nll": dynamics.detach() * horizon,
    }


class SkillModel(nn.Module):
    """Encoder, decoder, state-conditioned prior and abstract dynamics, trained together.

    Args:
        sizes: O, A and Z.
        hidden: width of all layers.
        encoder: "gru" or "transformer".
        layers: of the encoder.
        horizon: steps of a whole window.
        state_prior: the prior reads the first state; else it is N(0, 1).
        std_min: see `GaussianHead`.
        released: the GRU's encoder is that of the authors' code.
        lead: independent networks along leading axes.
        generator: draws the initial weights.
    """

    def __init__(  # noqa: PLR0913 (sizes)
        self,
        sizes: Sequence[int],
        hidden: int,
        *,
        encoder: str,
        layers: int,
        horizon: int,
        state_prior: bool,
        std_min: float,
        released: bool = False,
        lead: Lead = (),
        generator: Source = None,
    ) -> None:
        super().__init__()
        observation, action, latent = sizes
        self.horizon, self.latent = horizon, latent
        options: dict[str, Any] = {"std_min": std_min, "lead": lead, "generator": generator}
        self.encoder: GRUEncoder | TransformerEncoder
        widths = (*sizes, hidden, layers)
        if encoder == "gru":
            self.encoder = GRUEncoder(*widths, released=released, **options)
        else:
            self.encoder = TransformerEncoder(*widths, horizon=horizon, **options)
        self.decoder = Decoder(observation, action, latent, hidden, **options)
        self.dynamics = GaussianNetwork(observation + latent, hidden, observation, **options)
        self.state_prior = GaussianNetwork(observation, hidden, latent, **options) if state_prior else None

    def prior(self, observation: Tensor) -> Gaussian:
        """Return the prior of latents, `[*lead, N, Z]` each, at states `[*lead, N, O]`."""
        if self.state_prior is not None:
            return self.state_prior(observation)
        mean = observation.new_zeros(*observation.shape[:-1], self.latent)
        return Gaussian(mean, torch.ones_like(mean))

    def loss(
        self,
        observation: Tensor,
        action: Tensor,
        mask: Tensor,
        last: Tensor,
        noise: Noise,
        beta: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return loss and metrics, `[*lead]`.

        Args:
            observation: `[*lead, N, T, O]`.
            action: `[*lead, N, T, A]`.
            mask: 1 at a window's steps, `[*lead, N, T]`.
            last: the state after the window, `[*lead, N, O]`.
            noise: of the posterior's sample.
            beta: weight of the KL.
        """
        posterior = self.encoder(observation, action, mask)
        latent = posterior.mean + posterior.std * noise(posterior.mean)
        log_prob = self.decoder.log_prob(observation, action, latent)
        first = observation[..., 0, :]
        flat = Gaussian(posterior.mean.squeeze(-2), posterior.std.squeeze(-2))
        kl = kl_divergence(flat, self.prior(first))
        # The latent is detached: what skills are is the business of actions, not of where they lead.
        predicted = self.dynamics(torch.cat((first, latent.detach().squeeze(-2)), -1))
        final = log_density(predicted, last)
        return skill_loss(log_prob, mask, kl, final, beta, self.horizon)
