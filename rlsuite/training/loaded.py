"""A run's policy in Python: `rlsuite.load("runs/x").act(observation)`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.training.assembly import eval_engine
from rlsuite.training.rng import SeedStreams
from rlsuite.training.savedrun import load_run
from rlsuite.version import __version__


class LoadedPolicy:
    """The policy of one agent of a run, on the CPU, for observations as numpy arrays.

    Attributes:
        policy: the TorchRL policy, `observation -> action` in [-1, 1].
        middle: (high + low) / 2 of each action in the environment's units, `[A]`.
        half_range: (high - low) / 2, `[A]`.
        observation_size: O; dictionary observations are flattened as docs/datasets.md, section 2, says.
        agent_name, env_id: of the run.
        facts: run, agent, environment, env steps, seed and versions, for a record.
    """

    def __init__(self, run: Path, checkpoint: str, seed_index: int) -> None:
        saved = load_run(run, checkpoint)
        train = saved.config.train
        if not 0 <= seed_index < train.seeds:
            raise ConfigError(f"seed index {seed_index}: {run} has {train.seeds} agent(s), counted from 0")
        env = make_env(
            train.env,
            1,
            engine=eval_engine(train.engine),
            observation_keys=train.observation_keys or None,
            options=train.env_options,
            legacy_margin=train.legacy_margin,
        )
        try:
            self.policy = saved.agent(env, SeedStreams([train.seed + seed_index]), seed_index).policy
            self.middle, self.half_range = torch.tensor(env.middle), torch.tensor(env.half_range)
            self.observation_size = int(env.observation_spec["observation"].shape[-1])
            versions = {"rlsuite": __version__, "torch": str(torch.__version__), **env.versions}
        finally:
            env.close()
        self.agent_name, self.env_id = saved.config.agent_name, train.env
        self.facts: dict[str, Any] = {
            "run": run.name,
            "agent": self.agent_name,
            "env": train.env,
            "env_options": dict(train.env_options),
            "env_steps": saved.loaded.step,
            "seed": train.seed + seed_index,
            "versions": versions,
        }

    def act(self, observation: np.ndarray, *, deterministic: bool = True) -> np.ndarray:
        """Return actions for one observation `[O]` or several `[N, O]`, float32, in the environment's units.

        Args:
            observation: numbers, converted to float32.
            deterministic: the evaluation action; False draws from the behaviour policy.

        Raises:
            ConfigError: the last axis is not O long, or there are more than two.
        """
        rows = torch.as_tensor(np.asarray(observation, np.float32))
        if rows.dim() not in (1, 2) or rows.shape[-1] != self.observation_size:
            raise ConfigError(
                f"an observation of shape {tuple(rows.shape)}: {self.env_id} has {self.observation_size} "
                f"numbers, give [{self.observation_size}] or [N, {self.observation_size}]"
            )
        batch = rows.reshape(-1, self.observation_size)
        mode = ExplorationType.DETERMINISTIC if deterministic else ExplorationType.RANDOM
        with torch.no_grad(), set_exploration_type(mode):
            action = self.policy(TensorDict({"observation": batch}, [len(batch)]))["action"]
        scaled = self.middle + self.half_range * action
        return scaled.reshape(*rows.shape[:-1], -1).numpy()

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Return (action, state), as Stable-Baselines3's `predict` does: its evaluation tools take this.

        Args:
            observation: as in `act`.
            state: handed back; these policies have no memory.
            episode_start: unused, for the same reason.
            deterministic: as in `act`.
        """
        return self.act(observation, deterministic=deterministic), state


def load(run: str | Path, *, checkpoint: str = "last", seed_index: int = 0) -> LoadedPolicy:
    """Read the policy of a run folder, which may still be training.

    Args:
        run: the run folder.
        checkpoint: "last", "best", or the env steps of a checkpoint that was kept.
        seed_index: which agent of a run with several seeds, from 0.

    Raises:
        ConfigError: no such run, checkpoint or agent.
        DataError: there is no usable checkpoint.
    """
    return LoadedPolicy(Path(run), checkpoint, seed_index)
