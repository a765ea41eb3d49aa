"""floq: FQL whose critic is a flow from noise to the value (Agrawalla et al. 2025, arXiv 2509.06863).

Legend: N batch, R copies of a row, M members, K integration steps, O observation, A action. Losses are
written for the last axes; leading axes are independent seeds, whose losses stay apart. Numbers that flow have
a last axis of 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from rlsuite.agents.base import Spaces
from rlsuite.agents.fql import FQL, Actor, FQLConfig, policy_losses
from rlsuite.agents.losses import Critic, td_target
from rlsuite.agents.optim import polyak
from rlsuite.agents.optimizers import make_optimizer
from rlsuite.agents.policies import clipped
from rlsuite.agents.torchrl_loss import AgentLoss
from rlsuite.blocks.flow import ValueField, VelocityField, euler, flow_errors
from rlsuite.blocks.heads import NoiseActor, ScalarCritic
from rlsuite.blocks.noise import Noise, Source
from rlsuite.bounds import AtLeastOne, Bounds, Positive, Widths
from rlsuite.errors import ConfigError
from rlsuite.replay.batch import Batch, unpack

Field = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(observation, action, numbers, times) to velocities of the members; see `ValueField.forward`."""


@dataclass(frozen=True, kw_only=True)
class FloqConfig(FQLConfig):
    """Hyper-parameters of floq; the defaults are those of the authors' code."""

    gamma: Annotated[float, Bounds(0, 1, open_high=True)] = 0.99
    """Discount per env step."""
    hidden_field: Widths | None = None
    """Widths of the hidden layers of the field; none: those of `hidden`."""
    members: AtLeastOne = 2
    """Members of the field, M; those of the critic that copies it stay two."""
    field_steps: AtLeastOne = 8
    """Euler steps of the field from its start to a value, the paper's K."""
    copies: AtLeastOne = 8
    """Copies of every row, each with starts, times and next actions of its own."""
    start_share: Annotated[float, Bounds(0)] = 0.1
    """Starts are uniform over this share of the range that values of the data's rewards have."""
    bins: Annotated[int, Bounds(2)] = 50
    """Bins in which the field sees the number that it moves."""
    smoothing: Positive = 16.0
    """Deviation of the Gaussian around that number, in widths of a bin."""
    at_zero: bool = False
    """Train the field at time 0 alone, where its one step begins: the authors' one-step ablation."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range, and for an ablation of several steps."""
        super().__post_init__()
        if self.at_zero and self.field_steps != 1:
            raise ConfigError(
                f"field_steps = {self.field_steps}: at_zero trains the first step alone; set field_steps = 1"
            )


class Copies(NamedTuple):
    """Copies of a batch's rows beside one another: `[*lead, N R, ...]`."""

    observation: Tensor
    action: Tensor
    start: Tensor
    """Where the field starts, the same for all members, `[*lead, 1, N R, 1]`."""


def repeated(rows: Tensor, copies: int) -> Tensor:
    """Return `[*, N R, D]` for `[*, N, D]`, the copies of a row side by side."""
    return rows.unsqueeze(-2).expand(*rows.shape[:-1], copies, rows.shape[-1]).flatten(-3, -2)


def by_row(copied: Tensor, copies: int) -> Tensor:
    """Return `[*, N, R]` for numbers of copies `[*, N R, 1]`."""
    return copied.squeeze(-1).unflatten(-1, (-1, copies))


def read_out(field: Field, rows: Copies, steps: int) -> Tensor:
    """Return what each member makes of the starts, integrating a number of its own, `[*, M, N R, 1]`."""
    return euler(partial(field, rows.observation, rows.action), rows.start, steps)


def target_of(values: Tensor, batch: Batch, how: str) -> Tensor:
    """Return the mean over copies of r + gamma (1 - terminated) agg_m z, `[N]`, for values `[M, N, R]`.

    A number, not a distribution; each copy aggregates its members by itself (authors' code).
    """
    joined = values.amin(-3) if how == "min" else values.mean(-3)
    return td_target(batch, joined.mean(-1))


def field_loss(field: Field, rows: Copies, target: Tensor, time: Tensor, copies: int) -> Tensor:
    """Return the flow matching loss of the field, summed over copies, mean over members and N, `[]`.

    Args:
        field: the members' velocities.
        rows: copies of observations and actions, and starts.
        target: where all paths of a row end, `[*lead, N]`.
        time: of the copies, `[*lead, 1, N R, 1]`.
        copies: R.
    """
    end = repeated(target.unsqueeze(-1), copies).unsqueeze(-3)
    errors = flow_errors(partial(field, rows.observation, rows.action), rows.start, end, time)
    return by_row(errors, copies).sum(-1).mean((-2, -1))


def distillation_loss(q: Tensor, values: Tensor) -> Tensor:
    """Return mean (Q_i - mean over members and copies of z_K)^2 over members and N, `[]`.

    Args:
        q: the critics' values, `[M, N]`.
        values: what the field makes of the copies, `[M, N, R]`, without gradient.
    """
    return (q - values.mean((-3, -1)).unsqueeze(-2)).square().mean((-2, -1))


def starts(uniform: Tensor, reward_range: Tensor, config: FloqConfig) -> Tensor:
    """Return where integrations start: `uniform` in [0, 1), between a share of what constant rewards bring.

    Args:
        uniform: of any shape.
        reward_range: smallest and greatest reward of the data, `[2]`.
        config: has the share and gamma.
    """
    low, high = (config.start_share / (1 - config.gamma) * reward_range).unbind(-1)
    return low + (high - low) * uniform


def copies_of(
    observation: Tensor, action: Tensor, reward_range: Tensor, config: FloqConfig, noise: Noise
) -> Copies:
    """Return copies of rows with drawn starts; `action` has its copies already, `[*lead, N R, A]`."""
    uniform = noise.uniform(action[..., :1]).unsqueeze(-3)
    return Copies(repeated(observation, config.copies), action, starts(uniform, reward_range, config))


@torch.no_grad()
def flow_target(
    actor: Actor, target: Field, reward_range: Tensor, batch: Batch, config: FloqConfig, noise: Noise
) -> Tensor:
    """Return the target of the values, `[N]`: every copy has a next action and a start of its own.

    Args:
        actor: the one-step policy.
        target: the lagged field.
        reward_range: of the data, `[2]`.
        batch: transitions.
        config: hyper-parameters.
        noise: of the actions, then of the starts.
    """
    like = repeated(batch.action, config.copies)
    shown = repeated(batch.next_observation, config.copies)
    action = clipped(actor(shown, noise.normal(like)))
    rows = copies_of(batch.next_observation, action, reward_range, config, noise)
    values = by_row(read_out(target, rows, config.field_steps), config.copies)
    return target_of(values, batch, config.aggregate)


class FieldLosses(NamedTuple):
    """Losses of field and critics, `[]` each, and what they were made of."""

    field: Tensor
    critic: Tensor
    q: Tensor
    """`[M, N]`, without gradient."""
    values: Tensor
    """The field's, `[M, N, R]`, without gradient."""


def field_losses(
    field: Field,
    critic: Critic,
    reward_range: Tensor,
    batch: Batch,
    target: Tensor,
    config: FloqConfig,
    noise: Noise,
) -> FieldLosses:
    """Return the field's loss and the critics' distance to what it makes of the same starts, today.

    Args:
        field: the members' velocities.
        critic: twin critics without a target.
        reward_range: of the data, `[2]`.
        batch: transitions.
        target: of the values, `[N]`.
        config: hyper-parameters.
        noise: of the starts, then of the times.
    """
    action = repeated(batch.action, config.copies)
    rows = copies_of(batch.observation, action, reward_range, config, noise)
    time = torch.zeros_like(rows.start) if config.at_zero else noise.uniform(rows.start)
    loss = field_loss(field, rows, target, time, config.copies)
    with torch.no_grad():
        values = by_row(read_out(field, rows, config.field_steps), config.copies)
    q = critic(batch.observation, batch.action)
    return FieldLosses(loss, distillation_loss(q, values), q.detach(), values)


class Floq(FQL):
    """FQL with a field of values, and critics without a target that copy it for the policy's gradient."""

    Config: ClassVar[type] = FloqConfig
    needs_data = True

    def build_critic(self, spaces: Spaces, config: FloqConfig) -> None:  # type: ignore[override]
        """Make the field with its target; one optimiser moves it and the critics."""
        shape = replace(self.normed_shape(), hidden=config.hidden_field or config.hidden)
        self.field = ValueField(
            spaces.observation,
            spaces.action,
            shape,
            members=config.members,
            gamma=config.gamma,
            bins=config.bins,
            smoothing=config.smoothing,
        )
        self.draw_weights(self.field)
        moved = [*self.critic.parameters(), *self.field.parameters()]
        self.critic_optimizer = make_optimizer(self, config, (moved, config.lr_critic))
        self.add_parts(self.critic_optimizer, critic=self.critic, field=self.field)
        self.target_field = self.add_target("target_field", self.field)

    def adopt_rewards(self, low: float, high: float) -> None:
        """Take the range of the data's rewards, from which bins and starts follow."""
        self.field.adopt_rewards(low, high)
        self.target_field.adopt_rewards(low, high)

    def target(self, batch: Batch, noise: Noise) -> Tensor:
        """Return the target of the values, `[N]`."""
        reward_range = self.field.reward_range
        return flow_target(self.actor, self.target_field, reward_range, batch, self.config, noise)

    def learn_critic(self, batch: Batch, target: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Step field, critics and the lagged field."""
        reward_range = self.field.reward_range
        losses = field_losses(self.field, self.critic, reward_range, batch, target, self.config, noise)
        norm = self.critic_optimizer.descend(losses.critic + losses.field)
        polyak(self.target_field, self.field, self.config.tau)
        each = losses.values.mean(-3)
        return {
            "loss/critic": losses.critic.detach(),
            "loss/field": losses.field.detach(),
            "q/mean": losses.q.mean((-2, -1)),
            "q/field_gap": (losses.q.mean(-2) - each.mean(-1)).abs().mean(-1),
            "q/start_spread": (each.amax(-1) - each.amin(-1)).mean(-1),
            "grad_norm/critic": norm,
        }

    @torch.no_grad()
    def step_errors(self, batch: TensorDictBase) -> Tensor:
        """Return how far from the target a value is that jumps to the end by the k-th velocity, `[*lead, K]`.

        Mean distance over members, copies and N. The first is what one step alone would say, the last is z_K.
        Where later ones are smaller, the field mends what its first velocities got wrong.

        Args:
            batch: `[*lead, N]` transitions.
        """
        config, tensors = self.config, self.normalized_batch(self.read(batch))
        noise = Noise(self.generators["learn"])
        target = repeated(self.target(tensors, noise).unsqueeze(-1), config.copies).unsqueeze(-3)
        action = repeated(tensors.action, config.copies)
        rows = copies_of(tensors.observation, action, self.field.reward_range, config, noise)
        z, errors = rows.start, []
        for k in range(config.field_steps):
            time = torch.full_like(z, k / config.field_steps)
            velocity = self.field(rows.observation, rows.action, z, time)
            errors.append((z + (1 - k / config.field_steps) * velocity - target).abs().mean((-3, -2, -1)))
            z = z + velocity / config.field_steps
        return torch.stack(errors, -1)


class FloqLoss(AgentLoss):
    """floq's losses as a TorchRL LossModule: `loss_critic`, `loss_field`, `loss_actor` of a replayed batch.

    Args:
        actor: (observation, noise) -> action, as `rlsuite.blocks.heads.NoiseActor`.
        flow: velocity, as `rlsuite.blocks.flow.VelocityField`.
        critic: twin critics, as `rlsuite.blocks.heads.ScalarCritic` with two members.
        field: as `rlsuite.blocks.flow.ValueField`, which knows the range of rewards.
        config: hyper-parameters; learning rates are the caller's business.
        generator: of noise; None is torch's global stream.
    """

    def __init__(
        self,
        actor: NoiseActor,
        flow: VelocityField,
        critic: ScalarCritic,
        field: ValueField,
        config: FloqConfig,
        *,
        generator: Source = None,
    ) -> None:
        networks = {"actor": actor, "flow": flow, "critic": critic, "field": field}
        super().__init__(networks, ("field",), ["loss_critic", "loss_field", "loss_actor"], generator)
        self.config = config

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Return the three losses."""
        config, batch = self.config, unpack(tensordict, self.config.gamma)
        reward_range = self.field_params["reward_range"]
        actor, flow = self.net("actor"), self.net("flow")
        lagged = self.net("field", target=True)
        target = flow_target(actor, lagged, reward_range, batch, config, self.noise)
        policies = policy_losses(flow, actor, self.net("critic", fixed=True), batch, config, self.noise)
        values = field_losses(
            self.net("field"), self.net("critic"), reward_range, batch, target, config, self.noise
        )
        losses = {"loss_critic": values.critic, "loss_field": values.field}
        return TensorDict(losses | {"loss_actor": policies.total(config.alpha)})
