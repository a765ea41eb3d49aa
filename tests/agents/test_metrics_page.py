"""docs/metrics.md has every key that runs log, and no other, and names the agents that log it."""

import re
from pathlib import Path

import helpers
import ldcq_helpers
import mbrcsl_helpers
import pytest
import whole_runs as runs

from rlsuite.registry import agent_names
from rlsuite.training.recorder import CLOCK_KEYS, OWNER_KEY

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(\S+)` \| (?:[^|\n]+) \|(?: ([^|\n]+) \|)?$", flags=re.MULTILINE)
FIELDS = {"cql": {"gap": 5.0}, "iql": {"value_loss": "gumbel"}, "famo2o": {"value_loss": "gumbel"}}
AGENTS = set(agent_names())
RARE = {
    *("eval/success", "eval/score", "updates/graphed", "ckpt/failed", "least/ended_within_30"),
    *("replay/new_share", "train/regret", "intervention/share", "intervention/begun"),
}
WHOLE = {
    "sac": ({}, {"grama": {"period": 20}, "redo": {"period": 20}, "least": {"start": 0.0}}),
    "stac": ({}, {}),
    "ppo": ({"replay_size": 128, "batch_size": 32, "epochs": 1, "steps": 256, "warmup_steps": 0}, {}),
}


def keys_of(text):
    """Keys of the tables of a part of the page, with the agents that its last column names."""
    return dict(ROW.findall(text))


def sections():
    _, *parts = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], map(keys_of, parts[1::2]), strict=True))


def agents_of(column):
    names = column.removeprefix("all but ").split(", ")
    assert set(names) <= AGENTS
    return AGENTS - set(names) if column.startswith("all but ") else set(names)


def plain(key):
    return re.sub("inactive_.*", "inactive_NAME", key)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Keys of every agent's updates by agent, and of whole runs."""
    staged = ldcq_helpers.learn(ldcq_helpers.small_ldcq(), ldcq_helpers.windows(), 10)
    by_agent = {"ldcq": {key for line in staged for key in line} - {"priority"}}  # that is the replay's
    agent, data, keys = mbrcsl_helpers.small(), mbrcsl_helpers.replay(), set()
    for _ in range(agent.config.updates):
        agent.prepare(data)
        keys |= agent.update(data.sample()).keys()
    by_agent["mbrcsl"] = keys
    for name in helpers.NAMES:
        agent = helpers.small_agent(name, **FIELDS.get(name, {}))
        by_agent[name] = {key for seed in range(3) for key in agent.update(helpers.random_batch(seed=seed))}
    by_run = {}
    for name, (changes, plugins) in WHOLE.items():
        folder = tmp_path_factory.mktemp(name)
        runs.train(folder, name, plugins=plugins, **{"steps": 400, "eval_every": 200, **changes})
        by_run[name] = {plain(key) for line in runs.lines(folder, drop=()) for key in line} | {*CLOCK_KEYS}
    found = sections()
    by_agent["ppo"] = by_run["ppo"] - {
        key for name, keys in found.items() if name != "Agents" for key in keys
    }
    return by_agent, by_run


def test_every_agent_was_run(logged):
    assert set(logged[0]) == AGENTS


def test_the_page_names_the_agents_that_log_a_key(logged):
    page = {key: agents_of(column) for key, column in sections()["Agents"].items()}
    by_agent, _ = logged
    every = set().union(*by_agent.values())
    found = {key: {name for name, keys in by_agent.items() if key in keys} for key in every}
    assert page == found


def test_the_page_has_what_whole_runs_log_and_nothing_else(logged):
    _, by_run = logged
    found = set().union(*by_run.values())
    page = {key for keys in sections().values() for key in keys}
    assert found <= page
    rest = page - found - set(sections()["Agents"]) - {OWNER_KEY}
    assert rest == RARE  # which need a GPU, a full disk, an environment or data that are not here
    files = [*(ROOT / "rlsuite" / "training").glob("*.py"), ROOT / "rlsuite" / "plugins" / "least.py"]
    source = "".join(path.read_text() for path in files)
    assert all(f'"{key}"' in source or f'"{key.removeprefix("least/")}"' in source for key in RARE)
