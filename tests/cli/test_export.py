"""`rlsuite export` and `rlsuite.load`: what the file does is what the run's policy does."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from tensordict.nn import TensorDictModule
from whole_runs import train

import rlsuite as package
from rlsuite.envs.make import make_env
from rlsuite.errors import ConfigError
from rlsuite.training import export as exporting
from rlsuite.training.evaluate import evaluate, evaluate_run
from rlsuite.training.rng import SeedStreams

PENDULUM = "gym:Pendulum-v1"  # actions in [-2, 2]
SMALL = {"env": PENDULUM, "steps": 60, "warmup_steps": 20, "eval_every": 60, "checkpoint_every": 60}
AGENTS = {
    "dsac_t": {},
    "sac": {"normalize_observations": True},
    "stac": {},
    "td3": {},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One short run of each online agent on Pendulum, two seeds of SAC among them."""
    root = tmp_path_factory.mktemp("runs")
    for agent, fields in AGENTS.items():
        train(root / agent, agent, fields, **SMALL)
    train(root / "two", "sac", None, **SMALL, seeds=2)
    return root


def observations(count=5, width=3):
    return np.random.default_rng(3).normal(size=(count, width)).astype(np.float32)


def run_onnx(path, rows):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {"observation": rows})[0]


@pytest.mark.parametrize("agent", AGENTS)
def test_onnx_runtime_acts_like_the_run(rlsuite, runs, tmp_path, agent):
    path = tmp_path / "policy.onnx"
    answer = rlsuite("export", str(runs / agent), "--out", str(path))
    assert answer.code == 0, answer.err
    loaded, rows = package.load(runs / agent), observations()
    actions = run_onnx(path, rows)
    np.testing.assert_allclose(actions, loaded.act(rows), atol=2e-5)
    assert np.abs(actions).max() <= 2 and actions.std() > 0  # Pendulum's own units
    np.testing.assert_allclose(run_onnx(path, rows[:1]), actions[:1], atol=1e-6)  # any number of rows
    facts = json.loads(path.with_suffix(".json").read_text())
    assert (facts["agent"], facts["env"], facts["env_steps"]) == (agent, PENDULUM, 60)
    assert (facts["action_low"], facts["action_high"]) == ([-2.0], [2.0])
    assert json.loads(onnx.load(path).metadata_props[0].value)["seed"] == 0
    (taken,), (given,) = facts["inputs"], facts["outputs"]
    assert (taken["name"], taken["dtype"], taken["shape"]) == ("observation", "float32", [None, 3])
    assert taken["parts"] == [{"name": "observation", "start": 0, "stop": 3}]
    scale = taken["scaled_inside"]
    if agent == "sac":  # the graph normalises by what is written beside it
        normalizer = loaded.policy.module.normalizer
        shown = torch.from_numpy(rows)
        by_hand = ((shown - torch.tensor(scale["mean"])) / torch.tensor(scale["std"])).clamp(-10, 10)
        torch.testing.assert_close(by_hand, normalizer(shown))
        assert scale["limit"] == 10
    else:
        assert scale is None
    assert given == {
        "name": "action",
        "dtype": "float32",
        "shape": [None, 1],
        "names": [],
        "low": [-2.0],
        "high": [2.0],
        "scaled_inside": {"middle": [0.0], "half_range": [2.0]},
    }


@pytest.mark.parametrize("agent", AGENTS)
def test_onnx_runtime_earns_the_evaluation_return(rlsuite, runs, tmp_path, agent):
    """Whole evaluation episodes of `rlsuite eval`, played by ONNX Runtime: every action, every return."""
    path = tmp_path / "policy.onnx"
    assert rlsuite("export", str(runs / agent), "--out", str(path)).code == 0
    session, loaded = onnxruntime.InferenceSession(path), package.load(runs / agent)
    expected = evaluate_run(runs / agent, episodes=3, seed=None, video=None, which="last")
    differences = []

    def act(observation):
        action = session.run(None, {"observation": observation.numpy()})[0]
        differences.append(np.abs(action - loaded.act(observation.numpy())).max())
        return (torch.from_numpy(action) - loaded.middle) / loaded.half_range

    env = make_env(PENDULUM, 3)
    policy = TensorDictModule(act, in_keys=["observation"], out_keys=["action"])
    found = evaluate(policy, env, seeds=SeedStreams([0]).seeds("eval")[0])
    env.close()
    assert len(differences) == 200 and max(differences) / loaded.half_range.max() <= 1e-5
    np.testing.assert_allclose(found["returns"], expected["returns"], rtol=1e-4)
    assert found["lengths"] == expected["lengths"] and np.std(found["returns"]) > 1


def test_predict_is_act(runs):
    loaded = package.load(runs / "sac")
    action, state = loaded.predict(observations())
    np.testing.assert_array_equal(action, loaded.act(observations()))
    assert state is None


def test_torch_reads_its_archive_without_us(rlsuite, runs, tmp_path):
    path = tmp_path / "policy.pt2"
    answer = rlsuite("export", str(runs / "td3"), "--format", "torch", "--out", str(path))
    assert answer.code == 0, answer.err
    np.save(tmp_path / "rows.npy", observations())
    script = (
        "import sys, numpy, torch\n"
        f"module = torch.export.load({str(path)!r}).module()\n"
        f"rows = torch.from_numpy(numpy.load({str(tmp_path / 'rows.npy')!r}))\n"
        f"numpy.save({str(tmp_path / 'actions.npy')!r}, module(rows).detach().numpy())\n"
        "assert not any(name.split('.')[0] == 'rlsuite' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    expected = package.load(runs / "td3").act(observations())
    np.testing.assert_allclose(np.load(tmp_path / "actions.npy"), expected, atol=2e-5)


def test_every_seed_has_its_own_policy(rlsuite, runs, tmp_path):
    found = []
    for index in (0, 1):
        path = tmp_path / f"{index}.onnx"
        words = ("--seed-index", str(index), "--out", str(path))
        assert rlsuite("export", str(runs / "two"), *words).code == 0
        found.append(run_onnx(path, observations()))
        expected = package.load(runs / "two", seed_index=index).act(observations())
        np.testing.assert_allclose(found[-1], expected, atol=2e-5)
        assert json.loads(path.with_suffix(".json").read_text())["seed"] == index
    assert np.abs(found[0] - found[1]).max() > 1e-3
    answer = rlsuite("export", str(runs / "two"), "--seed-index", "2")
    assert answer.code == 2 and "2 agent(s)" in answer.err


def test_a_file_is_never_overwritten_and_a_wrong_one_never_kept(rlsuite, runs, tmp_path, monkeypatch):
    path = tmp_path / "policy.onnx"
    path.write_text("mine")
    answer = rlsuite("export", str(runs / "sac"), "--out", str(path))
    assert answer.code == 2 and "exists" in answer.err and path.read_text() == "mine"
    assert rlsuite("export", str(runs / "sac"), "--out", str(tmp_path / "x.pt2")).code == 2
    assert rlsuite("export", str(runs / "sac"), "--out", str(tmp_path / "no" / "x.onnx")).code == 2

    def crooked(graph, observation, stage, facts):
        stage.write_text("wrong")
        return lambda rows: torch.zeros(len(rows), 1)

    monkeypatch.setitem(exporting.WRITERS, "onnx", crooked)
    answer = rlsuite("export", str(runs / "sac"), "--out", str(tmp_path / "new.onnx"))
    assert answer.code == 4 and "differ" in answer.err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["policy.onnx"]


def test_the_default_name_lies_in_the_run(rlsuite, runs):
    assert rlsuite("export", str(runs / "dsac_t")).code == 0
    assert (runs / "dsac_t" / "dsac_t-gym-Pendulum-v1.onnx").is_file()


def test_shapes_of_observations(runs):
    loaded = package.load(runs / "dsac_t")
    one, many = loaded.act(np.zeros(3)), loaded.act(np.zeros((4, 3)))
    assert one.shape == (1,) and many.shape == (4, 1) and (many == one).all() and one.dtype == np.float32
    drawn = [loaded.act(np.zeros(3), deterministic=False) for _ in range(2)]
    assert drawn[0] != drawn[1]
    for wrong in (np.zeros(2), np.zeros((1, 1, 3)), np.zeros(())):
        with pytest.raises(ConfigError, match="Pendulum-v1 shows 3 numbers"):
            loaded.act(wrong)


def test_the_weights_are_the_checkpoints(runs):
    (folder,) = (runs / "td3" / "ckpt").iterdir()
    saved = load_file(folder / "agent.safetensors")
    inner = package.load(runs / "td3").policy.module
    for name, weight in inner.actor.state_dict().items():
        torch.testing.assert_close(saved[f"actor.{name}"], weight, rtol=0, atol=0)


def test_the_package_stays_light():
    script = "import sys, rlsuite; assert 'torch' not in sys.modules; assert rlsuite.load"
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        package.nothing_like_it  # noqa: B018
