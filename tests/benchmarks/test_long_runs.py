"""The scripts of the list of long runs, in runs of a few hundred env steps."""

import dataclasses
import json
from itertools import pairwise

import change_of_task
import numpy as np
import pytest
import sb3_baseline
import torch
from change_of_task import Change
from sb3_baseline import Setting

from rlsuite.envs.make import make_env
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.metrics import read_metrics
from rlsuite.training.rng import SeedStreams


class StopAt:
    """A stop flag that is set after it has been asked so many times."""

    def __init__(self, left):
        self.left = left

    @property
    def stop(self):
        self.left -= 1
        return None if self.left > 0 else "SIGTERM"


NEVER = 10**9


def setting(**changes):
    fields = {"algorithm": "sac", "env": "InvertedPendulum-v5", "seed": 5, "steps": 60, "warmup_steps": 20}
    return Setting(**fields, eval_every=20, eval_episodes=2, checkpoint_every=20, **changes)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_stable_baselines_goes_on_from_its_checkpoint(tmp_path, algorithm):
    at = dataclasses.replace(setting(), algorithm=algorithm)
    run = tmp_path / "run"
    assert not sb3_baseline.train(at, run, StopAt(35))
    store = CheckpointStore(run / "ckpt")
    stopped = store.steps()[-1]
    assert 20 <= stopped < 60
    saved = store.load(config_digest=sb3_baseline.digest_of(at))
    model = sb3_baseline.make_model(at, sb3_baseline.training_env(at.env, 0), 99)
    assert sb3_baseline.restore(model, saved) == (stopped // 20, pytest.approx(0, abs=600))
    for name, tensor in model.policy.state_dict().items():
        assert torch.equal(tensor, saved.tensors["policy"][name])
    moments = model.critic.optimizer.state_dict()["state"]
    assert torch.equal(moments[0]["exp_avg"], saved.tensors["optim"]["critic|0|exp_avg"])
    assert (model.num_timesteps, model.replay_buffer.pos) == (
        stopped,
        len(saved.tensors["replay"]["actions"]),
    )

    assert sb3_baseline.train(at, run, StopAt(NEVER))
    lines = list(read_metrics(run / "metrics.jsonl"))
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert lines[-1]["updates"] >= 38  # the last step before a stop is not learnt from
    assert all("eval/return_mean" in line for line in lines)
    assert sb3_baseline.train(at, run, StopAt(NEVER))  # finished: nothing is done
    assert len(list(read_metrics(run / "metrics.jsonl"))) == 3


def test_our_environment_as_gymnasiums_has_our_starts_and_ends():
    seed = SeedStreams([5]).seeds("env")[0]
    theirs, ours = (
        sb3_baseline.OneEnv("InvertedPendulum-v5", seed),
        make_env("InvertedPendulum-v5", 1, seed=[seed]),
    )
    seen, td = theirs.reset()[0], ours.reset()
    draws = np.random.default_rng(0)
    ended = 0
    for _ in range(60):
        assert np.array_equal(seen, td["observation"][0].numpy())
        action = draws.uniform(-1, 1, 1).astype(np.float32)
        td["action"] = torch.from_numpy(action)[None]
        seen, reward, terminated, truncated, _ = theirs.step(action)
        step = ours.step(td)
        assert np.array_equal(seen, step["next", "observation"][0].numpy())
        assert reward == float(step["next", "reward"])
        assert (terminated, truncated) == tuple(
            bool(step["next", key]) for key in ("terminated", "truncated")
        )
        td = ours.maybe_reset(ours.step_mdp(step))
        if terminated or truncated:
            ended += 1
            seen = theirs.reset()[0]
    assert ended > 2


def test_signs_change_with_every_task_and_are_the_same_again():
    change = Change("actuators", 10, 10)
    every = [change_of_task.signs(change, task, 2) for task in range(8)]
    assert np.array_equal(every[0], [1, 1])
    assert not any(np.array_equal(before, after) for before, after in pairwise(every))
    assert np.array_equal(every[5], change_of_task.signs(change, 5, 2))
    assert [float(change_of_task.signs(change, task, 1)[0]) for task in range(4)] == [1, -1, 1, -1]


def test_a_changed_robot_obeys_the_other_way_round():
    original, changed = (make_env("InvertedPendulum-v5", 1, seed=[0]) for _ in range(2))
    change_of_task.apply(Change("actuators", 10, 2), 1, changed)
    steps = []
    for env, action in ((original, 0.5), (changed, -0.5), (changed, 0.5)):
        env.seed_envs([0])
        td = env.reset()
        td["action"] = torch.full((1, 1), action)
        steps.append(env.step(td)["next", "observation"])
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])
    change_of_task.apply(Change("gravity", 10, 2), 1, changed)
    assert changed.engine.model.opt.gravity[2] > 0


def arguments(out, **changes):
    words = (
        "--network tanh --arm grama --seeds 2 --tasks 3 --task-steps 60 --refill 20 --eval-episodes 1 --out"
    )
    line = change_of_task.parse([*words.split(), str(out)])
    for name, value in changes.items():
        setattr(line, name, value)
    return line


def test_a_change_of_task_empties_the_replay_and_keeps_the_networks(tmp_path):
    run = tmp_path / "whole"
    assert change_of_task.train(arguments(run), StopAt(NEVER)) == 0
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["seed"] == 1]
    assert [line["step"] for line in lines] == list(range(6, 181, 6))
    stored = {line["step"]: line["replay/rows"] for line in lines}
    assert (stored[60], stored[66], stored[180]) == (60, 6, 60)
    done = {line["step"]: line["updates"] for line in lines}
    assert (done[60], done[78], done[120], done[180]) == (160, 160, 320, 480)  # refilled before updates go on
    assert [line["step"] for line in lines if "eval/return_mean" in line] == [60, 120, 180]
    config = (run / "config.toml").read_text()
    assert 'arm = "grama"' in config and "measure_only = true" in config and "measure_only = false" in config
    with pytest.raises(SystemExit, match="choose another --out"):
        change_of_task.train(arguments(run, arm="redo"), StopAt(NEVER))


def test_a_change_of_task_that_was_stopped_is_the_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert change_of_task.train(arguments(whole), StopAt(NEVER)) == 0
    assert change_of_task.train(arguments(broken), StopAt(83)) == change_of_task.INTERRUPTED
    assert change_of_task.train(arguments(broken), StopAt(50)) == change_of_task.INTERRUPTED
    assert change_of_task.train(arguments(broken), StopAt(NEVER)) == 0

    def lines(run):
        timeless = lambda key: "seconds" not in key and "per_second" not in key  # noqa: E731
        text = (run / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if timeless(k)} for line in text]

    assert lines(broken) == lines(whole)
