"""Every mistake is one line on stderr, with the nearest match where there is one, and exit code 2."""

import subprocess
import sys

import pytest

from rlsuite.errors import DataError, EnvironmentFailure, NumericalError

TRAIN = ["train", "dsac_t", "--env", "HalfCheetah"]

# words, and what the one line must contain
MISTAKES = [
    ([], ["no command", "train"]),
    (["trian"], ['"trian" is not a command', 'Did you mean "train"?']),
    (["--hlep"], ['Did you mean "--help"?']),
    (["train"], ["name the agent first"]),
    (["train", "--env", "HalfCheetah", "dsac_t"], ["name the agent first"]),
    (["train", "dsac_tt", "--env", "HalfCheetah"], ['"dsac_tt" is not an agent', 'Did you mean "dsac_t"?']),
    (["train", "dsac_t"], ["no environment", "--env HalfCheetah"]),
    (["train", "dsac_t", "--env"], ["no environment"]),
    (["train", "dsac_t", "--env", "HalfCheeta"], ['"HalfCheeta" is not an env', 'mean "HalfCheetah"?']),
    (["train", "dsac_t", "--env=halfcheetah-v5"], ['mean "HalfCheetah"?', "rlsuite list envs"]),
    ([*TRAIN, "--preset", "papr"], ['"papr" is not a preset of dsac_t', 'Did you mean "paper"?']),
    ([*TRAIN, "--stesp", "4"], ['"--stesp"', 'Did you mean "--steps"?', "rlsuite train dsac_t --help"]),
    ([*TRAIN, "--stesp=4"], ['"--stesp"', 'Did you mean "--steps"?']),
    ([*TRAIN, "--num_evns", "4"], ['Did you mean "--num-envs"?']),
    ([*TRAIN, "--gaurd"], ['Did you mean "--guard"?']),
    ([*TRAIN, "--agent.lr-actr", "1e-3"], ['Did you mean "--agent.lr-actor"?']),
    ([*TRAIN, "--gamma", "0.9"], ['"--gamma" is not an option', 'Did you mean "--agent.gamma"?']),
    ([*TRAIN, "stray"], ['"stray" is not an option']),
    ([*TRAIN, "--engine", "nativ"], ["'nativ'", "--engine", 'Did you mean "native"?']),
    ([*TRAIN, "--loggers", "wandbb"], ["--loggers"]),
    ([*TRAIN, "--prior-data", "nope"], ['"nope" is not a data set']),
    ([*TRAIN, "--prior-data", "./nope.npz"], ["there is no such file"]),
    ([*TRAIN, "--steps", "many"], ["--steps", "many"]),
    ([*TRAIN, "--steps", "1.5"], ["--steps", "1.5"]),
    ([*TRAIN, "--steps", "-3"], ["steps = -3", "at least 1"]),
    ([*TRAIN, "--step-timeout", "-1"], ["step_timeout = -1", "not be negative"]),
    ([*TRAIN, "--steps"], ["--steps", "Missing value"]),
    ([*TRAIN, "--agent.gamma", "2"], ["gamma = 2.0", "[0, 1]"]),
    ([*TRAIN, "--agent.critic-loss", "relase"], ["--agent.critic-loss", 'Did you mean "release"?']),
    ([*TRAIN, "--import", "no_such_module"], ['no module "no_such_module"', "without .py"]),
    (["resume"], ["rlsuite resume", "Run folder"]),
    (["resume", "no/such/run"], ['"no/such/run" is not a run folder', "config.toml"]),
    (["eval", "no/such/run"], ['"no/such/run" is not a run folder']),
    (["eval", "no/such/run", "--epsiodes", "3"], ['Did you mean "--episodes"?']),
    (["eval", "no/such/run", "--episodes", "0"], ["episodes = 0", "at least 1"]),
    (["eval", "no/such/run", "--checkpoint", "bets"], ['"bets"', "best, last"]),
    (["list"], ["agents, plugins, envs, datasets, presets"]),
    (["data"], ["rlsuite data takes one of list, make, check, convert"]),
    (["data", "mak"], ['Did you mean "make"?']),
    (["data", "make"], ["rlsuite data make", "What to make"]),
    (["data", "make", "pointmaze/umaz"], ['Did you mean "pointmaze/umaze"?', "rlsuite list datasets"]),
    (["data", "make", "../x"], ["'../x' cannot name a data set"]),
    (["data", "make", "/tmp/x"], ["'/tmp/x' cannot name a data set"]),
    (["data", "make", "hopper/random", "--steps", "0"], ["steps = 0", "at least 1"]),
    (["data", "make", "hopper/random", "--layout", "zarr"], ["--layout", "minari"]),
    (["data", "make", "hopper/random", "--policy", "x"], ["hopper/random takes no --policy"]),
    (["data", "make", "hopper/random", "--noise", "0.1"], ["hopper/random takes no --noise"]),
    (["data", "make", "hopper/expert"], ["hopper/expert needs --policy"]),
    (["data", "make", "hopper/medium-replay"], ["needs --policy: a run folder"]),
    (["data", "make", "hopper/medium-expert"], ["--parts A B"]),
    (["data", "make", "hopper/random", "--parts", "a", "b"], ["--parts A B belongs to mixtures"]),
    (["data", "make", "hopper/medium-replay", "--policy", "no/run"], ['"no/run" is not a run folder']),
    (["data", "check", "hopper-medum-v2"], ['Did you mean "hopper-medium-v2"?']),
    (["data", "check", "./none.hdf5"], ["there is no such file"]),
    (["data", "check", "D4RL/../../up-v0"], ["cannot name a data set"]),
    (["data", "convert", "hopper-medum-v2", "x.hdf5"], ['Did you mean "hopper-medium-v2"?']),
    (["data", "convert", "x", "out", "--layout", "minari"], ["--name NAMESPACE/NAME-v0"]),
    (["data", "convert", "x", "out", "--layout", "minari", "--name", "../x"], ["cannot name a data set"]),
    (["list", "dataset"], ['Did you mean "datasets"?']),
    (["list", "agent"], ['Did you mean "agents"?']),
]


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=lambda part: " ".join(part)[:60])
def test_mistake_is_one_line_with_exit_code_2(rlsuite, words, expected):
    answer = rlsuite(*words)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("rlsuite: ")
    for part in expected:
        assert part in answer.err


def test_nearest_run_is_named(rlsuite, tmp_path):
    (tmp_path / "sac-1").mkdir()
    (tmp_path / "sac-1" / "config.toml").touch()
    answer = rlsuite("resume", str(tmp_path / "sac-2"))
    assert answer.code == 2
    assert f'Did you mean "{tmp_path / "sac-1"}"?' in answer.err


@pytest.mark.parametrize("error", [DataError, NumericalError, EnvironmentFailure])
def test_errors_of_a_run_keep_their_own_exit_code(rlsuite, loop, tmp_path, error):
    loop.result = error("two\nlines")
    answer = rlsuite(*TRAIN, "--out", str(tmp_path / "run"))
    assert answer.code == error.exit_code
    assert answer.err == "rlsuite: two lines\n"


def test_our_own_mistakes_keep_their_traceback(rlsuite, loop, tmp_path, monkeypatch):
    loop.result = None
    monkeypatch.setattr("rlsuite.training.start.say_outcome", lambda *_: 1 / 0)
    monkeypatch.setattr("sys.argv", ["rlsuite", *TRAIN, "--out", str(tmp_path / "run")])
    from rlsuite.cli.main import main

    with pytest.raises(ZeroDivisionError):
        main()


def test_interrupt_before_the_loop_is_quiet(rlsuite, monkeypatch):
    def interrupt(_argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlsuite.cli.train.run", interrupt)
    answer = rlsuite(*TRAIN)
    assert (answer.code, answer.out, answer.err) == (130, "", "")


@pytest.mark.parametrize("words", [("list", "envs"), ("--help",)])
def test_a_reader_that_leaves_is_no_mistake(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "rlsuite", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), said) == (0, b"")
