"""Check a Gymnasium environment by its own functions `reset` and `step`.

What shows only when several of them are played together is asked by `rlsuite.envs.check`.
"""

from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from rlsuite.envs.findings import Report, name_of
from rlsuite.envs.gym import single_copy
from rlsuite.envs.gym_copies import RESET_VALUES, STEP_VALUES
from rlsuite.envs.options import EnvOptions

STEPS = 30
SEED = 5

Trajectory = list[tuple[Any, float, bool]]


def check_gym(gym_id: str, options: EnvOptions, report: Report) -> None:
    """Note what `reset` and `step` of a registered environment do wrong; its wrappers are left out.

    Args:
        gym_id: a registered id.
        options: constructor arguments are among them.
        report: is added to.

    Raises:
        ConfigError: there is no such id, or it does not take the options.
    """
    env = None
    with report.calling(f"gym:{gym_id}"):
        env = single_copy(gym_id, options).unwrapped
    if env is None:
        return
    reset, step = (f"{name_of(type(env))}.{method}" for method in ("reset", "step"))
    env.action_space.seed(SEED)
    actions = [env.action_space.sample() for _ in range(STEPS)]
    try:
        with report.calling(reset):
            first = _check_reset(env, reset, report)
            if report.findings:
                return
            with report.calling(step):
                rows = _check_steps(env, actions, step, report)
        if report.findings:
            return
        with report.calling(reset):
            again, _ = env.reset(seed=SEED)
            report.expect(
                _same(first, again), reset, "the same seed begins otherwise: draw from self.np_random alone"
            )
            for number, (row, other) in enumerate(zip(rows, _rollout(env, actions), strict=False), 1):
                what = next(
                    (
                        name
                        for name, a, b in zip(
                            ("observation", "reward", "terminated"), row, other, strict=True
                        )
                        if not _same(a, b)
                    ),
                    None,
                )
                if what is not None:
                    jump = number == 1 and what == "reward"
                    report.blame(
                        reset if jump else step,
                        f"{what} of step {number} is another after an earlier episode with the same seed and "
                        "actions: "
                        + (
                            "reset leaves something of it behind"
                            if jump
                            else "draw from self.np_random alone"
                        ),
                    )
                    break
    finally:
        env.close()


def _check_reset(env: gymnasium.Env, reset: str, report: Report) -> Any:
    """Check what a reset returns; return a copy of its observation."""
    values = env.reset(seed=SEED)
    if not isinstance(values, tuple) or len(values) != RESET_VALUES or not isinstance(values[1], dict):
        report.blame(reset, f"returns {_told(values)} instead of (observation, info)")
        return None
    report.expect(not (why := _unfit(env.observation_space, values[0])), reset, f"observation {why}")
    return _copied(values[0])


def _check_steps(env: gymnasium.Env, actions: list[Any], step: str, report: Report) -> Trajectory:
    """Check what every step of an episode returns; return the trajectory."""
    rows: Trajectory = []
    last: tuple[Any, Any] | None = None
    for action in actions:
        given = _copied(action)
        values = env.step(given)
        if not isinstance(values, tuple) or len(values) != STEP_VALUES:
            wanted = "(observation, reward, terminated, truncated, info)"
            report.blame(step, f"returns {_told(values)} instead of {wanted}")
            return rows
        observation, reward, terminated, truncated, info = values
        single = not np.shape(cast(Any, reward)) and isinstance(reward, int | float | np.number)
        if not report.expect(single, step, f"the reward is {reward!r}: one number is wanted"):
            return rows
        report.expect(np.isfinite(float(reward)), step, f"the reward is {reward}")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            report.expect(isinstance(flag, bool | np.bool_), step, f"{name} is {flag!r}: a bool is wanted")
        report.expect(isinstance(info, dict), step, f"info is a {type(info).__name__}: a dict is wanted")
        report.expect(_same(given, action), step, "writes into the action")
        report.expect(not (why := _unfit(env.observation_space, observation)), step, f"observation {why}")
        if last is not None:
            fine = _same(*last)
            report.expect(fine, step, "overwrites the observation that it returned before: return a copy")
        if report.findings:
            return rows
        last = observation, _copied(observation)
        rows.append((last[1], float(reward), bool(terminated)))
        if terminated or truncated:
            break
    return rows


def _rollout(env: gymnasium.Env, actions: list[Any]) -> Trajectory:
    """Take the actions until the episode ends."""
    rows: Trajectory = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(_copied(action))
        rows.append((_copied(observation), float(reward), bool(terminated)))
        if terminated or truncated:
            break
    return rows


def _unfit(space: spaces.Space, observation: Any) -> str:
    """Return why an observation is not of its space, or ""."""
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict) or set(observation) != set(space.spaces):
            return f"has not the parts {', '.join(space.spaces)} of its space"
        parts = ((name, _unfit(part, observation[name])) for name, part in space.spaces.items())
        return next((f'"{name}" {why}' for name, why in parts if why), "")
    if not isinstance(space, spaces.Box):
        return "" if space.contains(observation) else f"{observation!r:.60} is not in {space}"
    array = np.asarray(observation)
    if array.shape != space.shape:
        return f"has shape {array.shape}, and its space says {space.shape}"
    if not np.can_cast(array.dtype, space.dtype):
        return f"is {array.dtype}, and its space says {space.dtype}"
    if np.isnan(array).any():
        return "has numbers that are nan"
    if (array < space.low).any() or (array > space.high).any():
        allowed = f"{space.low.min()} to {space.high.max()}"
        return f"leaves its space: {array.min()} to {array.max()}, allowed {allowed}"
    return ""


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return all(_same(first[name], second[name]) for name in first)
    if isinstance(first, tuple):
        return all(map(_same, first, second))
    return bool(np.array_equal(np.asarray(first), np.asarray(second)))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return np.array(value) if isinstance(value, np.ndarray) else value


def _told(values: Any) -> str:
    return f"{len(values)} values" if isinstance(values, tuple) else f"a {type(values).__name__}"
