"""RLPD: numeric tests 5 and 7 of the specification, and what it has in common with SAC."""

import dataclasses

import pytest
import torch
from helpers import random_batch, small_agent
from test_sac_ensembles import keys_for

from rlsuite.agents.dsac_t import DSACTConfig, backed_up
from rlsuite.agents.losses import entropy_target
from rlsuite.agents.sac import SACConfig, actor_loss, critic_loss, soft_target
from rlsuite.blocks.heads import Gaussian, squash
from rlsuite.blocks.noise import GivenNoise
from rlsuite.presets import load_preset
from rlsuite.replay.batch import Batch
from rlsuite.runs.config import OfflineConfig, TrainConfig
from rlsuite.strict import from_mapping

pytestmark = pytest.mark.usefixtures("float64")

TARGETS = torch.tensor([[-10.0, -12.0], [-11.0, -9.0], [-8.0, -13.0]], dtype=torch.float64)


def two_rows():
    zero = torch.zeros(2, 1)
    return Batch(zero, zero, -torch.ones(2), zero, torch.tensor([0.0, 1.0]), 0.99)


def actor_of(*log_probs):
    """A Gaussian whose log-densities at its mean 0 are these: the tanh's term is 0 there."""
    std = torch.tensor(log_probs).neg().exp() / (2 * torch.pi) ** 0.5
    return lambda observation: Gaussian(torch.zeros(len(log_probs), 1), std.unsqueeze(-1))


@pytest.mark.parametrize(("backup", "expected"), [(False, [-10.9, -1.0]), (True, [-10.306, -1.0])])
def test_the_target_takes_two_members_and_no_entropy_unless_asked(backup, expected):
    actor, zero = actor_of(-2.0, 0.5), torch.zeros(2, 1)
    assert squash(actor(zero), zero)[1].tolist() == pytest.approx([-2.0, 0.5])
    noise = GivenNoise([zero, keys_for(0, 2)[:3]])
    alpha = torch.tensor(0.3)
    found = soft_target(lambda o, a: TARGETS, actor, two_rows(), alpha, noise, 2, backup)
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_critics_and_actor_by_hand():
    q = torch.tensor([[-9.0, -1.0], [-11.0, -2.0], [-10.0, 0.0]])
    assert critic_loss(q, torch.tensor([-10.9, -1.0]), 1 / 3).item() == pytest.approx(1.07166667, abs=1e-8)
    noise, values = (
        GivenNoise([torch.zeros(2, 1)] * 2),
        torch.tensor([[-9.0, -1.0], [-11.0, -2.0], [-10.0, 0.0]]),
    )
    log_probs = (-2.0, 0.5)
    losses = [
        actor_loss(actor_of(*log_probs), lambda o, a: values, two_rows(), torch.tensor(0.3), noise, value)[0]
        for value in ("mean", "min")
    ]
    assert losses[0].item() == pytest.approx(5.275) and losses[1].item() == pytest.approx(6.275)


@pytest.mark.parametrize(("actions", "entropy"), [(3, -1.5), (6, -3.0), (24, -12.0)])
def test_the_target_entropy_is_half_the_actions(actions, entropy):
    assert entropy_target(None, actions, 0.5) == entropy
    assert entropy_target(-7.0, actions, 0.5) == -7.0


@pytest.mark.parametrize("name", ["sac", "stac"])
def test_the_actor_moves_at_the_last_of_the_updates_of_an_env_step(name):
    _, fields = load_preset(name, "rlpd", "Walker2d")
    agent = small_agent(name, **{**fields, "delay": 4})
    batches = [random_batch(seed=seed) for seed in range(8)]
    assert ["loss/actor" in agent.update(batch) for batch in batches] == [False, False, False, True] * 2


@pytest.mark.parametrize("name", ["dsac_t", "stac", "simba_sac"])
def test_around_other_agents_one_of_the_updates_of_an_env_step_moves_the_actor(name):
    run, fields = load_preset(name, "rlpd", "Walker2d")
    assert run["updates_per_step"] == fields["delay"] == 4


def test_ten_critics_and_half_the_entropy():
    agent = small_agent("sac", **load_preset("sac", "rlpd", "Hopper")[1])
    assert agent.critic.trunk.head.weight.shape[0] == 10
    assert agent.target_entropy == -0.5 * agent.spaces.action


def test_with_one_pair_and_no_recorded_rows_it_is_sac():
    """The preset without its critics, norms and updates; whole runs: tests/training/test_mixed_runs.py."""
    run, fields = load_preset("sac", "rlpd", "Hopper")
    assert (run["offline_share"], run["updates_per_step"], fields["delay"]) == (0.5, 20.0, 20)
    plain = {"critics": 2, "target_subset": 2, "layer_norm": False, "actor_value": "min", "delay": 1}
    plain |= {"critic_scale": 1.0, "entropy_share": 1.0, "target_subset": 0}
    pair = dataclasses.replace(SACConfig(**fields), **plain)
    assert pair == SACConfig()
    ours = small_agent("sac", **{name: getattr(pair, name) for name in fields})
    sac = small_agent("sac")
    for seed in range(3):
        ours.update(random_batch(seed=seed))
        sac.update(random_batch(seed=seed))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), sac.parameters(), strict=True))


def test_a_target_without_entropy_does_not_see_the_temperature():
    for name, fields in (("sac", {"alpha_init": 5.0}), ("dsac_t", {"alpha_init": 5.0})):
        with_bonus, without = (
            [
                small_agent(name, entropy_backup=backup, **more).update(random_batch())["loss/critic"].item()
                for more in ({}, fields)
            ]
            for backup in (True, False)
        )
        assert with_bonus[0] != with_bonus[1] and without[0] == without[1]
    assert backed_up(torch.ones(1), DSACTConfig(entropy_backup=False)).item() == 0


@pytest.mark.parametrize("agent", ["sac", "dsac_t", "stac", "simba_sac"])
def test_presets_have_both_doors(agent):
    online, _ = load_preset(agent, "rlpd", "AntMaze_UMaze")
    data, _ = load_preset(agent, "rlpd", "AntMaze_UMaze", "any")
    run = from_mapping(TrainConfig, online, "preset", env="AntMaze_UMaze")
    after = from_mapping(OfflineConfig, data, "preset", dataset="any")
    assert (run.steps, run.warmup_steps, run.reward) == (after.then_online, after.warmup_steps, after.reward)
    assert (run.updates_per_step, run.offline_share) == (after.updates_per_step, after.offline_share)
    assert after.steps == 0
