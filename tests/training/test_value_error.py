"""The value error: its arithmetic by hand, and that measuring it changes nothing."""

import pytest
import torch
import toys  # noqa: F401  # registers the environments
from tensordict import TensorDict

from rlsuite.agents.base import StateValue
from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.training.assembly import build
from rlsuite.training.evaluate import evaluate, per_seed, summary
from rlsuite.training.online import train_steps
from rlsuite.training.value_error import ValueTrace, value_errors, value_trace

GAMMA = 0.9


def t(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand():
    """Two steps with bonus 0.5; each soft return is taken off its step's estimate."""
    reward, bonus = t(1.0, 2.0), t(0.5, 0.5)
    value, alive = t(10.0, 8.0), torch.ones(2, dtype=torch.bool)
    cut = value_errors(value, bonus, reward, alive, t(4.0)[0], GAMMA)
    second = 2.5 + 0.9 * 4.0
    first = 1.5 + 0.9 * second
    assert cut.item() == pytest.approx(((10 - first) + (8 - second)) / 2)
    terminated = value_errors(value, bonus, reward, alive, t(0.0)[0], GAMMA)
    assert terminated.item() == pytest.approx(((10 - 1.5 - 0.9 * 2.5) + (8 - 2.5)) / 2)


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_episodes_of_different_length_do_not_feel_what_follows(batch):
    g = torch.Generator().manual_seed(0)
    shape = (5, *batch)
    value, bonus, reward = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in "abc")
    lengths = torch.randint(1, 6, batch, generator=g)
    steps = torch.arange(5).reshape(-1, *(1,) * len(batch))
    tail = torch.randn(batch, generator=g, dtype=torch.float64)
    found = value_errors(value, bonus, reward, steps < lengths, tail, GAMMA)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in batch)).reshape(-1, len(batch)).tolist():
        own, n = (slice(None), *index), int(lengths[tuple(index)])
        alone = value_errors(
            value[own][:n],
            bonus[own][:n],
            reward[own][:n],
            torch.ones(n, dtype=torch.bool),
            tail[tuple(index)],
            GAMMA,
        )
        torch.testing.assert_close(found[tuple(index)], alone)


def test_true_values_have_no_error():
    """Reward 1 for ever, cut after three steps: the value 1 / (1 - gamma) is right at every one."""
    always = torch.full((3, 1), 1 / (1 - GAMMA), dtype=torch.float64)
    zeros, ones = torch.zeros_like(always), torch.ones_like(always)
    found = value_errors(always, zeros, ones, ones.bool(), always[0], GAMMA)
    torch.testing.assert_close(found, torch.zeros_like(found))


def step(observation, reward, terminated, done):
    flags = {"terminated": terminated, "done": done}
    following = {name: torch.tensor(flag).reshape(-1, 1) for name, flag in flags.items()}
    following |= {
        "reward": torch.tensor(reward).reshape(-1, 1),
        "observation": torch.full((2, 1), observation + 1.0),
    }
    return TensorDict(
        {"observation": torch.full((2, 1), observation), "next": TensorDict(following, [2])}, [2]
    )


def test_a_trace_bootstraps_a_cut_episode_and_not_a_terminated_one():
    """Estimates are ten times the observation; world 0 is cut after two steps, world 1 terminates at one."""
    trace = ValueTrace(lambda x: StateValue(10 * x.squeeze(-1), torch.zeros(len(x))), GAMMA)
    running = torch.tensor([True, True])
    trace.add(step(1.0, [1.0, 5.0], [False, True], [False, True]), running)
    running[1] = False  # the loop's own tensor: the trace must have kept a copy
    trace.add(step(2.0, [1.0, 9.0], [False, False], [True, True]), running)
    second = 1 + GAMMA * 30
    expected = [((10 - 1 - GAMMA * second) + (20 - second)) / 2, 10 - 5]
    assert trace.errors().tolist() == pytest.approx(expected)


def test_agents_without_critics_have_no_value_error():
    trace = ValueTrace(lambda x: None, GAMMA)
    trace.add(step(1.0, [1.0, 5.0], [False, True], [False, True]), torch.tensor([True, True]))
    assert trace.errors() is None
    assert "eval/value_error" not in summary({"returns": [1.0], "lengths": [1.0]})


@pytest.mark.parametrize("name", ["stac", "td3"])
def test_evaluations_report_it_and_are_otherwise_the_same(name):
    kind = agent_class(name)
    config = TrainConfig(
        env="gym:ToyReach-v0", warmup_steps=100, batch_size=32, device="cpu", eval_episodes=3, seeds=2
    )
    run = build(kind, kind.Config(hidden=(16, 16)), config)
    train_steps(run, 200)
    seeds = list(range(6))
    plain = evaluate(run.policy, run.eval_env, seeds=seeds)
    traced = evaluate(run.policy, run.eval_env, seeds=seeds, trace=value_trace(run.agent))
    errors = traced.pop("value_errors")
    assert traced == plain and len(errors) == 6
    traced["value_errors"] = errors
    lines = [summary(own) for own in per_seed(traced, 2)]
    assert [line["eval/value_error"] for line in lines] == [
        pytest.approx(sum(errors[:3]) / 3),
        pytest.approx(sum(errors[3:]) / 3),
    ]
