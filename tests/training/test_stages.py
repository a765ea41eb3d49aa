"""Learning in stages from recorded rows: whole runs on a toy, resumed, and branched off one another."""

from dataclasses import replace

import pytest
import torch
import whole_runs as runs
from ldcq_helpers import TINY
from training.test_offline_training import QUICK

from rlsuite.agents.base import WindowShape
from rlsuite.agents.ldcq import LDCQ, LDCQConfig
from rlsuite.cli.train import run
from rlsuite.command.train import parse_train
from rlsuite.errors import ConfigError, DataError
from rlsuite.offline.data import Part
from rlsuite.offline.load import load_dataset
from rlsuite.runs.config import OfflineConfig, TrainConfig
from rlsuite.runs.mapping import RunConfig, config_from_dict, config_to_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training.evaluate import evaluate_run
from rlsuite.training.offline import windows
from rlsuite.training.savedrun import agent_digest, load_agent
from rlsuite.training.start import train

FIELDS = TINY | {"skills_updates": 8, "prior_updates": 8, "values_updates": 14}
UPDATES = 30
RUN = {"eval_every": 15, "checkpoint_every": 5, "log_every": 5, "batch_size": 16}


def learn(path, dataset, fields=None, *, resume=False, steps=None, **changes):
    """Train, or go on, in the run folder `path`."""
    own = LDCQConfig(**{**FIELDS, **(fields or {})})
    steps = own.updates if steps is None else steps
    config = OfflineConfig(**{**QUICK, **RUN, "dataset": str(dataset), "steps": steps, **changes})
    if resume:
        folder = RunFolder.open(path)
    else:
        whole = RunConfig(agent_name="ldcq", preset="default", train=config, agent=own)
        folder = RunFolder.create(path, config_to_dict(whole), {})
    with folder:
        return train(LDCQ, own, config, folder, resume=resume)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_resumed_in_every_stage_equals_the_unbroken_one(tmp_path, recorded, seeds):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert learn(whole, recorded, seeds=seeds, eval_every=10).updates == UPDATES
    learn(broken, recorded, seeds=seeds, eval_every=5, steps=5)
    runs_of = [(10, 10), (20, 10), (UPDATES, 10)]
    (broken / "metrics.jsonl").unlink()
    for steps, every in runs_of:
        learn(broken, recorded, seeds=seeds, eval_every=every, steps=steps, resume=True)
    a, b = runs.weights(whole), runs.weights(broken)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name
    assert a["actor.learnt"].tolist() == [8, 8, 14]


def test_every_stage_has_its_own_metrics(tmp_path, recorded, capsys):
    learn(tmp_path / "run", recorded)
    lines = runs.lines(tmp_path / "run")
    by_stage = {
        stage: [line["step"] for line in lines if f"{stage}/loss" in line]
        for stage in ("skills", "prior", "values")
    }
    assert by_stage == {"skills": [5, 10], "prior": [10, 15, 20], "values": [20, 25, 30]}
    assert [line["step"] for line in lines if "eval/return_mean" in line] == [15, 30]
    said = capsys.readouterr()
    windows = runs.EPISODES * (runs.LENGTH - 1)
    begun = "stage values: making what it learns from"
    for words in (begun, f"stage skills: 8 updates on {windows}", "stage prior: 8", "stored candidates"):
        assert words in said.out + said.err
    found = evaluate_run(tmp_path / "run", episodes=3, seed=None, video=None, which="last")
    assert len(found["returns"]) == 3 and found["step"] == UPDATES


def test_stages_go_on_from_another_runs_artifact(tmp_path, recorded):
    first, second = tmp_path / "first", tmp_path / "second"
    learn(first, recorded, {"stages": ("skills", "prior")})
    digest = agent_digest(load_agent(first).loaded)
    rest = {"stages": ("values",)}
    result = learn(second, recorded, rest, earlier_run=str(first), earlier_digest=digest)
    assert result.updates == 14
    a, b = runs.weights(first), runs.weights(second)
    frozen = [name for name in a if name.startswith(("skills.", "denoiser.", "actor.latent_"))]
    assert len(frozen) > 20 and all(torch.equal(a[name], b[name]) for name in frozen)
    assert b["actor.learnt"].tolist() == [8, 8, 14]
    # The ablation: other values on the same skills, with the skill model's own prior.
    third = tmp_path / "third"
    gaussian = {"stages": ("values",), "prior": "gaussian"}
    learn(third, recorded, gaussian, earlier_run=str(first), earlier_digest=digest)
    assert runs.weights(third)["actor.learnt"].tolist() == [8, 0, 14]
    with pytest.raises(DataError, match="no longer has the agent"):
        learn(tmp_path / "fourth", recorded, rest, earlier_run=str(first), earlier_digest="0" * 64)
    with pytest.raises(ConfigError, match="builds on skills, prior"):
        learn(tmp_path / "fifth", recorded, rest)


def test_windows_of_data_end_where_the_goal_part_changes(recorded):
    data = load_dataset(str(recorded))
    assert len(windows(data, WindowShape(5), batch_size=4)) == len(data.rows)
    data.rows["observation"][3:, :] = 1.0  # the only column is the goal: it changes once in the first episode
    goals = replace(data, parts=(Part("desired_goal", 1),))
    found = windows(goals, WindowShape(5), batch_size=4)
    assert found.lengths[:4].tolist() == [1, 1, 1, 5]
    with pytest.raises(DataError, match="shorter horizon"):
        windows(data, WindowShape(1_000, short=False), batch_size=4)


def test_ldgc_acts_without_values(tmp_path, recorded):
    result = learn(tmp_path / "run", recorded, {"goal": True})
    assert result.updates == 16
    assert runs.weights(tmp_path / "run")["actor.learnt"].tolist() == [8, 8, 0]


def test_the_line_names_stages_and_counts_their_updates(recorded):
    words = ["--dataset", str(recorded), "--env", "gym:ToyReach-v0", "--import", "toys"]
    line, _ = parse_train("ldcq", [*words, "--stages", "skills,prior", "--agent.skills-updates", "7"])
    assert line.agent.stages == ("skills", "prior")
    assert line.train.steps == 7 + line.agent.prior_updates
    whole, _ = parse_train("ldcq", words)
    assert whole.train.steps == whole.agent.updates
    for extra, message in (
        (["--steps", "5"], "--agent.skills-updates"),
        (["--stages", "skills,valuse"], "skills,prior,values"),
        (["--stages", "prior,skills"], "in this order"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_train("ldcq", [*words, *extra])
    with pytest.raises(ConfigError, match="does not learn in stages"):
        parse_train("iql", [*words, "--stages", "skills"])


def test_what_only_recorded_data_can_teach_is_refused_elsewhere(tmp_path, recorded):
    with pytest.raises(ConfigError, match="then-online"):
        learn(tmp_path / "run", recorded, then_online=10)
    with (
        RunFolder.create(tmp_path / "online", {}, {}) as folder,
        pytest.raises(ConfigError, match="--dataset"),
    ):
        train(LDCQ, LDCQConfig(**FIELDS), TrainConfig(env="gym:ToyReach-v0"), folder)


def test_the_command_line_branches_off_a_run(tmp_path, recorded):
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--dataset", str(recorded), "--env", "gym:ToyReach-v0", "--import", "toys", "--preset", "small"]
    flags += ["--threads", "1", "--eval-every", "0", "--agent.hidden", "8", "--agent.horizon", "10"]
    flags += [word for stage in LDCQ.stages for word in (f"--agent.{stage}-updates", "4")]
    assert run(["ldcq", *flags, "--stages", "skills,prior", "--out", str(first)]) == 0
    assert run(["ldcq", *flags, "--stages", "values", "--from", str(first), "--out", str(second)]) == 0
    config = config_from_dict(RunFolder.open(second).config(), lambda name: LDCQConfig)
    assert config.train.earlier_digest == agent_digest(load_agent(first).loaded)
    assert len(list((second / "ckpt").glob("step-*4"))) == 1
