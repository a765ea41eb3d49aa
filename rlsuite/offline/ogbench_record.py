"""Behaviours of OGBench's recordings: its planner and scripted oracles, with noise, in its own environments.

The procedure and its numbers are those of OGBench's scripts (Park et al. 2024, arXiv 2410.20092; the package
itself brings none). What is ours: an episode depends on the seed and its own number alone, and pointmaze can
be explored, with the numbers of OGBench's antmaze.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np

from rlsuite.envs.ogbench_names import VERSION, Name, parse
from rlsuite.offline.names import Recipe

Table = dict[str, np.ndarray]

EPISODE_STREAM = 6  # of the seed's children
HELD = 10  # steps of a direction of `explore`
AWAY = 4  # cells from start to goal of `stitch`
TINY = 1e-6  # added to a length before a division; OGBench's
MIN_NORM = 0.4  # of a closed-loop oracle's move
SMOOTHING = 0.5  # std of the kernel over a plan's noise, in steps
NOISE_SHAPE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])  # of a closed-loop oracle's action noise
STACKING = {"single": (0, 0), "double": (0, 0.25), "triple": (0.05, 0.35), "quadruple": (0.1, 0.5)}
"""Least and greatest probability of an episode that a cube's target is on another one."""
SCENE_STACKING = 0.5  # that of OGBench's environments where nobody says one
RIGHT, LEFT, DRAWER = 0.29, -0.3, (0.06, 0.08)  # m, of scene's cube: visible between, or in the drawer


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Recordings to make; defaults are OGBench's of each set.

    Attributes:
        env: e.g. "pointmaze-medium".
        dataset_type: of recordings, e.g. "navigate".
        episodes: for training; a tenth as many, at least one, are made for validation.
        rows: of an episode, one more than its transitions.
        noise: std of mazes' action noise; of a plan's noise; the greatest of a closed loop's.
        random_actions: probability that an action is uniform.
        seed: of everything.
    """

    env: str
    dataset_type: str
    episodes: int
    rows: int
    noise: float
    random_actions: float
    seed: int

    @property
    def all_episodes(self) -> int:
        """Episodes for training and validation."""
        return self.episodes + max(1, self.episodes // 10)

    @property
    def steps(self) -> int:
        """Transitions of an episode."""
        return self.rows - 1

    @property
    def name(self) -> str:
        """OGBench's name of the set."""
        return f"{self.env}-{self.dataset_type}-{VERSION}"


def plan_of(recipe: Recipe, steps: int | None, seed: int) -> Plan:
    """Return the plan of a recipe: OGBench's size, or enough whole episodes for `steps` transitions."""
    name = parse(recipe.dataset_id.partition("/")[2])
    random_actions = 0.0
    if name.env.startswith("pointmaze"):
        giant = name.env.endswith("giant")
        sizes = {"navigate": (500, 2001) if giant else (1000, 1001), "stitch": (5000, 201)}
        episodes, rows = {**sizes, "explore": (10_000, 501)}[name.dataset_type]
        noise = 1.0 if name.dataset_type == "explore" else 0.5
    else:
        large = {"cube-triple": 3000, "cube-quadruple": 5000, "puzzle-4x5": 3000, "puzzle-4x6": 5000}
        episodes, rows, noise = large.get(name.env, 1000), 1001, 0.1
        if name.dataset_type == "noisy":
            random_actions = 0.2 if name.env.startswith("puzzle") else 0.1
    if steps is not None:
        episodes = math.ceil(steps / (rows - 1))
    return Plan(
        env=name.env,
        dataset_type=name.dataset_type,
        episodes=episodes,
        rows=rows,
        noise=noise,
        random_actions=random_actions,
        seed=seed,
    )


class _Behaviour:
    """Records episodes in an environment of its own.

    Args:
        plan: what to record.
        arguments: of OGBench's class.
    """

    def __init__(self, plan: Plan, **arguments: Any) -> None:
        from rlsuite.envs import ogbench

        self.plan = plan
        self._drawing_from = ogbench.drawing_from
        with ogbench.drawing_from(np.random.PCG64(0)):
            self.env: Any = ogbench.bare(Name(plan.env).gym_id, terminate_at_goal=False, **arguments)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def episode(self, number: int) -> Table:
        """Record an episode, the same whatever was recorded before."""
        seeds = np.random.SeedSequence(self.plan.seed, spawn_key=(EPISODE_STREAM, number))
        bits = np.random.PCG64(seeds)
        rng = np.random.Generator(bits)
        with self._drawing_from(bits):  # OGBench's own draws and ours are one stream
            seed = int(rng.integers(2**31))
            self.env.action_space.seed(seed)
            return self._play(rng, seed)

    def _play(self, rng: np.random.Generator, seed: int) -> Table:
        raise NotImplementedError

    def _table(self, rows: Sequence[Mapping[str, Any]]) -> Table:
        """Return rows of a step each as columns, float32 but for the flags of the last one."""
        table: Table = {
            key: np.array([row[key] for row in rows], np.int64 if key == "button_states" else np.float32)
            for key in rows[0]
        }
        return table | {"terminals": np.arange(len(rows)) == len(rows) - 1}


class MazeBehaviour(_Behaviour):
    """Moves a point towards the next cell on a shortest way to a goal, or in random directions."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        maze = self.env.maze_map
        self._free = [(int(i), int(j)) for i, j in np.argwhere(maze == 0)]
        self._corners = [cell for cell in self._free if not _hallway(maze, cell)]
        self._next = cache(lambda start, goal: self._ask_next(start, goal))

    def _ask_next(self, start: tuple[int, int], goal: tuple[int, int]) -> np.ndarray:
        env = self.env
        subgoal: np.ndarray = env.get_oracle_subgoal(env.ij_to_xy(start), env.ij_to_xy(goal))[0]
        return subgoal

    def _play(self, rng: np.random.Generator, seed: int) -> Table:
        plan, env = self.plan, self.env
        start = _one(rng, self._free)
        goal = _one(rng, self._nearby(start) if plan.dataset_type == "stitch" else self._corners)
        seen, _ = env.reset(seed=seed, options={"task_info": {"init_ij": start, "goal_ij": goal}})
        rows, direction = [], np.zeros(2)
        for step in range(plan.rows):
            place = env.get_xy()
            if plan.dataset_type != "explore":
                subgoal = self._next(env.xy_to_ij(place), env.xy_to_ij(env.cur_goal_xy))
                direction = _unit(subgoal - place)
            elif step % HELD == 0:
                direction = _unit(rng.normal(size=2))
            action = np.clip(direction + rng.normal(0, plan.noise, 2), -1, 1)
            following, _, _, _, info = env.step(action)
            if info["success"] and plan.dataset_type == "navigate":
                env.set_goal(goal_xy=env.add_noise(env.ij_to_xy(_one(rng, self._corners))))
            rows.append(_row(seen, action, info))
            seen = following
        return self._table(rows)

    def _nearby(self, start: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the cells four steps away, or the start where there is none."""
        distances = self.env.get_oracle_subgoal(self.env.ij_to_xy(start), self.env.ij_to_xy(start))[1]
        return [(int(i), int(j)) for i, j in np.argwhere(distances == AWAY)] or [start]


class ArmBehaviour(_Behaviour):
    """Lets OGBench's scripted oracles pursue one target after the other with a robot's arm."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan, mode="data_collection")
        domain = plan.env.partition("-")[0]
        parts = {"cube": ("cube",), "puzzle": ("button",), "scene": ("cube", "button", "drawer", "window")}
        self.oracles = {part: self._oracle(part, domain) for part in parts[domain]}

    def _oracle(self, part: str, domain: str) -> Any:
        closed_loop = self.plan.dataset_type == "noisy"
        way = "markov" if closed_loop else "plan"
        module = import_module(f"ogbench.manipspace.oracles.{way}.{part}_{way}")
        oracle = getattr(module, f"{part.capitalize()}{way.capitalize()}Oracle")
        shut = {"gripper_always_closed": True} if domain == "puzzle" else {}
        if not closed_loop:
            return oracle(env=self.env, noise=self.plan.noise, noise_smoothing=SMOOTHING, **shut)
        patience = {"max_step": 100} if (domain, part) == ("scene", "cube") else {}
        return oracle(env=self.env, min_norm=MIN_NORM, **shut, **patience)

    def _play(self, rng: np.random.Generator, seed: int) -> Table:
        begin: Iterator[int | None] = iter([seed])
        while True:
            table = self._attempt(rng, next(begin, None))
            if self.plan.env != "scene" or visible(table["qpos"][:, 14:17]):
                return table

    def _attempt(self, rng: np.random.Generator, seed: int | None) -> Table:
        plan, env = self.plan, self.env
        seen, info = env.reset(seed=seed)
        stacking = STACKING.get(plan.env.partition("-")[2], (SCENE_STACKING, SCENE_STACKING))
        aim = partial(env.set_new_target, p_stack=rng.uniform(*stacking))
        noise = rng.uniform(0, plan.noise) * NOISE_SHAPE if plan.dataset_type == "noisy" else None
        oracle = self.oracles[info["privileged/target_task"]]
        oracle.reset(seen, info)
        rows = []
        for _ in range(plan.rows):
            if rng.random() < plan.random_actions:
                action = env.action_space.sample()
            else:
                action = np.array(oracle.select_action(seen, info))
                if noise is not None:
                    action = action + rng.normal(0, noise)
            action = np.clip(action, -1, 1)
            following, _, _, _, info = env.step(action)
            rows.append(_row(seen, action, info))
            if oracle.done:
                shown, told = aim()
                oracle = self.oracles[told["privileged/target_task"]]
                oracle.reset(shown, told)
            seen = following
        return self._table(rows)


def visible(places: np.ndarray) -> bool:
    """Return whether scene's cube `[R, 3]` stays where goals show it: between the sides, or in the drawer."""
    across, height = places[:, 1], places[:, 2]
    stored = (height >= DRAWER[0]) & (height <= DRAWER[1])
    return not bool(((across >= RIGHT) | ((across <= LEFT) & ~stored)).any())


def _row(seen: np.ndarray, action: np.ndarray, info: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "observations": seen,
        "actions": action,
        "qpos": info["prev_qpos"],
        "qvel": info["prev_qvel"],
    }
    buttons = info.get("prev_button_states")
    return row if buttons is None else row | {"button_states": buttons}


def _one(rng: np.random.Generator, cells: list[tuple[int, int]]) -> tuple[int, int]:
    return cells[int(rng.integers(len(cells)))]


def _unit(direction: np.ndarray) -> np.ndarray:
    return direction / (np.linalg.norm(direction) + TINY)


def _hallway(maze: np.ndarray, cell: tuple[int, int]) -> bool:
    """Return whether a free cell leads straight on, with walls at both sides."""
    i, j = cell
    rows, columns = (maze[i - 1, j], maze[i + 1, j]), (maze[i, j - 1], maze[i, j + 1])
    return (rows, columns) in (((0, 0), (1, 1)), ((1, 1), (0, 0)))
