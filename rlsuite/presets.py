"""Presets: tables of `rlsuite/configs/AGENT.toml` that hold what differs from an agent's defaults.

What differs on one environment, Hopper's say, stands in the agent's file under `[PRESET.env."Hopper"]`;
`rlsuite list presets` shows them all.
"""

import importlib.util
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rlsuite import extensions
from rlsuite.envs.ogbench_names import KINDS
from rlsuite.errors import ConfigError, unknown_name
from rlsuite.registry import is_agent_file, plain_dataset_name, plain_env_name

OGBENCH = "ogbench-"  # begins the plain names of its data sets
_PACKAGE = Path(__file__).parent


def preset_names(agent: str) -> dict[str, str]:
    """Return the presets of an agent with their descriptions; `default` is always there."""
    names = {"default": "the agent's own defaults"}
    names |= {name: str(table.get("description", "")) for name, table in _preset_tables(agent).items()}
    return names


def load_preset(
    agent: str, preset: str, env_id: str, dataset: str | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a preset changes: fields of the run, and fields of the agent.

    The preset's own values are those of online runs, its table `[PRESET.offline]` has those of runs on a data
    set. Overrides stand in `[PRESET.env."PATTERN"]`, matched against the environment's plain name, and in
    `[PRESET.data."PATTERN"]`, matched against the data set's; both hold the same kinds of values. Patterns
    are those of `fnmatch`. Later ones win, an exact name wins over patterns, the data set over the
    environment. Whether the fields exist is checked where the dataclasses are known
    (`rlsuite.runs.mapping`).

    Args:
        agent: a known agent.
        preset: one of its presets.
        env_id: as `--env` says it; "" matches no override.
        dataset: as `--dataset` says it; None is an online run.

    Raises:
        ConfigError: no such preset, or a table where a value should be.
    """
    known = preset_names(agent)
    if preset not in known:
        raise unknown_name(f"a preset of {agent}", preset, known, "rlsuite list presets")
    table = dict(_preset_tables(agent).get(preset, {}))
    table.pop("description", None)
    by_env = _table(table.pop("env", {}), f"{preset}.env", agent)
    by_data = _table(table.pop("data", {}), f"{preset}.data", agent)
    layers = [(preset, table)]
    layers += [(f"{preset}.env.{key}", by_env[key]) for key in _matching(by_env, plain_env_name(env_id))]
    if dataset is not None:
        name = plain_dataset_name(dataset)
        layers += [(f"{preset}.data.{key}", by_data[key]) for key in _matching(by_data, name)]
    train_values: dict[str, Any] = {}
    agent_values: dict[str, Any] = {}
    for where, layer in layers:
        values = _table(layer, where, agent)
        agent_values |= _table(values.pop("agent", {}), f"{where}.agent", agent)
        offline = _table(values.pop("offline", {}), f"{where}.offline", agent)
        train_values |= values if dataset is None else offline
    return train_values, agent_values


def _matching(patterns: Iterable[str], name: str) -> list[str]:
    """Return the patterns that match, in their order, an exact one last.

    OGBench's data are matched by patterns that name it, or a kind of its recordings: *antmaze-* is D4RL's,
    whose rewards are others.
    """
    matching = [pattern for pattern in patterns if name and fnmatchcase(name, pattern)]
    if name.startswith(OGBENCH):
        matching = [pattern for pattern in matching if any(mark in pattern for mark in (OGBENCH, *KINDS))]
    return sorted(matching, key=lambda pattern: pattern == name)


def _preset_tables(agent: str) -> dict[str, dict[str, Any]]:
    path = _preset_file(agent)
    if not path.is_file():
        return {}
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: _table(table, name, agent) for name, table in content.items()}


def _table(value: object, where: str, agent: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"configs/{agent}.toml: {where} is a value, and should be a table")
    return dict(value)


def _preset_file(agent: str) -> Path:
    """Return where presets of an agent are: `configs/`, or, of other packages' agents, beside the module."""
    ours = _PACKAGE / "configs" / f"{agent}.toml"
    target = extensions.targets("agent").get(agent)
    if ours.is_file() or target is None or is_agent_file(agent):
        return ours
    try:
        spec = importlib.util.find_spec(target.partition(":")[0])
    except ModuleNotFoundError:  # said when the agent is asked for
        spec = None
    return ours if spec is None or spec.origin is None else Path(spec.origin).with_suffix(".toml")
