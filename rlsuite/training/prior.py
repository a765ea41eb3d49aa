"""Recorded data beside the env steps of a run: read once, mixed into its batches or put into its replay."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from rlsuite import distributed as ranks
from rlsuite.agents.base import Agent
from rlsuite.blocks.noise import Source
from rlsuite.errors import ConfigError
from rlsuite.offline.data import OfflineData
from rlsuite.offline.load import load_dataset
from rlsuite.offline.transforms import DataOptions, reward_transform, transformed
from rlsuite.replay.mixed import recorded_of
from rlsuite.replay.offline import OfflineReplay
from rlsuite.runs.config import NO_ENV, TrainConfig

USUAL = ("observation", "action", "next")  # what transitions online have, too


class Prior(NamedTuple):
    """Recorded data of an online run.

    Attributes:
        data: transformed.
        reward: the same transform for new transitions, `[B]` to `[B]`; None where there is none.
    """

    data: OfflineData
    reward: Callable[[Tensor], Tensor] | None

    def recorded(self, config: TrainConfig, agent: Agent, generator: Source) -> OfflineReplay:
        """Return the recorded part of mixed batches, on the agent's device.

        Raises:
            ConfigError: the share leaves no row of one kind.
        """
        assert config.offline_share is not None
        try:
            count = recorded_of(config.offline_share, config.batch_size // ranks.size())
        except ValueError as error:
            raise ConfigError(str(error)) from error
        device = next(agent.parameters()).device
        wanted = type(agent).online_columns(agent.config)
        rows = self.data.rows.select(*USUAL, *(["return"] if wanted.returns else [])).to(device)
        rows = rows.exclude(("next", "action"))
        episodes = self.data.episodes.to(device)
        return OfflineReplay(rows, episodes, batch_size=count, gamma=agent.gamma, generator=generator)


def load_prior(config: TrainConfig) -> Prior | None:
    """Read the data that `--prior-data` names; None where it names none.

    Actions are clipped to 1e-5 less than 1, as offline.

    Raises:
        ConfigError: no such data set.
        DataError: it cannot be used.
    """
    if not config.prior_data:
        return None
    recorded = load_dataset(config.prior_data, dictionary_keys=config.observation_keys or None)
    options = DataOptions(reward=config.reward)
    return Prior(transformed(recorded, options), reward_transform(config.reward, recorded))


def check_widths(data: OfflineData, agent: Agent, env_id: str) -> None:
    """Raise ConfigError where observations or actions of the data are not the environment's."""
    spaces = agent.spaces
    widths = data.rows["observation"].shape[-1], data.rows["action"].shape[-1]
    if widths != (spaces.observation, spaces.action):
        raise ConfigError(
            f"{data.name} has {widths[0]} observations and {widths[1]} actions, {env_id} has "
            f"{spaces.observation} and {spaces.action}: name the environment of the data with --env, "
            "choose parts of its observation with --observation-keys, or do without evaluations "
            f"(--env {NO_ENV})"
        )
