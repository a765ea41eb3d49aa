"""The second door to an agent's losses: a `torchrl.objectives.LossModule` for any TorchRL loop."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tensordict import TensorDictBase
from tensordict.nn import TensorDictParams
from torch import nn
from torchrl.objectives import LossModule

from rlsuite.blocks.noise import Noise, Source
from rlsuite.errors import ConfigError

IN_KEYS = ["observation", "action", *(("next", key) for key in ("observation", "reward", "terminated"))]


class AgentLoss(LossModule):
    """Holds networks as functional parameters, with targets for `SoftUpdate`; subclasses define `forward`.

    TorchRL wraps every attribute of a loss module whose name holds "loss" as a method: name losses that are
    kept as attributes otherwise.

    Args:
        networks: by name, each stored as `NAME_params`.
        targets: names of those with a `target_NAME_params`.
        losses: keys of what `forward` returns.
        generator: noise of the losses; None is torch's global stream.
    """

    batch_keys: ClassVar[list[Any]] = IN_KEYS
    """Entries of a batch that the losses read."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        targets: tuple[str, ...],
        losses: list[str],
        generator: Source = None,
    ) -> None:
        super().__init__()
        self.in_keys, self.out_keys = list(self.batch_keys), losses
        self.noise = Noise(generator)
        for name, network in networks.items():
            self.convert_to_functional(network, name, create_target_params=name in targets)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Return the losses of a batch; all its axes are joined: losses are means over transitions."""
        if inputs and isinstance(inputs[0], TensorDictBase) and inputs[0].ndim > 1:
            inputs = (inputs[0].reshape(-1), *inputs[1:])
        return super().__call__(*inputs, **named)

    def set_keys(self, **keys: Any) -> None:
        """Raise ConfigError for any key: ours are fixed."""
        if keys:
            raise ConfigError(
                f"{type(self).__name__} has fixed keys and cannot take {', '.join(keys)}: rename the batch's "
                "entries (TorchRL's RenameTransform), e.g. to observation, action, (next, reward)"
            )

    def make_value_estimator(self, value_type: Any = None, **settings: Any) -> None:
        """Raise ConfigError: the target is part of the loss, and its discount a field of the config."""
        raise ConfigError(
            f"{type(self).__name__} computes its own targets and takes no value estimator: set the discount "
            "in its config; several steps are the replay's (a column `discount` beside summed rewards)"
        )

    def net(self, name: str, *, target: bool = False, fixed: bool = False) -> Callable[..., Any]:
        """Return a network as a function: of its parameters, of its target's, or of constants (`fixed`)."""
        module: nn.Module = getattr(self, name)
        params: TensorDictParams = getattr(self, f"target_{name}_params" if target else f"{name}_params")

        def call(*inputs: Any) -> Any:
            with (params.detach() if fixed else params).to_module(module):
                return module(*inputs)

        return call
