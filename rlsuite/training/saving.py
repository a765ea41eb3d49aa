"""A run to the parts of a checkpoint, all but the replay's rows, and back, checked."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from rlsuite.errors import DataError
from rlsuite.replay.packed import chunk_columns
from rlsuite.runs.checkpoint import Loaded
from rlsuite.runs.tensorfile import check_like
from rlsuite.strict import is_number
from rlsuite.training import state
from rlsuite.training.assembly import Clock, OnlineRun, Run
from rlsuite.training.recorder import Recorder

logger = logging.getLogger(__name__)


def snapshot(run: Run, recorder: Recorder) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """Return everything but the replay's rows: tensors by part and JSON documents by name."""
    sums, counts = run.sums.state()
    tensors: dict[str, Mapping[str, Tensor]] = {
        "agent": state.agent_tensors(run.agent),
        "optim": state.optimizer_tensors(run.agent),
        "sums": sums,
    }
    plugins = {
        f"{name}/{key}": value
        for name, plugin in run.plugins.items()
        for key, value in plugin.state_dict().items()
    }
    if plugins:
        tensors["plugins"] = plugins
    called, callbacks = run.hooks.callbacks.state()
    if called:
        tensors["callbacks"] = called
    if isinstance(run, OnlineRun):
        tensors |= {
            "env": run.env.state_dict(),
            "carried": state.td_tensors(run.td),
            "episodes": run.episodes.state(),
        }
        if run.take_over is not None:
            tensors["intervention"] = run.take_over.state()
    documents = {
        "rng": run.streams.state_dict(),
        "counters": {"clock": asdict(run.clock), "sums": counts, "replay": run.replay.state_dict()},
        "recorder": recorder.state_dict(),
        **({"callbacks": callbacks} if callbacks else {}),
    }
    return tensors, documents


def entries_below(saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries whose name begins with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in saved.items() if key.startswith(prefix)}


def restore(run: Run, loaded: Loaded) -> None:
    """Put a checkpoint into a freshly built run.

    Raises:
        DataError: it does not fit. Its digests are true, so another run, another release or a hand wrote it.
    """
    tensors, documents = loaded.tensors, loaded.documents
    try:
        counters = documents["counters"]
        clock = saved_clock(counters["clock"], loaded.step)
        state.load_agent_tensors(run.agent, tensors["agent"])
        state.load_optimizer_tensors(run.agent, tensors["optim"])
        if isinstance(run, OnlineRun):
            run.env.load_state_dict(tensors["env"])
            # Beyond what a reset gives there is what policies carry from step to step.
            fresh = state.td_tensors(run.td)
            check_like("carried", {key: tensors["carried"][key] for key in fresh}, fresh)
            check_rows("carried", tensors["carried"], run.env.num_envs)
            run.td = state.load_td(tensors["carried"], run.env.num_envs, run.device)
            run.episodes.load(tensors["episodes"])
            if run.take_over is not None:
                run.take_over.load(tensors["intervention"])
        for name, plugin in run.plugins.items():
            plugin.load_state_dict(entries_below(tensors.get("plugins", {}), f"{name}/"))
        called = tensors.get("callbacks", {})
        if absent := run.hooks.callbacks.load(called, documents.get("callbacks", {})):
            logger.warning("goes on without its callbacks %s: they were not given again", ", ".join(absent))
        run.sums.load(tensors["sums"], counters["sums"])
        run.streams.load_state_dict(documents["rng"])
        run.replay.load(counters["replay"], replay_chunks(run, loaded))
        for name, value in asdict(clock).items():
            setattr(run.clock, name, value)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"the checkpoint does not fit this run: {error!r}") from error


def saved_clock(values: Any, step: int) -> Clock:
    """Return the clock of a checkpoint's document, every field checked; one that it lacks is new.

    Raises:
        ValueError: an unknown field, a value of another type, or the clock of another step.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"clock = {values!r}: not an object")
    clock = Clock(**values)
    if "best_returns" not in values and clock.best_return is not None:  # of before they were kept
        clock.best_returns, clock.evaluated = [], clock.updates
    for name, value in asdict(clock).items():
        if name == "best_returns":
            if not isinstance(value, list) or not all(item is None or is_number(item) for item in value):
                raise ValueError(f"clock: {name} = {value!r:.40}: must be a list of numbers or null")
            continue
        returns = name.endswith("_return")
        fits = value is None or is_number(value) if returns else type(value) is int and value >= 0
        if not fits:
            wanted = "a finite number or null" if returns else "a whole number, not negative"
            raise ValueError(f"clock: {name} = {value!r:.40}: must be {wanted}")
    if clock.env_steps != step:
        raise ValueError(f"clock: env_steps = {clock.env_steps}, the manifest is of step {step}")
    return clock


def replay_chunks(run: Run, loaded: Loaded) -> Iterator[dict[str, Tensor]]:
    """Yield the chunks of a checkpoint's replay, each with the columns that the run's own would have."""
    for name, chunk in loaded.chunks():
        if isinstance(run, OnlineRun):
            columns = chunk_columns(chunk)
            # Of any length: what must agree is what a transition is.
            empty = {key: column[:0] if column.dim() else column for key, column in columns.items()}
            check_like(name, empty, run.replay.no_rows(example_step(run)))
            check_rows(name, columns, len(columns["observation"]))
        yield chunk


def example_step(run: OnlineRun) -> TensorDict:
    """Return a vector step `[num_envs]` of the run's shapes and types."""
    observation, size = run.td.get("observation"), [run.env.num_envs]
    flag = torch.zeros(*size, 1, dtype=torch.bool, device=run.device)
    flags = dict.fromkeys(("terminated", "truncated", "done", "valid"), flag)
    after = {"observation": observation, "reward": run.env.reward_spec.zero(), **flags}
    before = {"observation": observation, "action": run.env.action_spec.zero()}
    return TensorDict({**before, "next": TensorDict(after, size)}, size)


def check_rows(part: str, tensors: Mapping[str, Tensor], rows: int) -> None:
    """Raise DataError unless every tensor has `rows` rows."""
    for name, tensor in tensors.items():
        if not tensor.dim() or len(tensor) != rows:
            raise DataError(
                f'checkpoint part "{part}": {name} is {tuple(tensor.shape)}, expected {rows} rows'
            )
