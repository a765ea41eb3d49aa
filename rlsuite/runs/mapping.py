"""A run's configuration, and its plain mapping in `config.toml`."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlsuite.errors import ConfigError
from rlsuite.runs.config import OfflineConfig, TrainConfig
from rlsuite.strict import check_keys, from_mapping, to_mapping, typed

__all__ = ["RunConfig", "config_from_dict", "config_to_dict", "from_mapping", "to_mapping"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides a run: which agent, from which preset, and the resolved fields of both."""

    agent_name: str
    preset: str
    train: TrainConfig | OfflineConfig
    agent: Any  # the agent's own frozen `Config`


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Return a run's configuration as nested plain values, fit for TOML and JSON."""
    return {
        "agent_name": config.agent_name,
        "preset": config.preset,
        "train": to_mapping(config.train),
        "agent": to_mapping(config.agent),
    }


def config_from_dict(values: Mapping[str, Any], agent_config: Callable[[str], type]) -> RunConfig:
    """Rebuild a run's configuration from `config_to_dict`'s mapping.

    Args:
        values: what `config.toml` holds.
        agent_config: from the agent's name to its `Config` dataclass.

    Raises:
        ConfigError: an unknown or missing key, or a value of the wrong type; names it.
    """
    names = [field.name for field in dataclasses.fields(RunConfig)]
    check_keys(values, names, "config.toml")
    missing = [name for name in names if name not in values]
    if missing:
        raise ConfigError(f"config.toml: {', '.join(missing)} missing; it was not written by a run")
    agent_name = typed(str, values["agent_name"], "config.toml: agent_name")
    return RunConfig(
        agent_name=agent_name,
        preset=typed(str, values["preset"], "config.toml: preset"),
        train=from_mapping(kind_of_run(values["train"]), values["train"], "config.toml: train"),
        agent=from_mapping(agent_config(agent_name), values["agent"], "config.toml: agent"),
    )


def kind_of_run(values: Any) -> type[TrainConfig] | type[OfflineConfig]:
    """Return which dataclass a run's fields belong to: offline runs name a data set."""
    return OfflineConfig if isinstance(values, Mapping) and "dataset" in values else TrainConfig
