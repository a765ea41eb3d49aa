"""Check an environment against the contract: shapes, dtypes, seeds, resets, state, true successors.

Functions that are wrong by themselves are named first (`check_task`, `check_gym`); what only shows when an
environment is played is asked afterwards, of any environment (docs/design.md, section 3).

Legend: B envs, O observation.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rlsuite.envs.base import StepResult, VectorEnv
from rlsuite.envs.check_task import check_task
from rlsuite.envs.findings import Finding, Report, name_of, same
from rlsuite.envs.make import make_env
from rlsuite.envs.mujoco import MujocoEnv
from rlsuite.envs.names import added_tasks, tasks_by_name
from rlsuite.envs.options import EnvOptions, changed
from rlsuite.envs.stateless import StatelessEnv
from rlsuite.envs.tasks.base import load_task, task_module
from rlsuite.envs.variation import PREFIX
from rlsuite.errors import ConfigError

ENVS = 3
LIMIT = 7  # env steps of the short episodes
STEPS = 40  # env steps of a trajectory
SEED = 5
EARLY = 9  # env steps after which env 0 alone is reset
SAVED = 17  # env steps after which a state is saved

Make = Callable[..., VectorEnv]


def check_env(env_id: str, options: EnvOptions | None = None) -> list[Finding]:
    """Return the breaches of the contract by a task or an environment; none where it keeps it.

    Args:
        env_id: what `make_env` takes.
        options: of the environment; seed and time limit are the checks' own.

    Raises:
        ConfigError: there is no such environment, or options that it does not take.
    """
    report, chosen = Report(), changed(options, {})
    family, _, rest = env_id.partition(":")
    name = env_id.rpartition("-v")[0] or env_id
    if env_id in added_tasks() or name in (*added_tasks(), *tasks_by_name()):
        known = name if name in (*added_tasks(), *tasks_by_name()) else env_id
        _of_task(known, env_id, chosen, report)
    elif family == "gym" and rest:
        check_gym = importlib.import_module("rlsuite.envs.check_gym").check_gym
        check_gym(rest, chosen, report)
    if not report.findings:
        check_contract(lambda count, **changes: make_env(env_id, count, chosen, **changes), report)
    return report.findings


def _of_task(name: str, env_id: str, options: EnvOptions, report: Report) -> None:
    """Check the functions of a MuJoCo task; an environment without an engine has none."""
    module = task_module(name)
    if hasattr(module, "Env"):
        return
    version = env_id.removeprefix(name).removeprefix("-")
    task = None
    with report.calling(build := name_of(module.build)):
        plain = {key: value for key, value in options.options.items() if not key.startswith(PREFIX)}
        task = load_task(name, version, plain)
    if task is not None:
        check_task(task, build, report)


def check_contract(make: Make, report: Report) -> None:
    """Note how an environment breaks the contract when it is played.

    Args:
        make: (number of envs, fields of `EnvOptions`) -> the environment.
        report: is added to.
    """
    made: list[VectorEnv] = []

    def fresh(count: int = ENVS, **changes: Any) -> VectorEnv:
        made.append(make(count, **{"seed": SEED, **changes}))
        return made[-1]

    first = fresh()
    try:
        if first.facts.on_device:
            raise ConfigError(f"{first.env_id} is simulated on a device: check it with --engine native")
        names = Names(first)
        checks = (_shapes, _repeats, _limits) if names.stateless else (_shapes, _repeats, _limits, _resumes)
        for check in checks:
            with report.calling(names.step):
                check(fresh, names, report)
            if report.findings:
                return
    finally:
        for env in made:
            env.close(raise_if_closed=False)


class Names:
    """Which function of an environment answers for what.

    Attributes:
        stateless: it cannot be saved in the middle of an episode, and its envs share one stream.
    """

    def __init__(self, env: VectorEnv) -> None:
        inner = env
        while hasattr(inner, "inner"):
            inner = inner.inner
        self.stateless = isinstance(inner, StatelessEnv)
        copies = getattr(getattr(inner, "_copies", None), "envs", None)
        if isinstance(inner, MujocoEnv):
            task = inner.task
            self.observation, self.reward = name_of(task.observation), name_of(task.reward)
            self.terminated, self.seed = name_of(task.terminated), name_of(task.initial.draw)
            self.step, self.reset, self.state = self.reward, self.seed, self.reward
        elif copies:
            original = type(copies[0].unwrapped)
            self.step, self.reset = (f"{name_of(original)}.{method}" for method in ("step", "reset"))
            self.observation = self.reward = self.terminated = self.state = self.step
            self.seed = self.reset
        else:
            cls = type(inner)
            self.step, self.reset = name_of(cls._advance), name_of(cls._restart)
            self.observation = self.reward = self.terminated = self.step
            self.seed, self.state = name_of(cls._set_seed), name_of(cls._own_state)


def actions_of(env: VectorEnv, steps: int) -> np.ndarray:
    """Return random actions `[steps, B, A]` in [-1, 1]; an env's do not depend on how many there are."""
    size = env.action_spec.shape[-1]
    rows = [np.random.default_rng(index).uniform(-1, 1, (steps, size)) for index in range(env.num_envs)]
    return np.stack(rows, 1)


def _play(env: VectorEnv, actions: np.ndarray) -> list[StepResult[np.ndarray]]:
    """Take actions `[steps, B, A]` and return what came of each; ended episodes are followed by new ones."""
    results = []
    for action in actions:
        results.append(env.step_arrays(action))
        _restart_ended(env, results[-1])
    return results


def _restart_ended(env: VectorEnv, result: StepResult[np.ndarray]) -> None:
    done = result.terminated | result.truncated
    if done.any():
        env.reset_arrays(done)


def _shapes(fresh: Make, names: Names, report: Report) -> None:
    """Check shapes, dtypes and memory of what a reset and steps return."""
    env = fresh(dtype=torch.float64)  # what is not cast shows whose memory it is
    size, dtype = env.facts.observation_size, env._array_dtype
    first = env.reset_arrays()
    wide = (ENVS, size)
    report.expect(first.shape == wide, names.reset, f"returns observations {first.shape} instead of {wide}")
    report.expect(np.isfinite(first).all(), names.reset, "returns observations that are not finite")
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    for step, action in enumerate(actions_of(env, STEPS)):
        given = action.copy()
        outcome = env._advance(env._actuate(given))
        ends = {"terminated": outcome.terminated, "truncated": outcome.truncated}
        for name, flag in ends.items():
            if flag is not None:
                came = f"{np.shape(flag)} {getattr(flag, 'dtype', type(flag).__name__)}"
                fits = np.shape(flag) == (ENVS,) and getattr(flag, "dtype", None) == np.bool_
                report.expect(fits, names.terminated, f"{name} is {came}; [{ENVS}] bool is wanted")
        shape = np.shape(outcome.observation)
        report.expect(shape == wide, names.observation, f"returns observations {shape} instead of {wide}")
        shape = np.shape(outcome.reward)
        report.expect(shape == (ENVS,), names.reward, f"returns rewards {shape} instead of ({ENVS},)")
        if report.findings:
            return
        result = env._judge(outcome)
        report.expect(
            result.observation.dtype == dtype, names.observation, f"hands out {result.observation.dtype}"
        )
        bad = np.flatnonzero(~result.valid).tolist()
        report.expect(
            not bad, names.step, f"gives numbers that are not finite in env(s) {bad}, step {step + 1}"
        )
        for then, copy in kept:
            report.expect(
                same(then, copy),
                names.observation,
                "returns memory that a later step overwrites: return a copy, or leave out `fresh`",
            )
        kept = [(result.observation, result.observation.copy()), (result.reward, result.reward.copy())]
        done = result.terminated | result.truncated
        done[0] |= step % EARLY == EARLY - 1
        if not done.any():
            continue
        after = env.reset_arrays(done)
        report.expect(
            same(after[~done], result.observation[~done]),
            names.reset,
            "changes envs that were not to be reset: look at the mask",
        )


def _repeats(fresh: Make, names: Names, report: Report) -> None:
    """Check that numbers follow from seeds and actions alone, env by env, and not from what was before."""
    env = fresh()
    actions = actions_of(env, STEPS)
    first = env.reset_arrays()
    results = _play(env, actions)
    twin = fresh()
    begins = same(first, twin.reset_arrays())
    if not report.expect(begins, names.seed, "the same seed begins otherwise: draw from its generator alone"):
        return
    _compare(results, _play(twin, actions), names, report, "with the same seed and actions")
    env.seed_envs(SEED)
    begins = same(first, env.reset_arrays())
    report.expect(begins, names.seed, "seeded anew, a used environment begins otherwise than a new one")
    late = f"after earlier episodes: {names.reset} leaves something of them behind"
    _compare(results, _play(env, actions), names, report, late)
    if names.stateless:
        return
    single = fresh(1)
    begins = same(first[:1], single.reset_arrays())
    report.expect(begins, names.seed, "env 0 of one and of several begin otherwise")
    rows = [StepResult._make(part[:1] for part in result) for result in results]
    _compare(
        rows, _play(single, actions[:, :1]), names, report, "when it is alone, so envs are not independent"
    )


def _compare(
    results: list[StepResult[np.ndarray]],
    others: list[StepResult[np.ndarray]],
    names: Names,
    report: Report,
    when: str,
) -> None:
    """Note the first step that is not the same in two trajectories, and the function that it is of."""
    parts = {
        "observation": names.observation,
        "reward": names.reward,
        "terminated": names.terminated,
        "truncated": names.step,
    }
    for step, (first, second) in enumerate(zip(results, others, strict=True), 1):
        for part, function in parts.items():
            if not same(getattr(first, part), getattr(second, part)):
                report.blame(function, f"{part} of step {step} is another {when}")
                return


def _limits(fresh: Make, names: Names, report: Report) -> None:
    """Check that a time limit truncates, and that the last observation is the episode's own."""
    long, short = fresh(), fresh(max_episode_steps=LIMIT)
    if long.max_episode_steps is not None and long.max_episode_steps <= LIMIT:
        return
    alive = same(long.reset_arrays(), short.reset_arrays()) & np.ones(ENVS, np.bool_)
    for step, action in enumerate(actions_of(long, LIMIT), 1):
        whole, cut = long.step_arrays(action), short.step_arrays(action)
        alive &= ~whole.terminated & ~whole.truncated
        last = step == LIMIT
        report.expect(
            (cut.truncated[alive] == last).all() and not cut.terminated[alive].any(),
            names.step,
            f"with max_episode_steps = {LIMIT} step {step} is {'not truncated' if last else 'the end'}",
        )
        report.expect(
            same(whole.observation[alive], cut.observation[alive]),
            names.step,
            "the last observation of an episode is not its own: a step must not reset",
        )
        report.expect(
            same(whole.reward[alive], cut.reward[alive]),
            names.reward,
            "the reward of the last step before the time limit is another than without it",
        )
        for env, result in ((long, whole), (short, cut)):
            _restart_ended(env, result)


def _resumes(fresh: Make, names: Names, report: Report) -> None:
    """Check that a saved state is complete: mid-episode, and right after a reset, where rewards may jump."""
    env = fresh()
    actions = actions_of(env, STEPS)
    env.reset_arrays()
    _play(env, actions[:SAVED])
    for when in ("in the middle of an episode", "right after a reset"):
        if when == "right after a reset":
            env.reset_arrays(np.arange(ENVS) == 0)
        saved = env.state_dict()
        copy = {name: value.clone() for name, value in saved.items()}
        rest = _play(env, actions[SAVED:])
        moved = [name for name, value in saved.items() if not same(value, copy[name])]
        report.expect(not moved, names.state, f"{', '.join(moved)} go on changing after they were saved")
        twin = fresh(seed=SEED + 100)
        twin.reset_arrays()
        twin.load_state_dict(copy)
        lost = f"in an environment that was restored {when}: the saved state lacks something"
        _compare(rest, _play(twin, actions[SAVED:]), names, report, lost)
