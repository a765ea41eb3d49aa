"""D4RL's normalised scores, from a table of our own."""

import pytest

from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.scores import D4RL_REFERENCES, d4rl_reference, find_d4rl_reference, minari_reference

KNOWN = [
    ("halfcheetah-medium-v2", 4770.3, 40.68),
    ("halfcheetah-medium-v2", 5000, 42.53),
    ("hopper-medium-v2", 1422.06, 44.317),
    ("hopper", 2000, 62.075),
    ("walker2d-expert-v2", 3600, 78.384),
    ("maze2d-umaze-v1", 137.9, 82.639),
    ("maze2d-large-v1", 100, 34.906),
    ("kitchen-mixed-v0", 2, 50.0),
    ("pen-human-v1", 3000, 97.422),
]


@pytest.mark.parametrize(("name", "returned", "score"), KNOWN)
def test_known_scores(name, returned, score):
    assert d4rl_reference(name).score(returned) == pytest.approx(score, abs=6e-3)


@pytest.mark.parametrize("name", D4RL_REFERENCES)
def test_the_ends_are_0_and_100_and_nothing_is_clipped(name):
    reference = d4rl_reference(name)
    assert reference.score(reference.low) == 0.0
    assert reference.score(reference.high) == 100.0
    assert reference.score(reference.low - 1) < 0
    assert reference.score(reference.high + 1) > 100


def test_names_of_environments_and_data_sets():
    assert d4rl_reference("HalfCheetah-v5") is d4rl_reference("halfcheetah-random-v0")
    assert d4rl_reference("antmaze-large-diverse-v2").high == 1.0
    assert d4rl_reference("maze2d-umaze-v0") != d4rl_reference("maze2d-umaze-v1")
    assert d4rl_reference("maze2d-umaze-dense-v1").low == 68.537689
    # No such version: a guess would score against another environment.
    assert find_d4rl_reference("maze2d-umaze-v7") is None
    with pytest.raises(ConfigError, match='Did you mean "hopper"'):
        d4rl_reference("hoper")


def test_minari_keeps_references_of_its_own():
    found = minari_reference({"ref_min_score": 1.0, "ref_max_score": 3.0}, "mujoco/hopper/expert-v0")
    assert found.score(2.0) == 50.0
    assert found.source == "mujoco/hopper/expert-v0"
    assert minari_reference({"ref_min_score": 1.0}, "x") is None
    with pytest.raises(DataError, match="no score"):
        minari_reference({"ref_min_score": 3.0, "ref_max_score": 3.0}, "x")
