"""A neuron reset on every network of one of our agents: the plug-ins `grama` and `redo`."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from rlsuite.blocks.chains import hidden_layers
from rlsuite.blocks.noise import Source
from rlsuite.errors import ConfigError
from rlsuite.plugins.base import Plugin
from rlsuite.plugins.neurons.chains import Chain, chain
from rlsuite.plugins.neurons.resets import NeuronReset, Outgoing, check_fields, inactive_share

Incoming = Literal["original", "default", "kaiming", "lecun", "xavier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetConfig:
    """Fields of every neuron reset on the command line; GraMa and ReDo differ in two defaults."""

    tau: float
    """Units at or below this share of their layer's mean score are reset."""
    period: int = 1000
    """Updates between resets."""
    incoming: Incoming = "original"
    """How incoming weights are redrawn."""
    outgoing: Outgoing = "zero"
    """Outgoing weights of a reset unit: zero (both papers), keep (GraMa's code), or small random ones."""
    max_fraction: float = 1.0
    """Share of a layer that one reset may touch."""
    reset_moments: bool = True
    """Forget the optimiser's moments of touched entries."""
    reset_step: bool = False
    """Also set the touched tensors' step count to zero; refused where an optimiser has one for all."""
    measure_only: bool = False
    """Score and log, and reset nothing."""
    parts: tuple[str, ...] = ()
    """Parts of the agent (actor, critic, ...); none: all that are trained (GraMa's code: critics)."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_fields(self.tau, self.period, self.outgoing, self.incoming, self.max_fraction)


class ResetPlugin(Plugin):
    """One `NeuronReset` per trained part, with its own count of updates; subclasses say which.

    A part is scored on the update itself: what a delayed actor has of an earlier one is dropped, and its
    reset waits for its next step. A resumed run needs no gradient of before, and of all updates only those
    that are scored need to be eager: the period's, and those after it while a part waits. Hooks are there
    during these alone.
    """

    eager: ClassVar[bool] = True  # for loops that do not ask `watches`
    reset_class: ClassVar[type[NeuronReset]]

    def __init__(self, config: Any, agent: Any, source: Source) -> None:
        super().__init__(config, agent, source)
        fields = asdict(config)
        wanted, self.measures_only = fields.pop("parts"), fields.pop("measure_only")
        trained = {p.name: p for p in agent.parts() if p.optimizer is not None and _is_network(p.module)}
        if unknown := [name for name in wanted if name not in trained]:
            raise ConfigError(
                f"{', '.join(unknown)} is no trained network of this agent: {', '.join(trained)}"
            )
        self.resets: dict[str, NeuronReset] = {}
        self.waiting: dict[str, bool] = {}
        for name, part in trained.items():
            if not wanted or name in wanted:
                self.resets[name] = self.reset_class(**fields, generator=source).attach(
                    part.module,
                    part.optimizer,
                    example=_example(part.module, agent),
                    chains=written_chains(part.module),
                )
                self.waiting[name] = False
        self._listen()

    def watches(self, update: int) -> bool:
        """Say whether an update is the period's, or may bring what a part waits for."""
        return update % self.config.period == 0 or any(self.waiting.values())

    def _listen(self) -> None:
        """Switch hooks on before updates that are watched and off before the others."""
        for reset in self.resets.values():
            reset.listen(self.watches(reset.count + 1))

    def after_update(self, agent: Any) -> dict[str, Tensor]:
        """Reset where the period is over and the update reached the part."""
        metrics = {}
        for name, reset in self.resets.items():
            reset.count += 1
            if reset.count % reset.period == 0:
                self.waiting[name] = True
            act = reset.report if self.measures_only else reset.reset
            if self.waiting[name] and (scores := act()):
                self.waiting[name] = False
                share = inactive_share(scores)
                lead = len(agent.lead)
                metrics[f"{self.reset_class.__name__.lower()}/inactive_{name}"] = (
                    share.flatten(lead).mean(-1) if share.dim() > lead else share
                )
            reset.forget()
        self._listen()
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        """Return counts, units reset so far, and who waits for a reset."""
        state = {
            f"{name}/{k}": v for name, reset in self.resets.items() for k, v in reset.state_dict().items()
        }
        return state | {f"{name}/waiting": torch.tensor(waits) for name, waits in self.waiting.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; ConfigError when it is of other networks."""
        for name, reset in self.resets.items():
            entries = {k.removeprefix(f"{name}/"): v for k, v in state.items() if k.startswith(f"{name}/")}
            self.waiting[name] = bool(entries.pop("waiting"))
            reset.load_state_dict(entries)
        self._listen()


def written_chains(module: nn.Module) -> tuple[Chain, ...] | None:
    """Return the chains that a network of ours says it has; None for others, which must be traced."""
    layers = hidden_layers(module)
    if layers is None:
        return None
    return tuple(
        chain(
            module,
            each.layer,
            each.readers,
            norm=each.norm,
            output_of=each.output_of,
            input_of=each.input_of,
        )
        for each in layers
    )


def _is_network(module: nn.Module) -> bool:
    return not isinstance(module, nn.ParameterList) and any(p.dim() > 1 for p in module.parameters())


def _example(module: nn.Module, agent: Any) -> tuple[Tensor, ...]:
    """Return an observation, and an action where the network takes one: two rows for every seed."""
    given = inspect.signature(module.forward).parameters.values()
    count = sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in given)
    device = next(module.parameters()).device
    sizes = (agent.spaces.observation, agent.spaces.action)[:count]
    return tuple(torch.zeros(*agent.lead, 2, size, device=device) for size in sizes)
