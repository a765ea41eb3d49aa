"""Check the functions of a MuJoCo task one by one: pure, batched, of the right shapes, dtypes and memory.

Legend: B envs, Q positions, V velocities, G goal, O observation, A actuators.
"""

from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np
import torch

from rlsuite.envs.arrays import Array
from rlsuite.envs.engines.native import NativeEngine
from rlsuite.envs.findings import Report, array_of, name_of, same
from rlsuite.envs.tasks.base import Start, Task, stack_starts

ENVS = 16
STEPS = 5  # env steps between the two moments that functions are asked about
DRAWS = 400  # initial states whose distribution is compared
SIGMAS = 7.0  # standard errors that means may differ by
SPREAD = 0.4  # share by which standard deviations may differ
DT_ERROR = 1e-9  # seconds

Fields = dict[str, Array]


def check_task(task: Task, build: str, report: Report) -> None:
    """Note what the functions of a task do wrong.

    Args:
        task: what `build` returned.
        build: its name, for what the record itself says.
        report: is added to.
    """
    model = _model(task, build, report)
    if model is None or report.findings:
        return
    starts = _starts(task, model, report)
    if starts is None or report.findings:
        return
    engine = NativeEngine(model, ENVS, task.fields, refresh=task.refresh, threads=1)
    try:
        _functions(task, engine, starts, report)
    finally:
        engine.close()


def _model(task: Task, build: str, report: Report) -> mujoco.MjModel | None:
    """Return a model, whose facts agree with the task's; None where it does not load."""
    load = name_of(task.model)
    model = None
    with report.calling(load):
        model = task.model()
        report.expect(task.model() is not model, load, "returns the same model again: load a new one")
        report.expect(model.nu, load, "has no actuator: nothing could act")
        low, high = model.actuator_ctrlrange.T
        bounded = model.actuator_ctrllimited.all() and (low < high).all()
        report.expect(bounded, load, "has actuators without a ctrlrange: actions must be bounded")
        step = model.opt.timestep * task.substeps
        report.expect(
            abs(task.dt - step) < DT_ERROR,
            build,
            f"dt = {task.dt:g} s, but {task.substeps} substeps of {model.opt.timestep:g} s are {step:g} s",
        )
        data = mujoco.MjData(model)
        lacking = [name for name in task.fields if not isinstance(getattr(data, name, None), np.ndarray)]
        report.expect(not lacking, build, f"fields: mjData has no array {', '.join(lacking)}")
        report.expect(
            task.max_episode_steps >= 1, build, f"max_episode_steps = {task.max_episode_steps}: at least 1"
        )
    return model


def _starts(task: Task, model: mujoco.MjModel, report: Report) -> Start[np.ndarray] | None:
    """Return `ENVS` initial states; note what is wrong with drawing them."""
    draw, sample = name_of(task.initial.draw), name_of(task.initial.sample)
    engine = NativeEngine(model, 1, refresh=task.refresh, threads=1)
    rest = engine.qpos0.numpy().copy(), engine.qvel0.numpy().copy()
    engine.close()
    wanted = {"qpos": (model.nq,), "qvel": (model.nv,)} | (
        {"goal": (task.goal_size,)} if task.goal_size else {}
    )

    def start(seed: int) -> Start[np.ndarray]:
        return task.initial.draw(np.random.default_rng(seed), rest[0].copy(), rest[1].copy())

    drawn: Start[np.ndarray] | None = None
    with report.calling(draw):
        first, again = start(0), start(0)
        for name, shape in wanted.items():
            part = getattr(first, name)
            came = None if part is None else np.shape(part)
            report.expect(came == shape, draw, f"{name} has shape {came}; {shape} is the model's")
            fine = part is not None and np.isfinite(array_of(part)).all()
            report.expect(fine, draw, f"{name} has numbers that are not finite")
            report.expect(
                part is not None and same(part, getattr(again, name)),
                draw,
                f"the same generator gives another {name}: draw from `rng` alone",
            )
        kept = rest[0].copy(), rest[1].copy()
        task.initial.draw(np.random.default_rng(1), *kept)
        report.expect(all(map(same, kept, rest)), draw, "writes into qpos0 or qvel0: return new arrays")
        if not report.findings:
            drawn = stack_starts(start(seed) for seed in range(DRAWS))
    if drawn is None:
        return None
    with report.calling(sample):
        place = [torch.from_numpy(part.copy()).float() for part in rest]
        sampled, twin = (
            task.initial.sample(DRAWS, place[0], place[1], torch.Generator().manual_seed(0)) for _ in range(2)
        )
        for name, shape in wanted.items():
            part = getattr(sampled, name)
            came, full = None if part is None else tuple(part.shape), (DRAWS, *shape)
            if not report.expect(came == full, sample, f"{name} has shape {came} instead of {full}"):
                continue
            report.expect(
                part.dtype == torch.float32, sample, f"{name} is {part.dtype} where qpos0 is torch.float32"
            )
            report.expect(
                same(part, getattr(twin, name)),
                sample,
                f"the same generator gives another {name}: draw from `generator` alone",
            )
            report.expect(
                _alike(getattr(drawn, name), array_of(part)),
                sample,
                f"{name} is distributed otherwise than what {draw.rpartition('.')[2]} gives",
            )
    return Start._make(None if part is None else part[:ENVS] for part in drawn)


def _alike(drawn: np.ndarray, sampled: np.ndarray) -> bool:
    """Return whether means and standard deviations of two samples `[DRAWS, N]` agree."""
    stds = drawn.std(0), sampled.std(0)
    spread = np.maximum(*stds)
    floor = 1e-5 * (1 + np.abs(drawn).max(0))  # float32 against float64
    means = np.abs(drawn.mean(0) - sampled.mean(0)) <= floor + SIGMAS * spread * (2 / len(drawn)) ** 0.5
    return bool(means.all() and (np.abs(stds[0] - stds[1]) <= floor + SPREAD * spread).all())


def _functions(task: Task, engine: NativeEngine, starts: Start[np.ndarray], report: Report) -> None:
    """Ask the task's functions about fresh states and about later ones."""
    everyone = np.ones(ENVS, np.bool_)
    engine.set_state(everyone, starts.qpos, starts.qvel, starts.act, starts.warmstart)
    goal = np.zeros((ENVS, 0)) if starts.goal is None else starts.goal
    low, high = engine.model.actuator_ctrlrange.T
    rng = np.random.default_rng(0)

    def now() -> Fields:
        return {**{name: array.copy() for name, array in engine.arrays.items()}, "goal": goal.copy()}

    first = now()
    action = rng.uniform(low, high, (ENVS, len(low)))
    for _ in range(STEPS):
        last, action = now(), rng.uniform(low, high, (ENVS, len(low)))
        engine.step(action, task.substeps)
    later = now()
    kinds: list[Callable[[Array], Array]] = [lambda array: torch.from_numpy(array.copy())]
    if task.arrays == "any":
        kinds.insert(0, lambda array: array.copy())
    for convert in kinds:
        _of_kind(task, [first, last, later], action, convert, report)


def _of_kind(
    task: Task, moments: list[Fields], action: np.ndarray, convert: Callable[[Array], Array], report: Report
) -> None:
    """Ask all functions with arrays of one kind, numpy's or torch's."""
    start, last, later = ({name: convert(part) for name, part in fields.items()} for fields in moments)
    seen = [_ask(report, task.observation, (fields,), "[B, O]") for fields in (start, later)]
    if seen[0] is not None:
        where = name_of(task.observation)
        report.expect(np.isfinite(array_of(seen[0])).all(), where, "is not finite in an initial state")
    ended = [_ask(report, task.terminated, (fields,), "[B] bool") for fields in (start, later)]
    if ended[0] is not None:
        over = array_of(ended[0])
        where = name_of(task.terminated)
        report.expect(not over.any(), where, f"ends {over.sum()} of {ENVS} episodes in their initial state")
    if task.private is not None:
        _ask(report, task.private, (later,), "[B, O]")
    before = _ask(report, task.before, (last,), "[B, ...]")
    if before is not None and ended[1] is not None:
        _ask(report, task.reward, (before, later, convert(action), ended[1]), "[B]")


def _ask(report: Report, function: Callable[..., Any], given: tuple[Any, ...], wanted: str) -> Any:
    """Call a function and note what it does wrong; return its answer, or None."""
    where, before = name_of(function), len(report.findings)
    answer: Any = None
    if report.blames(where):
        return None
    with report.calling(where):
        kept = _map(given, _copy)
        answer = function(*given)
        _check_answer(report, where, answer, given, wanted)
        changed = [name for name, part, old in _pairs(given, kept) if not same(part, old)]
        report.expect(not changed, where, f"writes into {', '.join(changed)}: return new arrays")
        if len(report.findings) == before:
            report.expect(
                same(function(*given), answer),
                where,
                "gives other numbers when asked again: it draws or remembers something",
            )
            alone = function(*_map(given, lambda part: _copy(part[1:2])))
            report.expect(
                same(alone, answer[1:2], close=True),
                where,
                "what it says of an env depends on the other envs: work along the last axis alone",
            )
        if len(report.findings) == before and isinstance(answer, torch.Tensor) and answer.is_floating_point():
            narrow = function(*_map(given, lambda part: part.float() if part.is_floating_point() else part))
            report.expect(
                narrow.dtype == torch.float32,
                where,
                f"is {narrow.dtype} where all that it is given is torch.float32 (as engine warp's is)",
            )
    return answer if len(report.findings) == before else None


def _check_answer(report: Report, where: str, answer: Any, given: tuple[Any, ...], wanted: str) -> None:
    """Note an answer of another kind, shape or dtype, or one that lies in the memory of a field."""
    fields: Mapping[str, Array] = next(part for part in given if isinstance(part, Mapping))
    like = fields["qpos"]
    if not report.expect(
        isinstance(answer, type(like)), where, f"returns {type(answer).__name__}, not {type(like).__name__}"
    ):
        return
    shape, axes = tuple(answer.shape), {"[B, O]": 2, "[B] bool": 1, "[B]": 1}.get(wanted)
    fits = shape[:1] == (ENVS,) and axes in (None, len(shape))
    if not report.expect(fits, where, f"has shape {list(shape)} for B = {ENVS} envs; {wanted} is wanted"):
        return
    dtype, wide = str(answer.dtype).removeprefix("torch."), "bool" if "bool" in wanted else "float64"
    if axes is not None:
        report.expect(
            dtype == wide,
            where,
            f"is {dtype}; {wide} is wanted" + (", that of qpos" if wide != "bool" else ""),
        )
    held = [name for name, part in fields.items() if np.shares_memory(array_of(answer), array_of(part))]
    report.expect(
        not held,
        where,
        f"returns a view of {', '.join(held)}, which the next step overwrites: return a copy",
    )


def _copy(part: Array) -> Array:
    return part.clone() if isinstance(part, torch.Tensor) else np.array(part)


def _map(given: tuple[Any, ...], change: Callable[[Array], Array]) -> tuple[Any, ...]:
    return tuple(
        {name: change(part) for name, part in item.items()} if isinstance(item, Mapping) else change(item)
        for item in given
    )


def _pairs(given: tuple[Any, ...], kept: tuple[Any, ...]) -> list[tuple[str, Any, Any]]:
    """Return (name, now, before) of everything that a function was given."""
    pairs: list[tuple[str, Any, Any]] = []
    for item, old in zip(given, kept, strict=True):
        if isinstance(item, Mapping):
            pairs += [(f'fields["{name}"]', part, old[name]) for name, part in item.items()]
        else:
            pairs.append(("an argument", item, old))
    return pairs
