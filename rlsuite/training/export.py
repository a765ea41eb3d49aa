"""A run's policy as one file that needs nothing of ours: observation to action in the environment's units.

The graph holds the observations' normaliser, the actor in evaluation mode, the evaluation action and the
scaling to the actuators' range. What was written is read back and compared with the policy before it gets its
name.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlsuite.agents.policies import Policy
from rlsuite.blocks.normalizer import CLIP, MIN_STD, RunningNorm, Standardise
from rlsuite.errors import ConfigError, DataError, NumericalError
from rlsuite.runs.files import write_atomic
from rlsuite.training.loaded import LoadedPolicy, load

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-5  # between the file's actions and the policy's, as a part of half the action's range
SPARE_BYTES = 1 << 20  # of the graph, names and facts
PROBES = 256  # observations of the comparison
EXAMPLE_ROWS = 2  # of the traced call; 1 would be taken for a constant


class PolicyGraph(nn.Module):
    """Deterministic policy: observations `[N, O]` to actions `[N, A]` in the environment's units, float32.

    Raises:
        ConfigError: the agent's policy is more than one network (it plans, or draws at random).
    """

    middle: Tensor
    half_range: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self, policy: nn.Module, middle: Tensor, half_range: Tensor, low: Tensor, high: Tensor
    ) -> None:
        super().__init__()
        inner = getattr(policy, "module", None)
        if not isinstance(inner, Policy):
            raise ConfigError(
                f"{type(policy).__name__}: the policy is more than one network, and cannot become one graph; "
                "use rlsuite.load(RUN) in Python"
            )
        if not inner.one_graph:
            raise ConfigError(
                f"{type(inner).__name__}: evaluations draw noise, which a graph cannot; train with "
                "--agent.evaluation mode, or use rlsuite.load(RUN) in Python"
            )
        self.normalizer = inner.normalizer
        self.actor, self.mode = inner.actor, inner.mode
        self.register_buffer("middle", middle)
        self.register_buffer("half_range", half_range)
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.eval()

    def forward(self, observation: Tensor) -> Tensor:
        """Return actions `[N, A]` for observations `[N, O]`."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        action = self.middle + self.half_range * self.mode(self.actor(observation))
        return torch.minimum(torch.maximum(action, self.low), self.high)  # the sum rounds beyond the ends


@dataclass(frozen=True, slots=True)
class Exported:
    """Files that `export` wrote, and how they were checked.

    Attributes:
        path: the file.
        facts: what lies beside it as JSON: run, environment, sizes, range, digest, versions.
        difference: largest deviation of its actions from the policy's, in halves of the action's range.
    """

    path: Path
    facts: Mapping[str, Any]
    difference: float


def export(
    run: Path, form: Format, out: Path | None = None, *, which: str = "last", seed_index: int = 0
) -> Exported:
    """Write a run's policy as ONNX or as a `torch.export` archive, with its facts as JSON beside it.

    Args:
        run: the run folder.
        form: "onnx" or "torch".
        out: the file; by default AGENT-ENV.onnx or .pt2 in the run folder.
        which: "last", "best", or the env steps of a checkpoint.
        seed_index: which agent of a run with several seeds, from 0.

    Raises:
        ConfigError: the file exists, a package is missing, the policy is no single graph, or there is no
            such run, checkpoint or agent.
        DataError: the file cannot be written.
        NumericalError: what was written does not act like the policy.
    """
    loaded = load(run, checkpoint=which, seed_index=seed_index)
    path = (
        out
        or run / f"{loaded.agent_name}-{loaded.env_id.replace(':', '-').replace('/', '-')}{SUFFIXES[form]}"
    )
    if path.suffix != SUFFIXES[form]:
        raise ConfigError(f"{path}: a file of format {form} ends in {SUFFIXES[form]}")
    beside = path.with_suffix(".json")
    for taken in (path, beside):
        if taken.exists() and not (taken == beside and is_facts(beside)):
            raise ConfigError(f"{taken} exists: move it away, or name another file with --out")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder: make it first")
    graph = PolicyGraph(loaded.policy, loaded.middle, loaded.half_range, loaded.low, loaded.high)
    facts = loaded.facts | {
        "format": form,
        "input": ["observation", "float32", [None, loaded.observation_size]],
    }
    facts |= {"action_low": loaded.low.tolist(), "action_high": loaded.high.tolist()}
    facts |= {"inputs": [input_of(loaded, graph)], "outputs": [output_of(loaded)]}
    stage = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        check_room(stage, graph)
        read = WRITERS[form](graph, loaded.observation_size, stage, facts)
        difference = compare(read, loaded)
        if not difference <= TOLERANCE:
            raise NumericalError(
                f"{form}: the file's actions differ from the policy's by {difference:.1e} of half the range, "
                f"allowed are {TOLERANCE:.0e}; nothing was written"
            )
        with stage.open("rb") as file:
            facts |= {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "difference": difference}
        write_atomic(beside, (json.dumps(facts, indent=2) + "\n").encode())
        stage.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            stage.unlink(missing_ok=True)
    return Exported(path, facts, difference)


def input_of(loaded: LoadedPolicy, graph: PolicyGraph) -> dict[str, Any]:
    """Return what the graph takes: name, type, shape, what stands where, and how it scales that itself."""
    parts, start = [], 0
    for name, size in loaded.parts:
        parts.append({"name": name, "start": start, "stop": start + size})
        start += size
    return {
        "name": "observation",
        "dtype": "float32",
        "shape": [None, loaded.observation_size],
        "parts": parts,
        "scaled_inside": scale_of(graph.normalizer, loaded.observation_size),
    }


def scale_of(normalizer: nn.Module | None, size: int) -> dict[str, Any] | None:
    """Return mean, std and limit by which observations are normalised in the graph; None: not at all."""
    if isinstance(normalizer, RunningNorm):
        std = normalizer.var.sqrt().clamp(min=MIN_STD)
        return {"mean": normalizer.mean[:size].tolist(), "std": std[:size].tolist(), "limit": CLIP}
    if isinstance(normalizer, Standardise):
        return {"mean": normalizer.mean.tolist(), "std": normalizer.std.tolist(), "limit": None}
    return None


def output_of(loaded: LoadedPolicy) -> dict[str, Any]:
    """Return what the graph gives: actions in the environment's units, in their order."""
    return {
        "name": "action",
        "dtype": "float32",
        "shape": [None, len(loaded.middle)],
        "names": list(loaded.action_names),
        "low": loaded.low.tolist(),
        "high": loaded.high.tolist(),
        "scaled_inside": {"middle": loaded.middle.tolist(), "half_range": loaded.half_range.tolist()},
    }


def is_facts(path: Path) -> bool:
    """Return whether a JSON file is one that an earlier export left, and no file of a run."""
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and {"format", "sha256", "input"} <= facts.keys()


def check_room(path: Path, graph: nn.Module) -> None:
    """Raise OSError where `path` cannot be made, or its disk has no room for the weights.

    torch.export ends the process when its archive cannot be written: that is found out before.
    """
    path.write_bytes(b"")
    weights = sum(t.numel() * t.element_size() for t in graph.state_dict().values())
    if shutil.disk_usage(path.parent).free < 2 * weights + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    path.unlink()


def compare(read: Callable[[Tensor], Tensor], loaded: LoadedPolicy) -> float:
    """Return the largest difference of actions over drawn observations, in halves of the action's range."""
    generator = torch.Generator().manual_seed(0)
    observation = torch.randn(PROBES, loaded.observation_size, generator=generator)
    expected = loaded.scaled(observation)
    # An action whose low is its high has no range: what differs there differs by all of it.
    half = torch.where(loaded.half_range > 0, loaded.half_range, 1)
    return float(((read(observation).detach() - expected).abs() / half).max())


def write_onnx(
    graph: PolicyGraph, observation: int, path: Path, facts: Mapping[str, Any]
) -> Callable[[Tensor], Tensor]:
    """Write ONNX with the facts in its metadata; return how ONNX Runtime runs it."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # the exporter needs it, and says so less clearly
    except ModuleNotFoundError as error:
        raise ConfigError(f'--format onnx needs {error.name}: pip install "rlsuite[export]"') from error
    batch = torch.export.Dim("batch")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every package it can do without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (torch.zeros(EXAMPLE_ROWS, observation),),
            dynamo=True,
            verbose=False,
            input_names=["observation"],
            output_names=["action"],
            dynamic_shapes={"observation": {0: batch}},
        )
    assert program is not None
    program.model.metadata_props["rlsuite"] = json.dumps(facts)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda observations: torch.from_numpy(session.run(None, {"observation": observations.numpy()})[0])


def write_torch(
    graph: PolicyGraph, observation: int, path: Path, facts: Mapping[str, Any]
) -> Callable[[Tensor], Tensor]:
    """Write a `torch.export` archive with the facts beside its graph; return its module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch")
        program = torch.export.export(
            graph, (torch.zeros(EXAMPLE_ROWS, observation),), dynamic_shapes=({0: batch},)
        )
        torch.export.save(program, path, extra_files={"rlsuite.json": json.dumps(facts)})
        read: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return read


WRITERS = {"onnx": write_onnx, "torch": write_torch}
