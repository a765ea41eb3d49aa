"""Interventions: numeric tests 8 and 9 of the specification, rules, whole runs."""

from types import SimpleNamespace

import pytest
import torch
import whole_runs as runs

from rlsuite.errors import ConfigError, DataError
from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.training.interventions import Expert, Intervention, TakeOver, load_intervention, worse_by
from rlsuite.training.savedrun import load_run

CPU = torch.device("cpu")


class Scripted(Intervention):
    """Asks for an intervention at some calls; its action is always 1."""

    def __init__(self, flags=(), period=0, **more):
        super().__init__(**more)
        self.flags, self.period, self.calls = list(flags), period, 0

    def take(self, observation, action, luck):
        asked = self.calls % self.period == 0 if self.period else self.flags[self.calls]
        self.calls += 1
        return torch.full((len(action),), bool(asked)), torch.ones_like(action)


class Lucky(Intervention):
    """Takes over with a chance of 0.3; all that it knows is in the run."""

    def take(self, observation, action, luck):
        return luck < 0.3, -action


def take_over(who, envs=1, source=None):
    env = SimpleNamespace(num_envs=envs, action_spec=torch.zeros(envs, 2))
    return TakeOver(who, env, CPU, torch.Generator().manual_seed(0) if source is None else source)


def rewards_of(over, count, ends=()):
    """Rewards of the transitions between `count` observations, the first of which begins an episode."""
    action, observation, rewards = torch.zeros(1, 2), torch.zeros(1, 3), []
    over.decide(observation, action, torch.zeros(1, dtype=torch.bool))
    for number in range(count - 1):
        done = torch.tensor([number in ends])
        begins = over.decide(observation, action, done)
        rewards.append(over.reward(torch.tensor([7.0]), begins, done).item())
    return rewards


def test_the_reward_is_minus_one_where_an_intervention_begins():
    flags = [0, 0, 1, 1, 1, 1, 0, 0, 1]
    rewards = rewards_of(take_over(Scripted(flags)), 9)
    assert rewards == [0, -1, 0, 0, 0, 0, 0, -1]  # all eight transitions have one
    assert rewards_of(take_over(Scripted(flags, reward="task")), 9) == [7.0] * 8


def test_an_intervention_every_fifth_step_is_worth_what_it_costs():
    rewards = rewards_of(take_over(Scripted(period=5)), 5_000)
    assert rewards[:10] == [0, 0, 0, 0, -1] * 2
    value = sum(0.99**step * reward for step, reward in enumerate(rewards))
    assert value == pytest.approx(-19.6000202, abs=1e-6)


def test_an_intervention_that_is_always_asked_for_costs_something_where_it_hands_back():
    always = [1] * 12
    assert rewards_of(take_over(Scripted(always, steps=4)), 12) == [0] * 11
    paid = rewards_of(take_over(Scripted(always, steps=4, hand_back=True)), 12)
    assert paid == [0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0]  # every fifth step
    broken = rewards_of(take_over(Scripted(always, steps=4, hand_back=True)), 12, ends=(3,))
    assert broken == [0] * 8 + [-1, 0, 0]  # a new episode owes no step: it is taken over at once
    single = rewards_of(take_over(Scripted(always, hand_back=True)), 5)
    assert single == [0, -1, 0, -1]


def test_an_intervention_lasts_its_steps_and_ends_with_its_episode():
    over = take_over(Scripted([1, 0, 0, 0, 1, 0, 0, 0], steps=3))
    seen, none = [], torch.zeros(1, dtype=torch.bool)
    for number in range(8):
        over.decide(torch.zeros(1, 3), torch.zeros(1, 2), torch.tensor([number == 5]))
        seen.append((bool(over.on), over.action.tolist()[0]))
    assert [on for on, _ in seen] == [True] * 3 + [False, True, False, False, False]
    assert all(action == ([1.0, 1.0] if on else [0.0, 0.0]) for on, action in seen)
    assert not none.any()


def test_the_transition_into_a_new_episode_is_not_punished():
    rewards = rewards_of(take_over(Scripted([0, 0, 1, 0, 1, 0])), 6, ends=(1,))
    assert rewards == [0, 0, 0, -1, 0]  # the first began in a new episode


def test_the_value_rule_is_a_difference():
    """With the released factor an expert's own action of negative value asks for an intervention."""
    pairs = torch.tensor([[-10.0, -9.0], [10.0, 10.05], [-9.0, -9.0]])
    assert worse_by(*pairs.T, 0.5).tolist() == [True, False, False]
    assert (pairs[:, 0] < 0.99 * pairs[:, 1]).tolist() == [True, False, True]


def test_seeds_draw_their_own_luck():
    streams = tuple(torch.Generator().manual_seed(seed) for seed in (0, 1))
    both, action = take_over(Lucky(), 4, streams), torch.ones(4, 2)
    alone = take_over(Lucky(), 2, torch.Generator().manual_seed(1))
    for _ in range(20):
        none = torch.zeros(4, dtype=torch.bool)
        both.decide(torch.zeros(4, 3), action, none)
        alone.decide(torch.zeros(2, 3), action[:2], none[:2])
        assert torch.equal(both.on[2:], alone.on)
    shares = both.numbers()
    assert (
        len(shares) == 2 and shares[1] == alone.numbers()[0] and 0.1 < shares[1]["intervention/share"] < 0.6
    )
    assert both.numbers() == [{}, {}]


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    """A run of SAC that has learnt next to nothing, and is another policy all the same."""
    path = tmp_path_factory.mktemp("expert") / "run"
    runs.train(path, "sac", steps=400, seed=7)
    return path


def replayed(path):
    """The stored transitions of a run, by column."""
    loaded = CheckpointStore(path / "ckpt").load(config_digest=None)
    layout, rows = None, []
    for _, chunk in loaded.chunks():
        rows.append(chunk["packed"])
        layout = chunk["layout"]
    width = 2 * int(layout[0]) + int(layout[1])
    packed = torch.cat(rows)
    return {"reward": packed[:, width], "terminated": packed[:, width + 1], "done": packed[:, width + 3]}


@pytest.mark.parametrize("rule", ["value", "random"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_with_an_expert_resumes_bit_for_bit(tmp_path, expert, rule, seeds):
    asked = f"rlsuite:Expert,run='{expert}',rule='{rule}',delta=0.1,steps=2,probability=0.2"
    fields = {"intervention": asked, "seeds": seeds}
    runs.train(tmp_path / "whole", "sac", steps=480, **fields)
    runs.train(tmp_path / "broken", "sac", steps=304, **fields | {"eval_every": 0})
    runs.train(tmp_path / "broken", "sac", steps=480, resume=True, **fields)
    whole, broken = runs.weights(tmp_path / "whole"), runs.weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    rows = replayed(tmp_path / "whole")
    assert set(rows["reward"].tolist()) == {0.0, -1.0} and len(rows["reward"]) == 480 * seeds
    assert rows["done"].sum() > 0  # ends of episodes are there
    last = runs.lines(tmp_path / "whole")[-1]
    assert 0 < last["intervention/share"] < 1 and last["intervention/begun"] > 0
    assert last["train/return_mean"] < -1.5  # the task's, which nothing learns from


def test_nobody_else_may_go_on_as_the_expert(tmp_path, expert):
    other = tmp_path / "other"
    runs.train(other, "sac", steps=400, seed=8)
    fields = {"intervention": f"rlsuite:Expert,run='{tmp_path / 'link'}',rule='random'"}
    (tmp_path / "link").symlink_to(expert)
    runs.train(tmp_path / "run", "sac", steps=240, **fields)
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(DataError, match="another expert"):
        runs.train(tmp_path / "run", "sac", steps=400, resume=True, **fields)


def test_ones_own_intervention_is_named_by_its_class(tmp_path):
    """With the task's reward: somebody helps, and nothing is punished."""
    asked = "test_interventions:Lucky,reward='task',steps=2"
    runs.train(tmp_path / "run", "sac", steps=400, intervention=asked)
    last = runs.lines(tmp_path / "run")[-1]
    assert 0.2 < last["intervention/share"] < 0.8
    assert not set(replayed(tmp_path / "run")["reward"].tolist()) <= {0.0, -1.0}
    assert load_run(tmp_path / "run", "last").config.train.intervention == asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nowhere:Nobody", "no module"),
        ("rlsuite:StopWhen,at_least=1", "derive the class"),
        ("test_interventions:Lucky,steps=0", "at least 1"),
        ("test_interventions:Lucky,reward='mine'", "must be"),
        ("test_interventions:Scripted,hand_back='no'", "true or false"),
        ("rlsuite:Expert,run='nowhere',hand_back=1", "true or false"),
        ("test_interventions:Lucky,steps", "KEY=VALUE"),
        ("test_interventions:Lucky,step=2", "unexpected keyword"),
        ("rlsuite:Expert,run='nowhere'", "nowhere"),
    ],
)
def test_interventions_that_cannot_be(text, said):
    with pytest.raises(ConfigError, match=said):
        load_intervention(text)


def test_experts_that_cannot_be(tmp_path, expert):
    with pytest.raises(ConfigError, match='must be "value" or "random"'):
        Expert(str(expert), rule="mine")
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\]"):
        Expert(str(expert), sure=2.0)
    runs.train(tmp_path / "td3", "td3", steps=400)
    asked = f"rlsuite:Expert,run='{tmp_path / 'td3'}',checkpoint='last'"
    with pytest.raises(ConfigError, match="cannot value given actions"):
        runs.train(tmp_path / "run", "sac", steps=400, intervention=asked)


def test_rewards_of_demonstrations_are_zero_where_interventions_are_the_reward(tmp_path, recorded):
    fields = {"prior_data": str(recorded), "reward": "zero", "replay_size": 1_000, "steps": 280}
    runs.train(tmp_path / "run", "sac", intervention="test_interventions:Lucky", **fields)
    rows = replayed(tmp_path / "run")["reward"]
    assert set(rows.tolist()) == {0.0, -1.0}
    assert (rows[: runs.EPISODES * (runs.LENGTH - 1)] == 0).all()
