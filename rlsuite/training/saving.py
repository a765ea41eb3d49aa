"""A run to the parts of a checkpoint, all but the replay's rows, and back, checked."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from rlsuite.errors import DataError
from rlsuite.replay.packed import chunk_columns
from rlsuite.runs.checkpoint import Loaded
from rlsuite.runs.tensorfile import check_like
from rlsuite.strict import is_number
from rlsuite.training import state
from rlsuite.training.assembly import Clock, Learner, Run
from rlsuite.training.recorder import Recorder


def snapshot(run: Learner, recorder: Recorder) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
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
    if isinstance(run, Run):
        tensors |= {
            "env": run.env.state_dict(),
            "carried": state.carried_tensors(run.carried),
            "episodes": run.episodes.state(),
        }
    documents = {
        "rng": run.streams.state_dict(),
        "counters": {"clock": asdict(run.clock), "sums": counts, "replay": run.replay.state_dict()},
        "recorder": recorder.state_dict(),
    }
    return tensors, documents


def own_entries(saved: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries whose name begins with `prefix`, without it."""
    return {key[len(prefix) :]: value for key, value in saved.items() if key.startswith(prefix)}


def restore(run: Learner, loaded: Loaded) -> None:
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
        if isinstance(run, Run):
            run.env.load_state_dict(tensors["env"])
            # Beyond what a reset gives there is what policies carry from step to step.
            fresh = state.carried_tensors(run.carried)
            check_like("carried", {key: tensors["carried"][key] for key in fresh}, fresh)
            check_rows("carried", tensors["carried"], run.env.num_envs)
            run.carried = state.load_carried(tensors["carried"], run.env.num_envs, run.device)
            run.episodes.load(tensors["episodes"])
        for name, plugin in run.plugins.items():
            plugin.load_state_dict(own_entries(tensors.get("plugins", {}), f"{name}/"))
        run.sums.load(tensors["sums"], counters["sums"])
        run.streams.load_state_dict(documents["rng"])
        run.replay.load(counters["replay"], replay_rows(run, loaded))
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
    for name, value in asdict(clock).items():
        returns = name.endswith("_return")
        fits = value is None or is_number(value) if returns else type(value) is int and value >= 0
        if not fits:
            wanted = "a finite number or null" if returns else "a whole number, not negative"
            raise ValueError(f"clock: {name} = {value!r:.40}: must be {wanted}")
    if clock.env_steps != step:
        raise ValueError(f"clock: env_steps = {clock.env_steps}, the manifest is of step {step}")
    return clock


def replay_rows(run: Learner, loaded: Loaded) -> Iterator[dict[str, Tensor]]:
    """Yield the chunks of a checkpoint's replay, each with the columns that the run's own rows would have."""
    for name, rows in loaded.chunks():
        if isinstance(run, Run):
            following = run.carried.clone(False).set("reward", run.env.reward_spec.zero())
            step = run.carried.clone(False).set("action", run.env.action_spec.zero()).set("next", following)
            own = run.replay.no_rows(step)
            # Of any length: what must agree is what a row is.
            named = chunk_columns(rows)
            check_like(name, {key: named[key][:0] if named[key].dim() else named[key] for key in named}, own)
            check_rows(name, named, len(named["observation"]))
        yield rows


def check_rows(part: str, tensors: Mapping[str, Tensor], rows: int) -> None:
    """Raise DataError unless every tensor has `rows` rows."""
    for name, tensor in tensors.items():
        if not tensor.dim() or len(tensor) != rows:
            raise DataError(
                f'checkpoint part "{part}": {name} is {tuple(tensor.shape)}, expected {rows} rows'
            )
