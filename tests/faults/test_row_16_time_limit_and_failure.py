"""Row 16: a time limit is not a failure: two toys that differ in that alone have two different values.

One observation, reward 1, episodes of 10 steps. Truncated, the value is 1 / (1 - gamma). Terminated, the
ten positions of an episode share the one observation, so with gamma = 0.9 and K-step sums the value solves
V = mean over the positions of (discounted rewards until the end or K steps + gamma^K V if still alive).
"""

import pytest
import torch
from toys import EPISODE

from rlsuite.registry import agent_class
from rlsuite.runs.config import TrainConfig
from rlsuite.training.assembly import build
from rlsuite.training.online import train_steps

GAMMA = 0.9
QUIET = {"alpha_init": 1e-9, "lr_alpha": 1e-12}  # no entropy in the value
PLAIN = {"stac": {"beta": 0.0, "dropout_actor": 0.0, "dropout_critic": 0.0}}  # nor pessimism


def closed_form(fails: bool, n_step: int) -> float:
    if not fails:
        return 1 / (1 - GAMMA)
    rewards = alive = 0.0
    for position in range(EPISODE):
        left = EPISODE - position
        rewards += sum(GAMMA**k for k in range(min(left, n_step)))
        alive += GAMMA**n_step if left > n_step else 0.0
    return rewards / EPISODE / (1 - alive / EPISODE)


def learnt_value(name: str, fails: bool, n_step: int, worlds: int) -> float:
    torch.set_num_threads(1)
    kind = agent_class(name)
    # The policy stands still: one that learns seeks the actions whose noise makes them look best, 1 to 2 %.
    fields = {"gamma": GAMMA, "hidden": (16, 16), "lr_critic": 5e-4, "lr_actor": 1e-12, "tau": 0.05}
    agent_config = kind.Config(**fields, **({} if name == "td3" else QUIET), **PLAIN.get(name, {}))
    steps = 6_400
    config = TrainConfig(
        env="gym:ToyFailure-v0" if fails else "gym:ToyLimit-v0",
        num_envs=worlds,
        n_step=n_step,
        warmup_steps=3_200,
        updates_per_step=1.0,
        batch_size=256,
        replay_size=steps,
        device="cpu",
        eval_episodes=1,
    )
    run = build(kind, agent_config, config)
    train_steps(run, steps)
    settled = []  # averaged: one estimate moves with every batch
    for _ in range(1_000):
        batch = run.replay.sample()
        run.agent.update(batch)
        settled.append(run.agent.values(batch)["q"].mean())
    return torch.stack(settled).mean().item()


def test_the_closed_forms_differ():
    assert closed_form(False, 1) == pytest.approx(10)
    assert closed_form(True, 1) == pytest.approx(1 / (1 - 0.81))
    assert closed_form(True, 3) == pytest.approx(5.0194, abs=1e-3)


CASES = [(n, w) for n in (1, 3) for w in (1, 64)]


# SAC and TD3, whose targets the others' contain, wait for the long form: each value takes 4,200 updates.
LATER = pytest.mark.faults_long


@pytest.mark.parametrize(
    "name", ["dsac_t", "stac", pytest.param("sac", marks=LATER), pytest.param("td3", marks=LATER)]
)
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("n_step", "worlds"),
    [pytest.param(*case, marks=() if case == (3, 64) else pytest.mark.long) for case in CASES],
)
def test_learnt_values(name, fails, n_step, worlds, count):
    expected = closed_form(fails, n_step)
    assert learnt_value(name, fails, n_step, worlds) == pytest.approx(expected, rel=0.01)
    count("values learnt to within 1 %")
