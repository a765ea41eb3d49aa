"""Trained policies in safetensors files: Stable-Baselines3's squashed Gaussian actor (SAC, TQC).

Tensors `latent_pi.0`, `latent_pi.2` (ReLU between), `mu` and `log_std`, each with weight and bias; the
action is tanh(mu), or tanh of a sample. Observations are not normalised.

Legend: B worlds, O observation, A action.
"""

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from rlsuite.errors import DataError

LAYERS = ("latent_pi.0", "latent_pi.2", "mu", "log_std")
LOG_STD_RANGE = (-20.0, 2.0)  # of Stable-Baselines3's actor
MAX_BYTES = 1 << 30


class PolicyFile:
    """The actor of a policy file.

    Args:
        path: the safetensors file.

    Raises:
        DataError: it is no such file, or its layers do not fit each other.
    """

    def __init__(self, path: Path) -> None:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise DataError(f"{path}: {path.stat().st_size:,} bytes, expected a policy of at most 1 GiB")
            raw = path.read_bytes()
            tensors = safetensors.torch.load(raw)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise DataError(f"{path}: not a safetensors file ({error})") from error
        self.sha256 = hashlib.sha256(raw).hexdigest()
        self._layers: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in LAYERS:
            weight, bias = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.bias")
            if weight is None or bias is None:
                raise DataError(f"{path}: {layer}: missing; found {', '.join(sorted(tensors)[:8])}")
            if weight.dim() != 2 or bias.shape != weight.shape[:1]:
                raise DataError(
                    f"{path}: {layer}: found {list(weight.shape)} and {list(bias.shape)}, expected a matrix "
                    "and a bias"
                )
            self._layers[layer] = weight.float(), bias.float()
            if not all(tensor.isfinite().all() for tensor in self._layers[layer]):
                raise DataError(f"{path}: {layer}: found a number that is not finite")
        self.observation = self._layers[LAYERS[0]][0].shape[1]
        self.action = self._layers["mu"][0].shape[0]
        hidden = self._layers["latent_pi.2"][0]
        widths = [hidden.shape[1] == self._layers["latent_pi.0"][0].shape[0]]
        widths += [self._layers[head][0].shape == (self.action, hidden.shape[0]) for head in LAYERS[2:]]
        if not all(widths):
            raise DataError(f"{path}: the layers do not fit each other")

    def mean(self, observation: Tensor) -> Tensor:
        """Return the deterministic actions `[B, A]` for observations `[B, O]`."""
        return F.linear(self._features(observation), *self._layers["mu"]).tanh()

    def sample(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return sampled actions `[B, A]`."""
        features = self._features(observation)
        mean = F.linear(features, *self._layers["mu"])
        std = F.linear(features, *self._layers["log_std"]).clamp(*LOG_STD_RANGE).exp()
        return (mean + std * torch.randn(mean.shape, generator=generator)).tanh()

    def _features(self, observation: Tensor) -> Tensor:
        hidden = F.linear(observation, *self._layers["latent_pi.0"]).relu()
        return F.linear(hidden, *self._layers["latent_pi.2"]).relu()
