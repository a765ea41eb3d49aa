"""Push and pull against a local stand-in for the Hub: what comes back is the run, or nothing."""

import hashlib
import json
import shutil
import subprocess

import numpy as np
import pytest
import whole_runs
from huggingface_hub import ModelCard, constants
from stand_in_hub import TOKEN, StandIn, name_of

import rlsuite
from rlsuite.cli import main as cli
from rlsuite.errors import ConfigError, DataError
from rlsuite.hub import bundle as bundles
from rlsuite.hub import transfer
from rlsuite.runs.canonical import canonical

REPO = "user/pendulum"
FIELDS = {"env": "gym:Pendulum-v1", "steps": 60, "warmup_steps": 20, "eval_every": 30, "checkpoint_every": 30}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of SAC with two seeds on Pendulum."""
    path = tmp_path_factory.mktemp("runs") / "original"
    whole_runs.train(path, "sac", None, **FIELDS, seeds=2)
    return path


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, in the place of the Hub."""
    server = StandIn()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in speaks Git LFS
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    yield server
    server.shutdown()
    server.server_close()


def act(path, **which):
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    return rlsuite.load(path, **which).act(rows)


def test_a_pulled_run_acts_like_the_pushed_one(run, hub, tmp_path):
    address = transfer.push(run, REPO, license_name="mit")
    assert address == f"{hub.url}/{REPO}" and hub.private[REPO] is False
    bundle, left = transfer.pull(REPO, tmp_path / "deep" / "pulled")
    pulled = tmp_path / "deep" / "pulled"
    assert left == [] and (bundle.agent, bundle.step, bundle.resumable) == ("sac", 60, False)
    for index in (0, 1):
        np.testing.assert_array_equal(act(pulled, seed_index=index), act(run, seed_index=index))
    assert (pulled / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    assert {path.name for path in pulled.iterdir()} == {
        *("rlsuite.json", "README.md", "curve.png", "config.toml", "meta.json", "metrics.jsonl", "ckpt")
    }
    assert not list((tmp_path / "deep").glob(".pull-*"))
    (saved,) = (pulled / "ckpt").iterdir()
    assert {path.name for path in saved.iterdir()} == {"agent.safetensors", "manifest.json"}


def test_the_commands_of_the_card(run, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["push", str(run), "--repo", REPO, "--private", "--checkpoint", "best"]) == 0
    assert capsys.readouterr().out.strip() == f"{hub.url}/{REPO}" and hub.private[REPO] is True
    card = hub.files(REPO)["README.md"].decode()
    commands = [line for line in card.splitlines() if line.startswith("rlsuite ") and "runs/pendulum" in line]
    assert len(commands) == 3
    for line in commands:
        assert cli.run(line.split()[1:]) == 0
    assert (tmp_path / "runs" / "pendulum" / "sac-gym-Pendulum-v1.onnx").is_file()
    with pytest.raises(ConfigError, match="--resumable"):
        cli.run(["resume", "runs/pendulum", "--steps", "90"])


@pytest.mark.long
def test_variables_say_where_and_who(run, hub, tmp_path):
    """In a process of its own, as a user has it: HF_ENDPOINT and HF_TOKEN."""
    environment = whole_runs.environment() | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    words = whole_runs.command("push", run, "--repo", REPO)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "agent.safetensors" in "".join(hub.files(REPO))


def test_the_card_says_what_it_is(run, hub):
    transfer.push(run, REPO, license_name="mit")
    card = hub.files(REPO)["README.md"].decode()
    data = ModelCard(card).data  # as the Hub reads it
    assert (data.library_name, data.license, data.model_name) == ("rlsuite", "mit", "sac")
    assert {"reinforcement-learning", "sac", "gym:Pendulum-v1"} <= set(data.tags)
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    final = [one["eval/return_mean"] for one in lines if one["step"] == 60 and "eval/return_mean" in one]
    (result,) = data.eval_results
    assert (result.metric_type, result.dataset_type) == ("mean_reward", "gym:Pendulum-v1")
    mean, _, std = result.metric_value.split()
    assert float(mean) == pytest.approx(np.mean(final), abs=0.01)
    assert float(std) == pytest.approx(np.std(final), abs=0.01)
    for words in ("| 0 | 60 |", "| 1 | 60 |", "curve.png", "[train]", '"torchrl"', f"rlsuite pull {REPO}"):
        assert words in card
    assert str(run.parent) not in card
    assert hub.files(REPO)["curve.png"].startswith(b"\x89PNG")


def test_a_whole_checkpoint_is_resumed_bit_for_bit(run, hub, tmp_path):
    transfer.push(run, REPO, resumable=True)
    bundle, _ = transfer.pull(REPO, tmp_path / "pulled")
    assert bundle.resumable
    shutil.copytree(run, tmp_path / "copy")
    for path in (tmp_path / "pulled", tmp_path / "copy"):
        bundles.check_resumable(path)
        whole_runs.train(path, "sac", None, **(FIELDS | {"steps": 90}), seeds=2, resume=True)
    whole_runs.assert_same_run(tmp_path / "pulled", tmp_path / "copy")


def test_branches_and_commits(run, hub, tmp_path):
    transfer.push(run, REPO)
    first = hub.files(REPO)
    transfer.push(run, REPO, revision="early", which="32")
    assert transfer.pull(REPO, tmp_path / "main")[0].step == 60
    assert transfer.pull(REPO, tmp_path / "early", revision="early")[0].step == 32
    names = [name for name in hub.files(REPO, "early") if name.startswith("ckpt/")]
    assert names and all("step-000000000032" in name for name in names)  # the other one is gone
    transfer.push(run, REPO, which="32")
    assert transfer.pull(REPO, tmp_path / "commit", revision=name_of(first))[0].step == 60
    with pytest.raises(ConfigError, match="no such revision"):
        transfer.pull(REPO, tmp_path / "none", revision="nowhere")


def pushed_files(run, hub):
    """What a push left, to be tampered with."""
    transfer.push(run, REPO)
    return dict(hub.files(REPO))


def sealed(body):
    """A list of files with a right digest of itself."""
    body = {key: value for key, value in body.items() if key != "sha256"}
    return json.dumps({**body, "sha256": hashlib.sha256(canonical(body)).hexdigest()}).encode()


def assert_nothing_came(tmp_path, match, kind=DataError):
    out = tmp_path / "runs" / "x"
    with pytest.raises(kind, match=match):
        transfer.pull(REPO, out)
    assert not out.exists() and not list((tmp_path / "runs").glob("*"))
    assert not list((tmp_path / "runs").glob(".*"))


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.json",
        "/etc/cron.d/evil.json",
        "ckpt/step-000000000060/../../../evil.json",
        "ckpt/step-000000000060/agent.pkl",
        "ckpt/step-000000000060/agent.pt",
        "policy.pth",
        "run.py",
        "ckpt\\step-000000000060\\agent.json",
        "ckpt/step-000000000060/replay/../agent.json",
        ".git/config.json",
        "config.toml\n",
        "",
    ],
)
def test_hostile_names_are_refused_before_anything_is_fetched(run, hub, tmp_path, name):
    files = pushed_files(run, hub)
    body = json.loads(files["rlsuite.json"])
    body["files"][name] = {"size": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
    hub.put(REPO, {**files, "rlsuite.json": sealed(body), name: b"evil"})
    hub.asked.clear()
    assert_nothing_came(tmp_path, "which no run has")
    fetched = {
        path.partition("/resolve/")[2].partition("/")[2] for _, path in hub.asked if "/resolve/" in path
    }
    assert fetched == {"rlsuite.json"}


def test_other_files_are_left_and_named(run, hub, tmp_path):
    files = pushed_files(run, hub)
    hub.put(REPO, {**files, "pytorch_model.bin": b"\x80\x04evil", ".gitattributes": b""})
    _, left = transfer.pull(REPO, tmp_path / "x")
    assert left == ["pytorch_model.bin"] and not (tmp_path / "x" / "pytorch_model.bin").exists()


def test_another_byte_is_noticed(run, hub, tmp_path):
    files = pushed_files(run, hub)
    (name,) = (name for name in files if name.endswith("agent.safetensors"))
    changed = bytearray(files[name])
    changed[-1] ^= 1
    hub.put(REPO, {**files, name: bytes(changed)})
    assert_nothing_came(tmp_path, "has digest")


def test_another_size_is_noticed_before_the_download(run, hub, tmp_path):
    files = pushed_files(run, hub)
    hub.put(REPO, {**files, "metrics.jsonl": files["metrics.jsonl"] + b" "})
    assert_nothing_came(tmp_path, "by its list")


def test_a_file_that_is_gone_is_noticed(run, hub, tmp_path):
    files = pushed_files(run, hub)
    del files["config.toml"]
    hub.put(REPO, files)
    assert_nothing_came(tmp_path, "config.toml has no bytes")


def test_a_cut_download_leaves_nothing(run, hub, tmp_path, monkeypatch):
    files = pushed_files(run, hub)
    (hub.cut,) = (name for name in files if name.endswith("agent.safetensors"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 2)
    assert_nothing_came(tmp_path, ".", (ConfigError, DataError))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda body: body.update(format=9), "newer release"),
        (lambda body: body.update(format=True), "newer release"),
        (lambda body: body.update(files=[]), "lacks its files"),
        (lambda body: body.update(step=-1), "lacks its step"),
        (lambda body: body["files"].pop("config.toml"), "it is no run"),
        (lambda body: body["files"]["config.toml"].update(size=10**15), "are allowed"),
        (lambda body: body["files"]["config.toml"].update(sha256="x"), "no size and SHA-256"),
        (lambda body: body["files"].update({"config.toml": 3}), "no size and SHA-256"),
    ],
)
def test_a_wrong_list_is_refused(run, tmp_path, change, match):
    bundle = transfer.pack(run, tmp_path / "b", REPO, which="last", resumable=False)
    body = json.loads((tmp_path / "b" / "rlsuite.json").read_bytes())
    assert bundles.parse(sealed(body), "here") == bundle
    change(body)
    with pytest.raises(DataError, match=match):
        bundles.parse(sealed(body), "here")


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"[]", b"{}", b"[" * 100_000, b'{"format": 1}'])
def test_what_is_no_list_is_refused(data):
    with pytest.raises(DataError):
        bundles.parse(data, "here")


def test_what_is_no_run_is_said(hub, tmp_path):
    hub.put(REPO, {"README.md": b"hello"})
    assert_nothing_came(tmp_path, "not a run that `rlsuite push` made")


def test_what_is_not_there_is_said(hub, tmp_path, run, monkeypatch):
    assert_nothing_came(tmp_path, "is not on http", ConfigError)
    for repo in ("user", "a/b/c", "../x/y", "user/..", "user/a b", ""):
        with pytest.raises(ConfigError, match="USER/NAME"):
            transfer.pull(repo, tmp_path / "x")
    with pytest.raises(ConfigError, match="no revision"):
        transfer.pull(REPO, tmp_path / "x", revision="../main")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        transfer.pull(REPO, tmp_path / "full")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ConfigError, match="token"):
        transfer.push(run, REPO)


def test_no_connection_is_said(run, hub, tmp_path):
    hub.shutdown()
    hub.server_close()
    assert_nothing_came(tmp_path, "no connection", DataError)
