"""What each process of tests/training/test_ranks.py does: `torchrun ... ranks_worker.py FOLDER`."""

import dataclasses
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from rlsuite import distributed as ranks
from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.training import state
from rlsuite.training.assembly import Run, build
from rlsuite.training.online import train_steps

SIZE = ["--num-envs", "2", "--steps", "400", "--warmup-steps", "200", "--batch-size", "32", "--threads", "1"]
EVERY = ["--eval-every", "200", "--eval-episodes", "1", "--checkpoint-every", "100", "--log-every", "100"]
TRAIN = ["train", "sac", "--env", "gym:Pendulum-v1", *SIZE, *EVERY]
STEPS, WARMUP, WORLDS, BATCH = 60, 40, 4, 32  # 20 updates
AGENTS = {
    "dsac_t": {"normalize_observations": True},
    "sac": {},
    "stac": {"dropout_actor": 0.0, "dropout_critic": 0.0},  # its draws have no halves
    "td3": {},
}


def make(name: str) -> Run:
    """Build a run of the whole run's size; a rank makes its share."""
    config = TrainConfig(
        env="gym:Pendulum-v1",
        steps=STEPS,
        num_envs=WORLDS,
        batch_size=BATCH,
        warmup_steps=WARMUP,
        replay_size=1_000,
        eval_episodes=1,
        threads=1,
        seed=3,
    )
    kind = agent_class(name)
    return build(kind, dataclasses.replace(kind.Config(), **AGENTS[name]), config)


def found(run: Run) -> dict[str, torch.Tensor]:
    """Return what the run learnt, and the means that it would log."""
    logged = {f"log/{key}": torch.tensor(value) for key, value in run.sums.take()[0].items()}
    return {key: tensor.clone() for key, tensor in state.agent_tensors(run.agent).items()} | logged


def main(folder: Path) -> None:
    """Leave what was learnt in `folder`."""
    torch.set_num_threads(1)
    with ranks.joined("cpu") as place:
        for agent in AGENTS:
            run = make(agent)
            train_steps(run, STEPS)
            save_file(found(run), folder / f"{agent}-{place.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
