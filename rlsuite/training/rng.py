"""Named random streams: every source of chance in a run is a child of one seed and can be saved.

A child's key is a hash of its name, so adding a stream, or creating them in another order, changes no
other stream (numpy's `SeedSequence` with an explicit `spawn_key`).
"""

import base64
import binascii
import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rlsuite.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

STREAM_NAMES = ("init", "act", "learn", "explore", "sample", "env", "eval", "plugin", "intervene")

_KEY_WORDS = 4  # 32-bit words of the name's hash in the spawn key: 128 bits, no accidental collision
_NUMPY_BRANCH = 1  # last word of the spawn key of a stream's numpy generator; torch uses the stream itself
_RANK_BRANCH = 2  # before the rank, in the spawn keys of a process that trains together with others
SHARED_STREAMS = ("init", "env", "eval")  # every rank's: the same weights, and envs counted through


class Streams:
    """The random streams of one run, by the fixed names of `STREAM_NAMES`."""

    def __init__(self, seed: int, device: torch.device | str = "cpu", rank: int = 0) -> None:
        """Derive all streams from `seed` (not negative); torch generators live on `device` by default.

        Ranks other than 0 have streams of their own, but for `SHARED_STREAMS`.
        """
        if seed < 0:
            raise ConfigError(f"seed = {seed}: must not be negative")
        self._seed = seed
        self._rank = rank
        self._device = torch.device(device)
        self._torch: dict[str, torch.Generator] = {}
        self._numpy: dict[str, np.random.Generator] = {}
        # States loaded before their generator was asked for: its device is known only then.
        self._waiting: dict[str, tuple[str, bytes]] = {}

    def torch(self, name: str, device: torch.device | str | None = None) -> torch.Generator:
        """Return the torch generator of stream `name`: created once, the same object ever after.

        Raises:
            ValueError: unknown name, or the generator exists on another device.
        """
        wanted = self._device if device is None else torch.device(device)
        if name in self._torch:
            generator = self._torch[name]
            if device is not None and generator.device.type != wanted.type:
                raise ValueError(f'stream "{name}" lives on {generator.device}, it was asked for on {wanted}')
            return generator
        generator = torch.Generator(wanted)
        generator.manual_seed(int(self._child(name).generate_state(2, np.uint64)[0] >> np.uint64(1)))
        if name in self._waiting:
            _restore(generator, name, *self._waiting.pop(name))
        self._torch[name] = generator
        return generator

    def numpy(self, name: str) -> np.random.Generator:
        """Return the numpy generator of stream `name`; independent of the torch one of the same name."""
        if name not in self._numpy:
            self._numpy[name] = np.random.Generator(np.random.PCG64(self._child(name, _NUMPY_BRANCH)))
        return self._numpy[name]

    def seed(self, name: str) -> int:
        """Return a fixed seed in [0, 2**31) for code that takes only an integer, such as environments."""
        return int(self._child(name).generate_state(2, np.uint64)[1] >> np.uint64(33))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every stream in use, as plain JSON values."""
        kept = {
            name: (g.device.type, bytes(g.get_state().cpu().numpy().tobytes()))
            for name, g in self._torch.items()
        }
        return {
            "seed": str(self._seed),
            "torch": {
                name: {"device": device, "state": base64.b64encode(state).decode("ascii")}
                for name, (device, state) in sorted({**self._waiting, **kept}.items())
            },
            "numpy": {name: _pcg64_to_json(g) for name, g in sorted(self._numpy.items())},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set every stream to a state from `state_dict`; generators already handed out are set in place.

        Raises:
            DataError: the state is malformed or belongs to a run with another seed.
        """
        try:
            if int(state["seed"]) != self._seed:
                raise DataError(
                    f"random streams of seed {state['seed']} cannot continue a run of seed {self._seed}"
                )
            for name, saved in state["torch"].items():
                self._child(name)
                device, raw = str(saved["device"]), base64.b64decode(saved["state"], validate=True)
                if name in self._torch:
                    _restore(self._torch[name], name, device, raw)
                else:
                    self._waiting[name] = (device, raw)
            for name, saved in state["numpy"].items():
                self.numpy(name).bit_generator.state = _pcg64_from_json(saved)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, binascii.Error) as error:
            raise DataError(f"the saved random streams are malformed: {error!r}") from error

    def _child(self, name: str, *branch: int) -> np.random.SeedSequence:
        if name not in STREAM_NAMES:
            raise ValueError(f'"{name}" is not a random stream; there are {", ".join(STREAM_NAMES)}')
        key = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")[:_KEY_WORDS]
        if self._rank and name not in SHARED_STREAMS:
            branch = (_RANK_BRANCH, self._rank, *branch)
        return np.random.SeedSequence(self._seed, spawn_key=(*(int(part) for part in key), *branch))


class SeedStreams:
    """The streams of the independent agents of one run: `Streams` for each root seed.

    What is the same for one agent and for many: a source of random numbers (one generator, or one per
    agent) and a list of seeds.
    """

    def __init__(self, roots: Sequence[int], device: torch.device | str = "cpu", rank: int = 0) -> None:
        """Derive the streams of every agent from its root; at least one."""
        self._each = [Streams(root, device, rank) for root in roots]

    def __len__(self) -> int:
        return len(self._each)

    def source(self, name: str) -> torch.Generator | tuple[torch.Generator, ...]:
        """Return the stream `name`: of the only agent, or of each."""
        every = tuple(streams.torch(name) for streams in self._each)
        return every[0] if len(every) == 1 else every

    def seeds(self, name: str) -> list[int]:
        """Return the fixed seed of stream `name` of every agent; see `Streams.seed`."""
        return [streams.seed(name) for streams in self._each]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every stream in use, as plain JSON values."""
        states = [streams.state_dict() for streams in self._each]
        return states[0] if len(states) == 1 else {"each": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set every stream in place; DataError when the state is of other seeds."""
        states = state.get("each", [state]) if isinstance(state, Mapping) else state
        if not isinstance(states, list):
            raise DataError(f"the saved random streams are malformed: {states!r:.40}")
        if len(states) != len(self):
            raise DataError(f"random streams of {len(states)} seeds cannot continue a run of {len(self)}")
        for streams, state in zip(self._each, states, strict=True):
            streams.load_state_dict(state)


def _restore(generator: torch.Generator, name: str, device: str, raw: bytes) -> None:
    """Set `generator` to a saved state, or reseed it from that state on another kind of device."""
    if generator.device.type != device:
        # States are not portable between devices. Hashing this one neither replays the stream from its
        # beginning nor depends on anything but the checkpoint.
        logger.warning(
            'random stream "%s" was saved on %s and goes on, reseeded, on %s', name, device, generator.device
        )
        generator.manual_seed(int.from_bytes(hashlib.sha256(raw).digest()[:8], "little") >> 1)
        return
    try:
        generator.set_state(torch.frombuffer(bytearray(raw), dtype=torch.uint8))
    except (RuntimeError, TypeError) as error:
        raise DataError(f'the saved state of random stream "{name}" is unusable: {error}') from error


def _pcg64_to_json(generator: np.random.Generator) -> dict[str, str | int]:
    """128-bit integers travel as text: JSON readers other than Python's round them."""
    state = generator.bit_generator.state
    return {
        "state": str(state["state"]["state"]),
        "inc": str(state["state"]["inc"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def _pcg64_from_json(saved: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "bit_generator": "PCG64",
        "state": {"state": int(saved["state"]), "inc": int(saved["inc"])},
        "has_uint32": int(saved["has_uint32"]),
        "uinteger": int(saved["uinteger"]),
    }
