"""Whole runs of FQL and floq on a toy: data first, then env steps; what resumes, what evaluations repeat."""

import pytest
import whole_runs as runs
from test_offline_training import learn

from rlsuite.offline.load import load_dataset
from rlsuite.training.evaluate import evaluate_run
from rlsuite.training.savedrun import load_run

FLOQ = {"field_steps": 2, "copies": 2}


@pytest.mark.parametrize(
    ("agent", "seeds", "share", "fields"),
    [("fql", 2, None, {}), ("floq", 1, 0.5, FLOQ), ("floq", 2, None, FLOQ | {"aggregate": "min"})],
)
def test_a_resumed_run_equals_the_unbroken_one(tmp_path, recorded, agent, seeds, share, fields):
    own = {"fields": fields, "seeds": seeds, "offline_share": share}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    learn(whole, recorded, agent, then_online=40, **own)
    # A share is of the online phase, without which there is none: the first part is stopped inside it.
    learn(broken, recorded, agent, then_online=30, **own)
    learn(broken, recorded, agent, then_online=40, resume=True, **own)
    runs.assert_same_run(whole, broken)


def test_a_field_is_told_the_range_of_the_rewards_that_are_learnt_from(tmp_path, recorded):
    learn(tmp_path / "run", recorded, "floq", FLOQ, steps=30, reward="antmaze")
    saved = load_run(tmp_path / "run", "last").loaded.tensors["agent"]
    reward = load_dataset(str(recorded)).rows["next", "reward"] - 1
    expected = pytest.approx([reward.min().item(), reward.max().item()])
    assert saved["field.reward_range"].tolist() == expected
    assert saved["target_field.reward_range"].tolist() == expected


@pytest.mark.parametrize("evaluation", ["sample", "mode"])
def test_evaluations_draw_noise_and_can_be_repeated(tmp_path, recorded, evaluation):
    learn(tmp_path / "run", recorded, "fql", {"evaluation": evaluation}, steps=60)
    played = [evaluate_run(tmp_path / "run", episodes=2, seed=3, video=None, which="last") for _ in "ab"]
    assert played[0]["returns"] == played[1]["returns"]
