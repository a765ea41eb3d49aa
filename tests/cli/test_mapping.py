"""A run's configuration survives TOML, and nothing wrong gets in."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from typing import Literal

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from rlsuite import registry
from rlsuite.errors import ConfigError
from rlsuite.runs.config import TrainConfig
from rlsuite.runs.mapping import RunConfig, config_from_dict, config_to_dict, from_mapping, to_mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    """One field of every kind that a configuration may have."""

    whole: int = 1
    real: float = 0.5
    flag: bool = False
    text: str = "a"
    choice: Literal["a", "b"] = "a"
    widths: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 0.5)
    maybe: float | None = 0.25
    table: Mapping[str, float] = dataclasses.field(default_factory=dict)


FIELDS = st.builds(
    Fields,
    whole=st.integers(-(2**63), 2**63 - 1),
    real=st.floats(allow_nan=False),
    flag=st.booleans(),
    text=st.text(st.characters(exclude_categories=["Cs"])),
    choice=st.sampled_from(["a", "b"]),
    widths=st.lists(st.integers(0, 9)).map(tuple),
    pair=st.tuples(st.integers(0, 9), st.floats(allow_nan=False)),
    maybe=st.none() | st.floats(allow_nan=False),
    table=st.dictionaries(st.text("abc", min_size=1), st.floats(allow_nan=False)),
)


@given(FIELDS)
def test_round_trip_through_toml(fields):
    text = tomli_w.dumps(to_mapping(fields))
    assert from_mapping(Fields, tomllib.loads(text), "test") == fields


@pytest.mark.parametrize("agent", registry.agent_names())
def test_run_round_trip(agent):
    widths = "widths" if agent == "ldcq" else "hidden"
    own = registry.agent_class(agent).Config(**{widths: (8, 4)})
    train = TrainConfig(env="gym:X", loggers=(), updates_per_step=2, guard=False)
    config = RunConfig(agent_name=agent, preset="paper", train=train, agent=own)
    stored = config_to_dict(config)
    json.dumps(stored)  # the checkpoint's digest is taken of JSON
    read = config_from_dict(
        tomllib.loads(tomli_w.dumps(stored)), lambda name: registry.agent_class(name).Config
    )
    assert read == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hole": 1}, 'here: unknown key "hole". Did you mean "whole"?'),
        ({"zzz": 1}, 'here: unknown key "zzz". Allowed: '),
        ({"whole": 1.0}, "here: whole = 1.0 should be of type int"),
        ({"whole": True}, "here: whole = True should be of type int"),
        ({"whole": "none"}, "should be of type int"),
        ({"real": "1"}, "real = '1' should be of type float"),
        ({"flag": 1}, "flag = 1 should be of type bool"),
        ({"text": 1}, "text = 1 should be of type str"),
        ({"choice": "bb"}, "choice = 'bb' is none of a, b. Did you mean \"b\"?"),
        ({"choice": 1}, "choice = 1 is none of a, b"),
        ({"widths": 3}, "widths = 3 should be a list"),
        ({"widths": [1, "2"]}, "widths = '2' should be of type int"),
        ({"pair": [1]}, "pair = [1] should have 2 items"),
        ({"maybe": "x"}, "maybe = 'x' should be of type"),
        ({"table": 1}, "table = 1 should be a table"),
        ({"table": {"a": "b"}}, "table.a = 'b' should be of type float"),
        ([], "should be a table"),
    ],
    ids=str,
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ConfigError) as error:
        from_mapping(Fields, values, "here")
    assert message in str(error.value)


def test_whole_numbers_may_stand_for_reals():
    fields = from_mapping(Fields, {"real": 2, "maybe": 3}, "here")
    assert (fields.real, fields.maybe) == (2.0, 3.0)
    assert isinstance(fields.real, float)
    assert isinstance(fields.maybe, float)


def test_what_the_dataclass_refuses_keeps_its_reason():
    with pytest.raises(ConfigError, match="here: steps = 0: must be at least 1"):
        from_mapping(TrainConfig, {"steps": 0}, "here", env="X")
    with pytest.raises(ConfigError, match=r"here: .*'env'"):
        from_mapping(TrainConfig, {}, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("agent"), "agent missing"),
        (lambda c: c.update(sweep=1), 'unknown key "sweep"'),
        (lambda c: c.update(agent_name=3), "agent_name = 3 should be of type str"),
        (lambda c: c.update(agent_name="sacc"), 'Did you mean "sac"?'),
        (lambda c: c["train"].update(stepz=1), 'train: unknown key "stepz". Did you mean "steps"?'),
    ],
)
def test_broken_run_configuration(change, message):
    own = registry.agent_class("sac").Config()
    config = config_to_dict(
        RunConfig(agent_name="sac", preset="default", train=TrainConfig(env="X"), agent=own)
    )
    change(config)
    with pytest.raises(ConfigError) as error:
        config_from_dict(config, lambda name: registry.agent_class(name).Config)
    assert message in str(error.value)
