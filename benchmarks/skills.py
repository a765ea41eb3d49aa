"""Pictures of skills: candidates of one state over a maze, and samples of a bimodal behaviour.

The second needs no simulator: on a line whose recorded steps are long ones to the left or to the right, never
short (after the random walk in LDCQ's appendix), it asks how many decoded latents stay inside what was
recorded, drawn by diffusion and from the skill model's Gaussian prior. Legend: C candidates, T env steps.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.agents.ldcq import LDCQ, LDCQConfig
from rlsuite.blocks.noise import normal
from rlsuite.bounds import AtLeastOne, check_bounds
from rlsuite.command.arguments import parse
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.replay.windows import WindowReplay
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import load_run

SUPPORT = (0.8, 1.0)  # size of every recorded step of the walk, to either side
BIMODAL_DRAWS = 4_000  # latents, each decoded into one action
BIMODAL_ROWS, BIMODAL_EPISODE = 8_000, 20
BIMODAL = LDCQConfig(
    stages=("skills", "prior"),
    horizon=1,
    execute=1,
    latent=2,
    hidden=64,
    encoder_layers=1,
    beta=0.01,
    std_min=0.01,
    diffusion_steps=50,
    schedule="cosine",
    widths=(128, 64),
    features=64,
    state_dropout=0.0,
    skills_updates=1_500,
    prior_updates=4_000,
    lr_skills=2e-3,
    lr_prior=2e-3,
    decay=("skills", "prior"),
)


@dataclass(frozen=True, kw_only=True)
class SkillsArgs:
    """Draws candidate skills of trained runs over their maze, and the bimodal walk's samples."""

    runs: tuple[Path, ...] = ()
    """Run folders of ldcq on PointMaze."""
    states: AtLeastOne = 3
    """Starts of episodes to draw candidates for."""
    candidates: AtLeastOne = 50
    """Skills drawn at each."""
    seed: int = 0
    """Of the starts and of the walk."""
    bimodal: bool = True
    """Train the bimodal walk, too (about a minute)."""
    out: Path = Path("runs/skills")
    """Folder of tables and pictures."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that mean nothing."""
        check_bounds(self)


def walk_data(seed: int, batch_size: int = 256) -> WindowReplay:
    """Return windows of a random walk on a line: steps of 0.8 to 1, left or right with equal chance."""
    g = torch.Generator().manual_seed(seed)
    episodes = BIMODAL_ROWS // BIMODAL_EPISODE
    shape = (episodes, BIMODAL_EPISODE, 1)
    side = torch.randint(2, shape, generator=g) * 2 - 1
    action = side * (SUPPORT[0] + (SUPPORT[1] - SUPPORT[0]) * torch.rand(shape, generator=g))
    after = action.cumsum(1) / BIMODAL_EPISODE**0.5
    before = torch.cat((torch.zeros(episodes, 1, 1), after[:, :-1]), 1)
    rows = {"observation": before, "action": action}
    following = {"observation": after, "reward": torch.zeros(shape), "terminated": torch.zeros(shape).bool()}
    flat = {name: column.flatten(0, 1) for name, column in rows.items()}
    ends = {name: column.flatten(0, 1) for name, column in following.items()}
    table = TensorDict({**flat, "next": TensorDict(ends, [BIMODAL_ROWS])}, [BIMODAL_ROWS])
    first = torch.arange(episodes) * BIMODAL_EPISODE
    return WindowReplay(
        table,
        torch.stack((first, first + BIMODAL_EPISODE), -1),
        horizon=BIMODAL.horizon,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed + 1),
    )


def bimodal_actions(seed: int, config: LDCQConfig = BIMODAL) -> dict[str, Tensor]:
    """Train on the walk; return its recorded actions and those of drawn latents, by their source."""
    data = walk_data(seed)
    agent = LDCQ(Spaces(observation=1, action=1, half_range=(1.0,)), config, make_generators(seed))
    for _ in range(config.updates):
        agent.prepare(data)
        agent.update(data.sample())
    g = torch.Generator().manual_seed(seed + 2)
    rows = torch.randint(BIMODAL_ROWS, (BIMODAL_DRAWS,), generator=g)
    state = agent.normalized(data.rows["observation"][rows])
    found = {"recorded": data.rows["action"][rows]}
    with torch.no_grad():
        drawn = agent.actor.draw(state, 1, lambda like: normal(like, g)).squeeze(-2)
        found["diffusion"] = agent.skills.decoder.act(state, drawn)
        gaussian = agent.skills.prior(state)
        found["gaussian"] = agent.skills.decoder.act(
            state, gaussian.mean + gaussian.std * normal(gaussian.mean, g)
        )
    return {name: actions.squeeze(-1) for name, actions in found.items()}


def inside(actions: Tensor, slack: float = 0.02) -> float:
    """Share of actions within `slack` of what was recorded on the walk."""
    size = actions.abs()
    return ((size >= SUPPORT[0] - slack) & (size <= SUPPORT[1] + slack)).double().mean().item()


@torch.no_grad()
def candidate_paths(agent: LDCQ, env: Any, seed: int, candidates: int) -> tuple[Tensor, Tensor, int]:
    """Decode candidate skills of the first state of an episode, each in a world of its own.

    Args:
        agent: trained.
        env: as many worlds as candidates; all get the same seed and with it the same start and goal.
        seed: of the start.
        candidates: C.

    Returns:
        observations `[T + 1, C, O]`, the smaller values `[C]` (zero without values), and which was chosen.
    """
    env.seed_worlds([seed] * candidates)
    carried = env.reset()
    first = agent.normalized(carried["observation"][:1])
    fixed = torch.Generator().manual_seed(seed)
    latents = agent.actor.draw(first, candidates, lambda like: normal(like, fixed))
    q = torch.zeros(candidates)
    if agent.actor.has("values"):
        q = agent.critic(first, latents).amin(-3).squeeze(0)
    seen = [carried["observation"].clone()]
    for _ in range(agent.config.horizon):
        state = agent.normalized(carried["observation"])
        carried["action"] = agent.skills.decoder.act(state, latents.squeeze(0))
        step = env.step(carried)
        seen.append(step["next", "observation"].clone())
        carried = env.step_mdp(step)
    return torch.stack(seen), q, int(q.argmax())


def draw_maze(axes: Any, maze: Any) -> None:
    """Fill the walls of a Gymnasium-Robotics maze."""
    scale = maze.maze_size_scaling
    for row, line in enumerate(maze.maze_map):
        for column, cell in enumerate(line):
            if cell == 1:
                x, y = maze.cell_rowcol_to_xy(np.array([row, column]))
                axes.add_patch(_square(x - scale / 2, y - scale / 2, scale))
    axes.set_aspect("equal")
    axes.autoscale_view()


def _square(x: float, y: float, side: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), side, side, color="0.8")


def draw_run(path: Path, line: SkillsArgs) -> Path:
    """Draw the candidates of one run; write its table and its picture; return the picture's place."""
    from matplotlib.figure import Figure

    run = load_run(path, "last")
    train = run.config.train
    if run.config.agent_name != "ldcq" or "PointMaze" not in train.env:
        raise ConfigError(f"{path} is {run.config.agent_name} on {train.env}: name runs of ldcq on PointMaze")
    streams = SeedStreams([train.seed])
    env = make_env(train.env, line.candidates, engine="gym", options=train.env_options)
    figure = Figure(figsize=(5 * line.states, 5), layout="constrained")
    rows = []
    try:
        agent = run.agent(env, streams)
        assert isinstance(agent, LDCQ)
        for number in range(line.states):
            with set_exploration_type(ExplorationType.DETERMINISTIC):
                paths, q, chosen = candidate_paths(agent, env, line.seed + number, line.candidates)
            axes = figure.add_subplot(1, line.states, number + 1)
            maze = env._vector.envs[0].unwrapped.maze
            draw_maze(axes, maze)
            # The observation is (x, y, velocities, achieved goal, desired goal).
            for candidate in range(line.candidates):
                axes.plot(*paths[:, candidate, :2].T.numpy(), color="tab:blue", alpha=0.3, linewidth=1)
            axes.plot(*paths[:, chosen, :2].T.numpy(), color="tab:red", linewidth=2, label="chosen")
            axes.plot(*paths[0, 0, :2].numpy(), "ko", label="start")
            axes.plot(*paths[0, 0, -2:].numpy(), "g*", markersize=14, label="goal")
            axes.set_title(f"values {q.min():.2f} to {q.max():.2f}")
            axes.legend(loc="upper right", fontsize=8)
            rows += [
                [number, candidate, int(candidate == chosen), f"{q[candidate]:.6g}", step, *place]
                for candidate in range(line.candidates)
                for step, place in enumerate(paths[:, candidate, :2].tolist())
            ]
    finally:
        env.close()
    header = ("state", "candidate", "chosen", "value", "step", "x", "y")
    _write(line.out / f"{path.name}-candidates.csv", header, rows)
    target = line.out / f"{path.name}-candidates.png"
    figure.savefig(target, dpi=120)
    return target


def draw_bimodal(line: SkillsArgs) -> Path:
    """Train the walk, draw its histograms and write its table; return the picture's place."""
    from matplotlib.figure import Figure

    found = bimodal_actions(line.seed)
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for number, (name, actions) in enumerate(found.items()):
        axes = figure.add_subplot(1, len(found), number + 1)
        axes.hist(actions.numpy(), bins=np.linspace(-1.2, 1.2, 97).tolist())
        for side in (-1, 1):
            axes.axvspan(side * SUPPORT[0], side * SUPPORT[1], color="tab:green", alpha=0.2)
        axes.set_title(f"{name}: {100 * inside(actions):.1f} % inside")
        axes.set_xlabel("action")
    _write(
        line.out / "bimodal.csv", ("source", "inside"), [[name, inside(own)] for name, own in found.items()]
    )
    target = line.out / "bimodal.png"
    figure.savefig(target, dpi=120)
    return target


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def main(argv: Sequence[str]) -> None:
    """Draw what the words ask for and print where it lies."""
    line = parse(SkillsArgs, argv, prog="benchmarks/skills.py", description=str(SkillsArgs.__doc__))
    line.out.mkdir(parents=True, exist_ok=True)
    for path in line.runs:
        print(draw_run(path, line))
    if line.bimodal:
        print(draw_bimodal(line))


if __name__ == "__main__":
    main(sys.argv[1:])
