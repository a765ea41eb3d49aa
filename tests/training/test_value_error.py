"""The value error: its arithmetic by hand, and that measuring it changes nothing."""

import numpy as np
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
from rlsuite.training.value_error import ValueTrace, stac_value_errors, value_errors, value_trace

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


def authors_episode(values, log_probs, rewards, alpha, gamma):
    """The arithmetic of the STAC paper's code for one episode, step by step as it stands there."""
    returns = np.zeros_like(rewards)
    returns[-1] = values[-1]
    for at in reversed(range(len(values) - 1)):
        returns[at] = rewards[at] + alpha * -log_probs[at] + gamma * returns[at + 1]
    return (values - returns).mean()


def test_the_papers_definition_is_that_of_its_code():
    rng = np.random.default_rng(0)
    lengths, alpha = np.array([1, 2, 7, 40]), 0.3
    values, log_probs, rewards = (rng.normal(0, 30, (40, 4)) for _ in "abc")
    found = stac_value_errors(
        torch.tensor(values),
        torch.tensor(-alpha * log_probs),
        torch.tensor(rewards),
        torch.arange(40).unsqueeze(-1) < torch.tensor(lengths),
        GAMMA,
    )
    for index, length in enumerate(lengths):
        own = (slice(length), index)
        wanted = authors_episode(values[own], log_probs[own], rewards[own], alpha, GAMMA)
        assert found[index].item() == pytest.approx(wanted, abs=1e-9)
    assert found[0] == 0  # of one step nothing is left to compare


@pytest.mark.parametrize(
    ("length", "value", "ours"), [(500, 300.0, 59.0), (300, 400.0, 125.5), (1000, 300.0, 0.0)]
)
def test_where_the_two_definitions_part(length, value, ours):
    """A constant critic, right until a fall that it does not foresee; the last episode is cut instead."""
    gamma, cut = 0.99, length == 1000
    shape = (length, 1)
    values, bonus = torch.full(shape, value).double(), torch.zeros(shape).double()
    reward, alive = torch.full(shape, value * (1 - gamma)).double(), torch.ones(shape, dtype=torch.bool)
    tail = torch.tensor([value if cut else 0.0]).double()
    assert value_errors(values, bonus, reward, alive, tail, gamma).item() == pytest.approx(ours, abs=0.05)
    assert stac_value_errors(values, bonus, reward, alive, gamma).item() == pytest.approx(0.0, abs=1e-9)


def step(observation, reward, terminated, done):
    flags = {"terminated": terminated, "done": done}
    following = {name: torch.tensor(flag).reshape(-1, 1) for name, flag in flags.items()}
    following |= {
        "reward": torch.tensor(reward).reshape(-1, 1),
        "observation": torch.full((2, 1), observation + 1.0),
    }
    return TensorDict(
        {
            "observation": torch.full((2, 1), observation),
            "action": torch.full((2, 1), observation / 10),
            "next": TensorDict(following, [2]),
        },
        [2],
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
    assert trace.errors().keys() == {"value_errors"}  # nothing here values single actions
    assert trace.errors()["value_errors"].tolist() == pytest.approx(expected)


def test_a_trace_values_the_actions_that_were_taken_for_the_papers_definition():
    """Actions a tenth of the observation, worth a hundred times that; bonus 0.5. World 1 ends at once."""
    trace = ValueTrace(
        lambda x: StateValue(10 * x.squeeze(-1), torch.zeros(len(x))),
        GAMMA,
        lambda x, a: StateValue(100 * a.squeeze(-1), torch.full((len(x),), 0.5)),
    )
    running = torch.tensor([True, True])
    trace.add(step(1.0, [1.0, 5.0], [False, True], [False, True]), running)
    running[1] = False
    trace.add(step(2.0, [1.0, 9.0], [False, False], [True, True]), running)
    expected = [(10 - (1 + 0.5 + GAMMA * 20)) / 2, 0.0]
    assert trace.errors()["stac_value_errors"].tolist() == pytest.approx(expected)


def test_agents_without_critics_have_no_value_error():
    trace = ValueTrace(lambda x: None, GAMMA)
    trace.add(step(1.0, [1.0, 5.0], [False, True], [False, True]), torch.tensor([True, True]))
    assert trace.errors() == {}
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
    assert len(traced.pop("stac_value_errors", [])) == (6 if name == "stac" else 0)
    assert traced == plain and len(errors) == 6
    traced["value_errors"] = errors
    lines = [summary(own) for own in per_seed(traced, 2)]
    assert [line["eval/value_error"] for line in lines] == [
        pytest.approx(sum(errors[:3]) / 3),
        pytest.approx(sum(errors[3:]) / 3),
    ]
