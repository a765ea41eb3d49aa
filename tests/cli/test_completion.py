"""`rlsuite completion`: the scripts are right by their own shells, and complete what the parser knows."""

import shutil
import subprocess

import pytest

from rlsuite import registry
from rlsuite.cli import completion
from rlsuite.cli import main as cli
from rlsuite.presets import preset_names

ASK = """
source {script}
COMP_LINE={line!r}
COMP_POINT=${{#COMP_LINE}}
_rlsuite 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


# What zsh's completion system calls; it offers what begins like the last word, so that is left to it.
ASK_ZSH = """
compdef() {{ }}
_files() {{ }}
compadd() {{ printf '%s\\n' "${{(@P)2}}" }}
source {script}
words=({words})
CURRENT={current}
_rlsuite
"""
ASK_FISH = "source {script}; complete -C {line!r}"


@pytest.fixture(scope="module")
def table():
    return completion.table()


@pytest.fixture(scope="module")
def script(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "rlsuite.bash"
    path.write_text(completion.SCRIPTS["bash"](table))
    return path


def complete(script, line):
    """What bash offers after `line`."""
    words = ["bash", "--norc", "-c", ASK.format(script=script, line=line)]
    result = subprocess.run(words, capture_output=True, text=True, check=True, cwd=script.parent)
    return set(result.stdout.split())


def test_the_command_prints_what_bash_accepts(rlsuite, table, monkeypatch, tmp_path):
    monkeypatch.setattr(completion, "table", lambda: table)
    answer = rlsuite("completion", "bash")
    assert answer.code == 0
    (tmp_path / "script").write_text(answer.out)
    subprocess.run(["bash", "-n", str(tmp_path / "script")], check=True)
    assert rlsuite("completion", "csh").code == 2


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_accept_theirs(shell, table, tmp_path):
    text = completion.SCRIPTS[shell](table)
    assert all(f"'{command}'" in text for command in cli.commands())
    if shutil.which(shell) is None:
        return  # where the shell is not installed, what it is made of has been looked at
    (tmp_path / "script").write_text(text)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("rlsuite ", {"train", "push", "--version"}, {"sac"}),
        ("rlsuite tr", {"train"}, {"report"}),
        ("rlsuite train ", {"dsac_t", "sac", "iql"}, {"Hopper"}),
        ("rlsuite train ds", {"dsac_t"}, {"sac"}),
        ("rlsuite train sac --env H", {"HalfCheetah", "Hopper"}, {"Ant"}),
        ("rlsuite train sac --env dmc:cart", {"cartpole-swingup"}, {"dmc:cartpole-swingup"}),
        ("rlsuite train sac --env Ant --pre", {"--preset"}, {"--env"}),
        ("rlsuite train dsac_t --preset ", {"default", "paper", "demo"}, {"stac_paper"}),
        ("rlsuite train sac --plugins g", {"grama"}, {"least"}),
        ("rlsuite train sac --engine ", {"native", "warp"}, {"onnx"}),
        ("rlsuite train sac --agent.ga", {"--agent.gamma"}, {"--env"}),
        ("rlsuite train iql --dataset hopper-medium-r", {"hopper-medium-replay-v2"}, {"pen-human-v1"}),
        ("rlsuite data ", {"make", "check"}, {"train"}),
        ("rlsuite data make point", {"pointmaze/umaze"}, {"hopper/medium"}),
        ("rlsuite list ", {"agents", "envs"}, {"sac"}),
        ("rlsuite export x --format ", {"onnx", "torch"}, {"sac"}),
        ("rlsuite eval x --checkpoint ", {"last", "best"}, {"onnx"}),
        ("rlsuite eval rlsuite.b", {"rlsuite.bash"}, {"--episodes"}),
        ("rlsuite nonsense ", set(), {"train"}),
    ],
)
def test_bash_completes(script, line, some, none):
    found = complete(script, line)
    assert some <= found
    assert not none & found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("rlsuite ", {"train", "push", "--version"}, {"sac"}),
        ("rlsuite train ", {"dsac_t", "sac", "iql"}, {"Hopper"}),
        ("rlsuite train sac --env ", {"HalfCheetah", "dmc:cartpole-swingup"}, {"--env"}),
        ("rlsuite train sac --env Ant --agent.", {"--agent.gamma"}, {"Hopper"}),
        ("rlsuite train dsac_t --preset ", {"default", "paper", "demo"}, {"stac_paper"}),
        ("rlsuite data make ", {"pointmaze/umaze", "hopper/medium"}, {"make"}),
        ("rlsuite eval x --checkpoint ", {"last", "best"}, {"onnx"}),
    ],
)
def test_other_shells_complete(shell, line, some, none, table, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(completion.SCRIPTS[shell](table))
    if shell == "fish":
        words = ["fish", "--no-config", "-c", ASK_FISH.format(script=script, line=line)]
    else:
        typed = [repr(word) for word in line.split(" ")]
        asked = ASK_ZSH.format(script=script, words=" ".join(typed), current=len(typed))
        words = ["zsh", "-f", "-c", asked]
    result = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = set(result.stdout.split())
    assert some <= found
    assert not none & found


def test_everything_that_is_listed_is_completed(table):
    assert {*cli.commands()} <= set(table[""])
    assert set(registry.agent_names()) <= set(table["train"])
    for agent in registry.agent_names():
        assert table[f"train {agent}|--preset"] == tuple(preset_names(agent))
        assert "--agent.gamma" in table[f"train {agent}"] or agent in ("bc", "ldcq", "mbrcsl")
