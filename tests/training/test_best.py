"""The best evaluation's weights: kept, found again by every door, and scored as they were then."""

import json

import pytest
import torch
import whole_runs as runs

import rlsuite
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.training.evaluate import evaluate_run


def best_of(path, seed=None):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return max(
        line["eval/return_mean"] for line in lines if "eval/return_mean" in line and line.get("seed") == seed
    )


@pytest.mark.parametrize("agent", ["dsac_t", "td3", "sac"])
def test_the_best_evaluation_is_played_again_to_the_last_bit(tmp_path, agent):
    result = runs.train(
        tmp_path / "run", agent, steps=800, eval_every=40, checkpoint_every=400, eval_episodes=3
    )
    again = evaluate_run(tmp_path / "run", episodes=1, seed=None, video=None, which="best", same=True)
    assert again["return_mean"] == result.best_return == best_of(tmp_path / "run")
    assert len(again["returns"]) == 3
    assert rlsuite.load(tmp_path / "run", checkpoint="best").facts["env_steps"] == again["step"]


@pytest.mark.parametrize("seeds", [2, 3])
def test_every_seed_has_a_best_of_its_own(tmp_path, seeds):
    result = runs.train(tmp_path / "run", steps=800, eval_every=40, seeds=seeds, eval_episodes=2)
    again = evaluate_run(tmp_path / "run", episodes=1, seed=None, video=None, which="best", same=True)
    bests = [best_of(tmp_path / "run", seed) for seed in range(seeds)]
    assert again["each"] == bests
    assert result.best_return == sum(bests) / seeds
    single = evaluate_run(
        tmp_path / "run", episodes=1, seed=None, video=None, which="best", same=True, seed_index=1
    )
    assert single["return_mean"] == pytest.approx(bests[1], rel=1e-5)


def test_a_checkpoints_score_is_that_of_its_own_weights(tmp_path):
    runs.train(tmp_path / "run", steps=800, eval_every=300, checkpoint_every=400)
    store = CheckpointStore(tmp_path / "run" / "ckpt")
    scores = {step: store.load(config_digest=None, step=step).manifest.score for step in store.steps()}
    assert scores[400] is None  # the last evaluation was of step 300
    assert scores[800] is not None


def test_a_resumed_run_ends_with_the_same_best(tmp_path):
    fields = {"eval_every": 40, "checkpoint_every": 400}
    whole = runs.train(tmp_path / "whole", steps=800, **fields)
    runs.train(tmp_path / "parts", steps=400, **fields)
    parts = runs.train(tmp_path / "parts", steps=800, resume=True, **fields)
    assert parts.best_return == whole.best_return
    bests = [CheckpointStore(tmp_path / n / "best").load(config_digest=None) for n in ("whole", "parts")]
    assert bests[0].documents == bests[1].documents
    for name, tensor in bests[0].tensors["agent"].items():
        assert torch.equal(tensor, bests[1].tensors["agent"][name])


def test_a_damaged_best_is_an_error_and_not_another_policy(tmp_path):
    runs.train(tmp_path / "run", steps=400)
    file = next((tmp_path / "run" / "best").glob("step-*/agent.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(rlsuite.errors.DataError, match="usable"):
        rlsuite.load(tmp_path / "run", checkpoint="best")
    assert rlsuite.load(tmp_path / "run").facts["env_steps"] == 400


def test_a_run_of_before_falls_back_to_its_best_checkpoint(tmp_path):
    runs.train(tmp_path / "run", steps=400)
    for file in sorted((tmp_path / "run" / "best").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    assert rlsuite.load(tmp_path / "run", checkpoint="best").facts["env_steps"] == 400
