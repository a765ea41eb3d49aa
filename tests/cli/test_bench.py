"""`rlsuite bench paper`: what it trains, what it leaves alone, what it continues; the loop is a stand-in."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "offline"))
from offline_helpers import shared
from toys import EPISODE

from rlsuite.bench.paper import CONTENDERS, PaperArgs, env_id, plan
from rlsuite.bench.study import FAILED_SUFFIX
from rlsuite.launch.plan import pending, resolve
from rlsuite.presets import load_preset
from rlsuite.report import comparison
from rlsuite.runs.mapping import config_to_dict
from rlsuite.runs.runfolder import RunFolder
from rlsuite.training import start
from rlsuite.training.online import TrainResult

TASK = "gym:Pendulum-v1"


class BlockLoop:
    """Stands in for `train_online`: leaves the metrics and the checkpoint's name of a run of that length."""

    def __init__(self):
        self.calls = []
        self.interrupt_at = None

    def __call__(self, agent_class, agent_config, config, folder, *, stop=None, resume=False, hooks=None):
        self.calls.append((folder.path.name, resume, agent_config, config))
        interrupted = len(self.calls) - 1 == self.interrupt_at
        last = config.steps // 2 if interrupted else config.steps
        lines = [
            {"step": step, "eval/return_mean": float(config.seed), "eval/return_std": 0.0}
            | {"eval/length_mean": EPISODE, "eval/stac_value_error": 0.5}
            for step in range(config.eval_every, last + 1, config.eval_every)
        ]
        folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder.checkpoints / f"step-{last:012d}").mkdir(parents=True, exist_ok=True)
        return TrainResult(interrupted, last, 0, 1.0, 1.0)

    @property
    def names(self):
        return [(name, resume) for name, resume, *_ in self.calls]


@pytest.fixture
def paper(rlsuite, monkeypatch, tmp_path):
    """Run `rlsuite bench paper` with small numbers, and know what the loop was asked."""
    loop = BlockLoop()
    monkeypatch.setattr(start, "train", loop)
    monkeypatch.delenv("RLSUITE_PUBLISHED", raising=False)
    monkeypatch.setattr(comparison, "plot", lambda pairs, env, picture: picture.touch())  # a second each

    def run(*words, steps=20_000):
        loop.calls.clear()
        out = str(tmp_path / "out")
        return rlsuite("bench", "paper", "--task", TASK, "--steps", str(steps), "--out", out, *words)

    run.loop, run.out = loop, tmp_path / "out"
    return run


def test_every_contender_trains_every_seed_in_the_papers_regime(paper):
    answer = paper("--agents", "stac,sac,estac,td3", "--seeds", "2")
    assert answer.code == 0, answer.err
    assert [name for name, _ in paper.loop.names] == [
        f"{agent}-s{seed}" for seed in (0, 1) for agent in ("stac", "sac", "estac", "td3")
    ]
    configs = {name: (agent, train) for name, _, agent, train in paper.loop.calls}
    for _, train in configs.values():
        assert (train.eval_every, train.eval_episodes, train.steps) == (1_000, 1, 20_000)
        assert train.threads == 1
    assert configs["estac-s1"][0].critics == 2
    assert configs["sac-s0"][0].layer_norm_actor and configs["sac-s0"][0].alpha_step == "sgd"
    assert configs["stac-s1"][1].warmup_policy == "tanh_normal" and configs["stac-s1"][1].seed == 1
    assert "P(stac > estac)" in answer.out
    assert {"curves.csv", "summary.csv", "curves.png"} <= {path.name for path in paper.out.iterdir()}


def test_what_is_finished_stays_and_what_is_not_goes_on(paper):
    paper.loop.interrupt_at = 1
    assert paper("--seeds", "1").code == 75
    assert paper.loop.names == [("stac-s0", False), ("sac-s0", False)]
    assert not (paper.out / "curves.png").exists()
    paper.loop.interrupt_at = None
    assert paper("--seeds", "2").code == 0
    assert paper.loop.names == [("sac-s0", True), ("stac-s1", False), ("sac-s1", False)]
    assert paper("--seeds", "2").code == 0
    assert paper.loop.names == []


def test_more_steps_extend_the_runs(paper):
    paper("--agents", "stac", "--seeds", "1")
    assert paper("--agents", "stac", "--seeds", "1", steps=30_000).code == 0
    assert paper.loop.names == [("stac-s0", True)]
    assert paper.loop.calls[0][-1].steps == 30_000


def test_a_run_with_other_settings_is_not_taken_for_ours(paper):
    paper("--agents", "stac", "--seeds", "1")
    answer = paper("--agents", "stac", "--seeds", "1", "--", "--agent.beta", "0.5")
    assert answer.code == 2 and "other settings (agent.beta 0.25, not 0.5)" in answer.err
    assert "--out" in answer.err


def test_an_evaluation_that_a_signal_ended_is_still_to_be_made(tmp_path):
    words = ["--env", "gym:ToyReach-v0", "--steps", "10", "--threads", "1", "--loggers"]
    plan, run = resolve("sac", words), tmp_path / "run"
    with RunFolder.create(run, config_to_dict(plan.config), {}) as folder:
        newest = folder.checkpoints / "step-000000000010"
    newest.mkdir(parents=True)
    for owes, words in ((1, ["resume", str(run), "--steps", "10"]), (0, None)):
        (newest / "counters.json").write_text(json.dumps({"clock": {"owes_evaluation": owes}}))
        assert pending(plan, run) == words


def test_flags_after_the_dashes_reach_every_run(paper):
    assert paper("--seeds", "1", "--", "--batch-size", "32").code == 0
    assert [train.batch_size for *_, train in paper.loop.calls] == [32, 32]


def test_runs_made_elsewhere_find_their_contender(paper, tmp_path):
    paper("--seeds", "1")
    runs = [str(paper.out / "sac-s0"), str(paper.out / "stac-s0")]
    answer = paper("--seeds", "0", "--include", *runs)
    assert answer.code == 0 and paper.loop.names == []
    answer = paper("--seeds", "0", "--agents", "stac", "--include", *runs)
    assert answer.code == 2 and "none of stac" in answer.err
    answer = paper("--seeds", "1", "--include", *runs)
    assert answer.code == 2 and "seed 0 twice" in answer.err


def test_published_curves_by_flag_or_variable(paper, tmp_path, monkeypatch):
    path = tmp_path / "published.csv"
    rows = [f"{TASK},STAC,{seed},{step},{seed},0.0,10" for seed in (1, 2) for step in (10_000, 20_000)]
    head = "env,algorithm,seed,env_step,mean_return,mean_value_error,n_evaluations"
    path.write_text("\n".join([head, *rows]) + "\n")
    words = ("--agents", "stac", "--seeds", "1")
    assert "\npublished " not in paper(*words).out
    assert "\npublished STAC   at 20,000: 1.5" in paper(*words, "--published", str(path)).out
    monkeypatch.setenv("RLSUITE_PUBLISHED", str(path))
    assert "\npublished STAC   at 20,000: 1.5" in paper(*words).out
    answer = paper(*words, "--published", str(tmp_path / "nothing.csv"))
    assert answer.code == 2 and "nothing.csv" in answer.err


PAPER_TASKS = {
    "Ant-v4": 3,
    "BipedalWalker-v3": 1,
    "BipedalWalkerHardcore-v3": 3,
    "HalfCheetah-v4": 3,
    "Hopper-v4": 1,
    "Humanoid-v4": 3,
    "LunarLander-v3": 1,
    "Swimmer-v4": 1,
    "Walker2d-v4": 3,
}
"""The published tasks, and the env steps of their logged runs in millions."""
WIND = {"continuous": True, "enable_wind": True, "wind_power": 20.0, "turbulence_power": 2.0}


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_every_published_task_is_an_environment(task):
    box2d = task.startswith(("Bipedal", "Lunar"))
    assert env_id(task) == (f"gym:{task}" if box2d else task)
    assert env_id(f"gym:{task}") == f"gym:{task}"


@pytest.mark.parametrize(
    ("name", "task", "options"),
    [
        ("stac", "LunarLander-v3", WIND),
        ("sac", "gym:LunarLander-v3", WIND),
        ("td3", "LunarLander-v3", WIND),
        ("stac", "BipedalWalker-v3", {}),
    ],
)
def test_runs_have_the_papers_options_of_the_task(name, task, options):
    train = plan(name, 0, PaperArgs(task=task), ()).config.train
    assert (train.env, train.env_options) == (env_id(task), options)


def test_flags_win_over_the_papers_options():
    line = PaperArgs(task="LunarLander-v3")
    train = plan("stac", 0, line, ("--env-option", "wind_power=3.0")).config.train
    assert train.env_options == WIND | {"wind_power": 3.0}


@pytest.mark.parametrize(("task", "millions"), PAPER_TASKS.items())
@pytest.mark.parametrize(("agent", "preset"), [c[:2] for c in CONTENDERS.values()])
def test_presets_have_the_logged_env_steps(task, millions, agent, preset):
    train, own = load_preset(agent, preset, f"gym:{task}")
    assert train["steps"] == millions * 1_000_000
    if (agent, preset, task) == ("stac", "default", "LunarLander-v3"):
        assert own == {"beta": 0.0, "dropout_actor": 0.01, "dropout_critic": 0.01}


@pytest.mark.parametrize("task", PAPER_TASKS)
def test_the_published_file_has_five_seeds_of_every_task(task):
    path = shared("published_curves/stac_main_comparison.csv")
    for algorithm in ("STAC", "ESTAC", "SAC"):
        for name in (task, f"gym:{task}"):
            assert len(comparison.published_curves(path, name, algorithm).by_seed) == 5


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "paper"),
        (["papr"], 'Did you mean "paper"'),
        (["paper"], "--task"),
        (["paper", "--task", TASK, "--steps", "10"], "10,000"),
        (["paper", "--task", TASK, "--agents", ","], "names none"),
        (["paper", "--task", TASK, "--agents", "sacc"], 'Did you mean "sac"'),
        (["paper", "--task", TASK, "--seed", "3"], "--seeds"),
    ],
)
def test_mistakes_are_one_line(rlsuite, words, hint):
    answer = rlsuite("bench", *words)
    assert answer.code == 2 and hint in answer.err
    assert answer.err.count("\n") == 1 and "----" not in answer.err


@pytest.mark.parametrize("failed", [False, True])
def test_a_run_of_a_study_that_never_became_one_is_begun_again(rlsuite, tmp_path, failed):
    """A start that was killed, or found no room, leaves a folder without a configuration."""
    left = tmp_path / "study" / "sac-gym-Pendulum-v1-s0"
    left.mkdir(parents=True)
    (left / "meta.json").write_text("{}")
    if failed:
        (tmp_path / "study" / "logs").mkdir()
        (tmp_path / "study" / "logs" / f"{left.name}{FAILED_SUFFIX}").write_text("2\n")
    words = ("bench", "study", "--agents", "sac", "--envs", TASK, "--seeds", "1", "--steps", "200")
    answer = rlsuite(*words, "--out", str(tmp_path / "study"), "--status", "--", "--warmup-steps", "100")
    assert answer.code == 0, answer.err
    heads, row, *_ = answer.out.splitlines()
    assert "waiting" in heads and "failed" in heads
    standing = dict(zip(heads.split()[2:], row.split()[2:], strict=False))
    assert standing["failed" if failed else "waiting"] == "1"
    assert pending(resolve("sac", ["--env", TASK, "--steps", "200"]), left)[:2] == ["train", "sac"]
