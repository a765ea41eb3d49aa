"""Probes of critics against numbers that are known, widths of one size, and the study in small."""

import csv
import math

import h5py
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from rlsuite.agents.base import Spaces, make_generators
from rlsuite.bench import plasticity_critics as study
from rlsuite.bench.critic_probes import feature_rank, features, head_of, probe
from rlsuite.cli.main import run as rlsuite
from rlsuite.errors import ConfigError
from rlsuite.launch.plan import resolve
from rlsuite.registry import agent_class

SPACES = Spaces(observation=4, action=1, half_range=(1.0,))
TASK = "InvertedPendulum-v4"


def agent_of(name, **fields):
    cls = agent_class(name)
    return cls(SPACES, cls.Config(hidden=(16, 16), **fields), make_generators(0))


def batch_of(rows=64):
    g = torch.Generator().manual_seed(0)
    following = {
        "observation": torch.randn(rows, 4, generator=g),
        "reward": torch.randn(rows, 1, generator=g),
        "terminated": torch.zeros(rows, 1, dtype=torch.bool),
    }
    td = {"observation": torch.randn(rows, 4, generator=g), "action": torch.rand(rows, 1, generator=g)}
    return TensorDict({**td, "next": following}, [rows])


def test_rank_of_features():
    """Of equal singular values 99 of a hundred; of one direction one; members are averaged."""
    one = torch.outer(torch.arange(1.0, 6.0), torch.ones(4))
    three = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1e-3]))[:, :4]
    three = torch.cat((three, torch.zeros(1, 4)))
    assert feature_rank(one.unsqueeze(0)) == 1
    assert feature_rank(three.unsqueeze(0)) == 3
    assert feature_rank(torch.stack((one, three))) == 2
    assert feature_rank(torch.eye(200).unsqueeze(0)) == 198


@pytest.mark.parametrize(
    ("name", "part"), [("sac", "critic"), ("dsac_t", "critic"), ("fql", "critic"), ("floq", "field")]
)
def test_features_are_what_the_output_layer_reads(name, part):
    agent, twin, batch = agent_of(name), agent_of(name), batch_of()
    seen = features(agent, part, batch)
    copies = agent.config.copies if name == "floq" else 1
    assert seen.shape == (2, 64 * copies, 16)
    if name == "floq":
        assert not torch.equal(seen[0], seen[1])
        assert torch.equal(seen, features(twin, part, batch))
        return
    shown = []  # at recorded actions, though the actor's loss shows the critics its own
    head_of(twin.critic).register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].detach()))
    twin.critic(batch["observation"], batch["action"])
    torch.testing.assert_close(seen, shown[0])


def test_units_that_are_cut_off_are_found_by_both_scores():
    """Half the first layer's units have no weights in and out: they are silent and get no gradient."""
    agent = agent_of("fql", critic_norm="none", activation="relu")
    whole = probe(agent_of("fql", critic_norm="none", activation="relu"), "critic", batch_of())
    with torch.no_grad():
        first, second = agent.critic.trunk[0], agent.critic.trunk[2]
        first.weight[:, :8], first.bias[:, :8] = 0, -1
        second.weight[..., :8] = 0
    found = probe(agent, "critic", batch_of())
    assert found.inactive_by_gradient >= 0.25 > whole.inactive_by_gradient
    assert found.inactive_by_activation >= 0.25 > whole.inactive_by_activation
    assert found.td_error > 0 and found.step_errors == ()


def test_errors_after_each_step_of_a_field_that_is_known():
    """A field that is 4 off at time 0 alone and else leads straight to 7, the target of terminated rows."""
    agent = agent_of("floq", field_steps=4, copies=2)
    agent.adopt_rewards(-1.0, 7.0)
    batch = batch_of()
    batch["next", "terminated"][:] = True
    batch["next", "reward"][:] = 7.0

    class Known(torch.nn.Module):
        reward_range = agent.field.reward_range

        def forward(self, observation, action, z, time):
            velocity = (7 - z) / (1 - time) + 4 * (time == 0)
            return velocity.expand(2, *velocity.shape[1:])

    agent.field = Known()
    torch.testing.assert_close(agent.step_errors(batch), torch.tensor([4.0, 0, 0, 0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("critic", study.CRITICS)
def test_every_critic_is_as_large_as_the_twins(critic):
    args = study.PlasticityCriticsArgs(data="any.hdf5", width=64)
    kind = study.CRITICS[critic]
    plan = resolve(kind.agent, study.words_of(args, TASK, critic, 64, 1.0, 0))
    twins = agent_class("fql")(SPACES, plan_of_twin(args).config.agent, make_generators(0))
    budget = sum(p.numel() for p in twins.critic.parameters())
    size = study.fitting(plan, kind, SPACES, budget)
    assert abs(size.parameters / budget - 1) < 0.05
    assert (size.width == 64) == critic.startswith("twin")


def plan_of_twin(args):
    return resolve("fql", study.words_of(args, TASK, "twin", args.width, 1.0, 0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": ""}, "data is empty"),
        ({"critics": "twin,floq_9"}, "floq_9"),
        ({"ratios": "1,often"}, "often"),
        ({"ratios": "0"}, "above 0"),
        ({"critics": ","}, "at least one"),
        ({"steps": 5, "warmup_steps": 5}, "warmup_steps"),
    ],
)
def test_what_means_nothing_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        study.PlasticityCriticsArgs(**{"data": "d", **fields})


def test_the_study_in_small(tmp_path):
    rng, path, out = np.random.default_rng(0), tmp_path / "data.hdf5", tmp_path / "out"
    with h5py.File(path, "w") as file:
        file["observations"] = rng.normal(size=(60, 4)).astype(np.float32)
        file["actions"] = rng.uniform(-0.9, 0.9, size=(60, 1)).astype(np.float32)
        file["rewards"] = np.ones(60, np.float32)
        file["terminals"] = np.arange(60) % 10 == 9
        file["timeouts"] = np.zeros(60, bool)
    words = ["bench", "plasticity-critics", "--data", str(path), "--env", TASK, "--out", str(out)]
    words += [
        "--critics",
        "twin_sac,floq_4",
        "--ratios",
        "2",
        "--seeds",
        "1",
        "--width",
        "16",
        "--steps",
        "12",
    ]
    words += ["--steps", "12", "--warmup-steps", "2", "--batch-size", "8", "--evaluations", "2"]
    words += ["--eval-episodes", "1", "--probe-rows", "32", "--", "--compile", "off"]
    assert rlsuite(words) == 0
    with (out / "table.csv").open(newline="") as file:
        rows = {row["critic"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"twin_sac", "floq_4"} and (out / "critics.png").stat().st_size > 10_000
    for critic, row in rows.items():
        assert (row["env_steps"], row["updates"]) == ("12", "20")
        for column in ("return_last", "return_mean", "feature_rank", "td_error", "inactive_by_gradient"):
            assert math.isfinite(float(row[column])), column
        assert len(row["step_errors"].split()) == (4 if critic == "floq_4" else 0)
    first = (out / "table.csv").read_text()
    assert rlsuite(words) == 0  # finished runs are measured again alone
    assert (out / "table.csv").read_text() == first
