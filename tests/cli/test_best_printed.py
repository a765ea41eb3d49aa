"""What a run prints as its best return, `rlsuite eval` gives for its best weights, to the last digit."""

import json
import re

import pytest

WORDS = (
    *("--env", "gym:Pendulum-v1", "--env-option", "max_episode_steps=20", "--num-envs", "2"),
    *("--steps", "160", "--warmup-steps", "20", "--agent.hidden", "8", "--batch-size", "8"),
    *("--threads", "1", "--device", "cpu"),
)


def bests(run, seeds):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "eval/return_mean" in line]
    of_seed = [[line for line in lines if line.get("seed", 0) == seed] for seed in range(seeds)]
    return [max(line["eval/return_mean"] for line in own) for own in of_seed]


@pytest.mark.parametrize(("seeds", "every", "episodes"), [(1, 20, 2), (1, 40, 3), (2, 20, 2), (3, 40, 1)])
def test_the_printed_best_is_played_again(rlsuite, tmp_path, seeds, every, episodes):
    run = tmp_path / "run"
    counts = ("--seeds", str(seeds), "--eval-every", str(every), "--eval-episodes", str(episodes))
    trained = rlsuite("train", "sac", *WORDS, *counts, "--out", str(run))
    assert trained.code == 0, trained.err
    printed = re.search(r"^best return (\S+), final", trained.out, flags=re.M)[1]
    again = ("eval", str(run), "--checkpoint", "best", "--same-episodes")
    assert re.search(rf"^return +{re.escape(printed)} \+-", rlsuite(*again).out, flags=re.M)
    metrics = json.loads(rlsuite(*again, "--json").out)
    assert len(metrics["returns"]) == seeds * episodes
    assert metrics.get("each", [metrics["return_mean"]]) == bests(run, seeds)
    for seed in range(seeds):
        alone = json.loads(rlsuite(*again, "--json", "--seed-index", str(seed)).out)
        assert alone["return_mean"] == bests(run, seeds)[seed]
