"""The second door to an agent's losses: a `torchrl.objectives.LossModule` for any TorchRL loop."""

from collections.abc import Callable, Mapping
from typing import Any

from tensordict.nn import TensorDictParams
from torch import nn
from torchrl.objectives import LossModule

from rlsuite.blocks.noise import Noise, Source

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

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        targets: tuple[str, ...],
        losses: list[str],
        generator: Source = None,
    ) -> None:
        super().__init__()
        self.in_keys, self.out_keys = IN_KEYS, losses
        self.noise = Noise(generator)
        for name, network in networks.items():
            self.convert_to_functional(network, name, create_target_params=name in targets)

    def net(self, name: str, *, target: bool = False, fixed: bool = False) -> Callable[..., Any]:
        """Return a network as a function: of its parameters, of its target's, or of constants (`fixed`)."""
        module: nn.Module = getattr(self, name)
        params: TensorDictParams = getattr(self, f"target_{name}_params" if target else f"{name}_params")

        def call(*inputs: Any) -> Any:
            with (params.detach() if fixed else params).to_module(module):
                return module(*inputs)

        return call
