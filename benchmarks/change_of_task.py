"""Loss of plasticity when the task changes: an agent keeps learning while the same robot obeys differently.

    python benchmarks/change_of_task.py --network tanh --arm grama --out FOLDER

Every 10,000 env steps the actuators change their signs (or gravity its own), and the replay is emptied: what
was learnt is in the networks alone. They are small and updated four times per env step. The question is
whether the later tasks are learnt as well as the first ones, with neuron resets (GraMa, ReDo) and without.
Both are there in every arm, and measure the share of inactive units; the arm says which one acts.

FOLDER is a run folder with all seeds in it, as `rlsuite train --seeds` makes; stopped or killed, the same
command goes on with it. Tasks, networks and rates are our choice.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np

from rlsuite.envs.base import VectorEnv
from rlsuite.registry import agent_class, plugin_class
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import RunConfig, config_to_dict, to_mapping
from rlsuite.runs.runfolder import RunFolder
from rlsuite.runs.signals import StopFlag
from rlsuite.training.assembly import build_learner, make_envs, online_run
from rlsuite.training.online import act_and_learn

INTERRUPTED = 75
ARMS = ("none", "grama", "redo")
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "tanh": {"activation": "tanh"},
    "layernorm": {"activation": "relu", "layer_norm": True, "layer_norm_actor": True},
}
HIDDEN, BATCH, RATIO = (64, 64), 64, 4.0
REFILL = 256  # env steps of every task before updates go on: a replay of a few rows teaches nothing


class Change(NamedTuple):
    """What becomes of the robot.

    Attributes:
        what: "actuators" or "gravity".
        every: env steps of each task.
        tasks: their number.
    """

    what: str
    every: int
    tasks: int


def signs(change: Change, task: int, actuators: int) -> np.ndarray:
    """Return every actuator's sign in one task, the same for all seeds: never those of the task before."""
    now = np.ones(actuators)
    for number in range(1, task + 1):
        before, draws = now, np.random.default_rng([number, actuators])
        while np.array_equal(now, before):
            now = draws.choice([-1.0, 1.0], actuators)
    return now


def apply(change: Change, task: int, env: VectorEnv) -> None:
    """Change a fresh environment's model to what it is in one task; task 0 is the original."""
    model: mujoco.MjModel = env.engine.model
    if change.what == "gravity":
        model.opt.gravity[:] *= (-1.0) ** task
    else:
        model.actuator_gear[:] *= signs(change, task, model.nu)[:, None]
    env.engine.follow_model()


def plugins(arm: str) -> dict[str, Any]:
    """Return the fields of both resets: the one of the arm acts, the others measure."""
    kinds = {name: plugin_class(name) for name in ARMS[1:]}
    return {name: to_mapping(kind.Config(measure_only=name != arm)) for name, kind in kinds.items()}


def train(line: argparse.Namespace, stop: StopFlag) -> int:
    """Train in the folder, task after task; return 0, or 75 when stopped."""
    change = Change(line.change, line.task_steps, line.tasks)
    kind = agent_class(line.agent)
    agent = kind.Config(hidden=HIDDEN, **NETWORKS[line.network])
    config = TrainConfig(
        env=line.env,
        steps=change.every * change.tasks,
        seed=0,
        seeds=line.seeds,
        batch_size=BATCH,
        replay_size=change.every,
        updates_per_step=RATIO,
        warmup_steps=line.refill,
        eval_every=change.every,
        eval_episodes=line.eval_episodes,
        checkpoint_every=max(1, change.every // 2),
        log_every=max(1, change.every // 10),
        threads=line.threads,
        device="cpu",
        engine="native",
        plugins=plugins(line.arm),
    )
    learner = build_learner(kind, agent, config, config.env)
    learner.close()  # its envs: every task makes its own
    begun = (line.out / "config.toml").exists()
    tables = config_to_dict(RunConfig(agent_name=line.agent, preset="default", train=config, agent=agent))
    tables["change"] = {"network": line.network, "arm": line.arm, **change._asdict()}
    with RunFolder.open(line.out) if begun else RunFolder.create(line.out, tables, {"seed": 0}) as folder:
        if begun and folder.config()["change"] != tables["change"]:
            raise SystemExit(f"{line.out} holds {folder.config()['change']}: choose another --out")
        store = CheckpointStore(folder.checkpoints)
        loaded = store.load(config_digest=learner.digest) if begun else None
        done = 0 if loaded is None else loaded.step
        first, seconds = max(0, done - 1) // change.every, 0.0
        for task in range(first, change.tasks):
            # Updates are earned by every env step but the first ones of each task, these tasks' included.
            own = dataclasses.replace(config, warmup_steps=(task + 1) * line.refill)
            streams, episodes = learner.streams, config.eval_episodes
            learner.eval_env = make_envs(own, config.env, streams, "eval", episodes, "native")
            run = online_run(learner, own)
            for env in (run.env, run.eval_env):
                apply(change, task, env)
            goal, resume = (task + 1) * change.every, begun and task == first
            result = act_and_learn(run, folder, goal, stop, resume=resume, loaded=loaded, seconds=seconds)
            if result.interrupted:
                return INTERRUPTED
            loaded, seconds = None, result.seconds
            print(f"task {task + 1} of {change.tasks}: return {result.final_return:,.1f}", flush=True)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agent", default="sac")
    parser.add_argument("--env", default="InvertedPendulum-v5", help="one of our MuJoCo tasks")
    parser.add_argument("--change", choices=("actuators", "gravity"), default="actuators")
    parser.add_argument("--network", choices=NETWORKS, default="tanh")
    parser.add_argument("--arm", choices=ARMS, default="none")
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, ..., in one process")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--task-steps", type=int, default=10_000, help="env steps of each task")
    parser.add_argument("--refill", type=int, default=REFILL, help="env steps of each task before updates")
    parser.add_argument("--eval-episodes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    line = parser.parse_args(argv)
    if line.tasks < 1 or line.task_steps < 10 or not 0 < line.refill < line.task_steps:
        parser.error("--tasks must be at least 1, --task-steps at least 10 and above --refill")
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Train; return an exit code."""
    line = parse(argv)
    with StopFlag() as stop:
        return train(line, stop)


if __name__ == "__main__":
    sys.exit(main())
