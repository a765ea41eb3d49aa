"""Whole runs whose batches mix recorded and new transitions."""

import pytest
import torch
import whole_runs as runs
from test_offline_training import learn

from rlsuite.errors import ConfigError
from rlsuite.offline.load import load_dataset
from rlsuite.registry import agent_class, agent_names, agent_traits
from rlsuite.runs.config import TrainConfig, check_prior

CONTINUOUS_ONLINE = [name for name in agent_names() if agent_traits(name) == ("online", "continuous")]
ROWS = runs.EPISODES * (runs.LENGTH - 1)


def watched(monkeypatch, agent):
    """Every batch that agents of this name learn from."""
    kind, batches = agent_class(agent), []
    update = kind.update
    monkeypatch.setattr(kind, "update", lambda self, batch: batches.append(batch) or update(self, batch))
    return batches


def is_recorded(batch, recorded):
    """Which rows of a batch are the data's, by their action."""
    known = {tuple(row) for row in load_dataset(str(recorded)).rows["action"].tolist()}
    return [tuple(row) in known for row in batch.action.tolist()]


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_batches_of_an_online_run_are_mixed(tmp_path, recorded, monkeypatch, share):
    batches = watched(monkeypatch, "sac")
    runs.train(tmp_path / "run", "sac", prior_data=str(recorded), offline_share=share, steps=400)
    assert len(batches) == 50
    for batch in batches:
        flags = is_recorded(batch, recorded)
        assert len(flags) == 32 and all(sum(flags[i : i + 8]) == 8 * share for i in range(0, 32, 8))
    last = runs.lines(tmp_path / "run")[-1]
    assert (last["replay/rows"], last["replay/new_share"]) == (400, 1 - share)


def test_without_a_share_the_data_are_the_first_rows_of_the_replay(tmp_path, recorded):
    fields = {"prior_data": str(recorded), "steps": 400, "replay_size": 1_000, "reward": "antmaze"}
    runs.train(tmp_path / "run", "sac", **fields)
    last = runs.lines(tmp_path / "run")[-1]
    assert last["replay/rows"] == ROWS + 400
    assert last["replay/new_share"] == pytest.approx(400 / (ROWS + 400))
    with pytest.raises(ConfigError, match="raise --replay-size"):
        runs.train(tmp_path / "small", "sac", **fields | {"replay_size": ROWS - 4})


@pytest.mark.parametrize("agent", CONTINUOUS_ONLINE)
def test_every_kind_of_online_agent_takes_mixed_batches(tmp_path, recorded, agent):
    runs.train(tmp_path, agent, prior_data=str(recorded), offline_share=0.5, steps=300)
    assert runs.lines(tmp_path)[-1]["replay/new_share"] == 0.5


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_resumed_run_equals_the_unbroken_one(tmp_path, recorded, seeds, share):
    fields = {"prior_data": str(recorded), "offline_share": share, "seeds": seeds, "replay_size": 1_000}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    runs.train(whole, "sac", steps=600, **fields)
    runs.train(broken, "sac", steps=400, **fields)
    runs.train(broken, "sac", steps=600, resume=True, **fields)
    runs.assert_same_run(whole, broken)


def test_each_seed_learns_as_if_it_were_alone(tmp_path, recorded):
    fields = {"prior_data": str(recorded), "offline_share": 0.5, "steps": 400}
    runs.train(tmp_path / "both", "sac", seeds=2, **fields)
    runs.train(tmp_path / "one", "sac", seed=1, **fields)
    both, alone = runs.weights(tmp_path / "both"), runs.weights(tmp_path / "one")
    name = next(name for name in both if name.startswith("actor") and name.endswith("weight"))
    torch.testing.assert_close(both[name][1], alone[name], rtol=1e-4, atol=1e-5)


def test_a_share_of_nothing_is_a_run_without_data(tmp_path, recorded):
    runs.train(tmp_path / "with", "sac", prior_data=str(recorded), offline_share=0.0, steps=400)
    runs.train(tmp_path / "without", "sac", steps=400)
    with_data, without = runs.weights(tmp_path / "with"), runs.weights(tmp_path / "without")
    assert all(torch.equal(with_data[name], without[name]) for name in without)


@pytest.mark.long
def test_a_compiled_run_resumes_bit_for_bit(tmp_path, recorded):
    fields = {"prior_data": str(recorded), "offline_share": 0.5, "compile": "on"}
    runs.train(tmp_path / "whole", "sac", steps=600, **fields)
    runs.train(tmp_path / "broken", "sac", steps=400, **fields)
    runs.train(tmp_path / "broken", "sac", steps=600, resume=True, **fields)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "broken")


# Offline first


def test_batches_are_mixed_after_the_data(tmp_path, recorded, monkeypatch):
    batches = watched(monkeypatch, "iql")
    learn(tmp_path / "run", recorded, then_online=40, offline_share=0.5)
    assert all(all(is_recorded(batch, recorded)) for batch in batches[:60])
    assert [is_recorded(batch, recorded) for batch in batches[60:]] == [[True, False] * 16] * 40
    last = runs.lines(tmp_path / "run")[-1]
    assert (last["replay/rows"], last["replay/new_share"]) == (40, 0.5)


@pytest.mark.parametrize("seeds", [1, 2])
def test_mixed_batches_after_the_data_resume_bit_for_bit(tmp_path, recorded, seeds):
    fields = {"seeds": seeds, "offline_share": 0.5, "warmup_steps": 5}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    learn(whole, recorded, then_online=40, **fields)
    learn(broken, recorded, then_online=30, **fields)
    learn(broken, recorded, then_online=40, resume=True, **fields)
    runs.assert_same_run(whole, broken)


def test_a_run_may_begin_with_the_data_alone(tmp_path, recorded, monkeypatch):
    """No update on the data; random actions first, then mixed batches."""
    batches = watched(monkeypatch, "sac")
    fields = {"steps": 0, "then_online": 40, "offline_share": 0.5, "warmup_steps": 10}
    result = learn(tmp_path / "run", recorded, "sac", **fields)
    assert (result.env_steps, result.updates) == (40, 30) == (40, len(batches))
    assert [line["updates"] for line in runs.lines(tmp_path / "run")] == [0, 10, 20, 30]
    learn(tmp_path / "broken", recorded, "sac", **fields | {"then_online": 30})
    learn(tmp_path / "broken", recorded, "sac", resume=True, **fields)
    runs.assert_same_run(tmp_path / "run", tmp_path / "broken")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offline_share": 0.5}, "name some with --prior-data"),
        ({"reward": "antmaze"}, "name some with --prior-data"),
        ({"prior_data": "any", "n_step": 3}, "use n_step = 1"),
        ({"prior_data": "any", "replay": "her"}, "replay uniform"),
        ({"prior_data": "any", "epochs": 2}, "no use for it"),
    ],
)
def test_what_cannot_be_mixed_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        check_prior(TrainConfig(**{**runs.QUICK, **changes}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offline_share": 0.5}, "--then-online"),
        ({"warmup_steps": 5}, "--then-online"),
        ({"steps": 0}, "go online with --then-online"),
        ({"then_online": 10, "offline_share": 0.01}, "rounds to 0 recorded rows"),
        ({"then_online": 10, "offline_share": 1.5}, r"must be in \[0, 1\]"),
    ],
)
def test_offline_fields_that_do_not_fit(tmp_path, recorded, changes, said):
    with pytest.raises(ConfigError, match=said):
        learn(tmp_path / "run", recorded, **changes)


# Agents whose batches have more offline than online


@pytest.mark.parametrize("share", [None, 0.5])
def test_rebrac_goes_on_online_and_its_penalty_relaxes(tmp_path, recorded, monkeypatch, share):
    batches, factors, kind = [], [], agent_class("rebrac")
    update = kind.update

    def watch(self, batch):
        batches.append(batch)
        factors.append(self.penalty_factor().item())
        return update(self, batch)

    monkeypatch.setattr(kind, "update", watch)
    fields = {"then_online": 40, "offline_share": share}
    learn(tmp_path / "whole", recorded, "rebrac", **fields)
    assert [batch.next_action is None for batch in batches] == [False] * 60 + [True] * 40
    assert factors[:60] == [1.0] * 60
    assert factors[60:] == pytest.approx([max(0.5, 1 - done / 40) for done in range(40)])


def test_rebrac_resumes_bit_for_bit(tmp_path, recorded):
    """Stopped in the online phase: how much is left of it is in the checkpoint."""
    fields = {"then_online": 40, "offline_share": 0.5, "eval_every": 0}
    learn(tmp_path / "whole", recorded, "rebrac", **fields)
    stop = StopsAt(80)
    result = learn(tmp_path / "broken", recorded, "rebrac", stop=stop, **fields)
    assert result.interrupted and result.env_steps == 80
    learn(tmp_path / "broken", recorded, "rebrac", resume=True, **fields)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "broken")


class StopsAt:
    """A stop flag that is set when it was asked for the n-th time, which is after the n-th step."""

    def __init__(self, steps):
        self.left = steps

    @property
    def stop(self):
        self.left -= 1
        return 15 if self.left <= 0 else None


@pytest.mark.parametrize("online", [False, True])
def test_cal_ql_has_returns_in_mixed_batches_where_it_calibrates_online(
    tmp_path, recorded, monkeypatch, online
):
    batches = watched(monkeypatch, "cql")
    fields = {"calibrated": True, "calibrated_online": online, "actions": 2}
    learn(tmp_path / "run", recorded, "cql", fields, then_online=40, offline_share=0.5)
    assert all(bool(batch.returns.isfinite().all()) for batch in batches[:60])
    if not online:
        assert all(batch.returns is None for batch in batches[60:])
        return
    known = [batch.returns.isfinite() for batch in batches[60:]]
    assert all(bool(each[::2].all()) for each in known)  # recorded rows
    assert not known[0][1::2].any() and known[-1][1::2].any()  # new ones, whose first episode has ended
    learn(tmp_path / "broken", recorded, "cql", fields, then_online=30, offline_share=0.5)
    learn(tmp_path / "broken", recorded, "cql", fields, then_online=40, offline_share=0.5, resume=True)
    runs.assert_same_run(tmp_path / "run", tmp_path / "broken")


def test_cal_ql_online_needs_mixed_batches(tmp_path, recorded):
    fields = {"calibrated": True, "calibrated_online": True}
    with pytest.raises(ConfigError, match="add --offline-share"):
        learn(tmp_path / "run", recorded, "cql", fields, then_online=10)
    with pytest.raises(ConfigError, match="set calibrated, too"):
        agent_class("cql").Config(calibrated_online=True)
