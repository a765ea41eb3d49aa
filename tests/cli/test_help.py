"""Help that can be read: topics in their order, what is needed first, ranges, examples that work."""

import dataclasses
import re
import shlex

import pytest
from test_shown import parsed

from rlsuite.bench import d4rl, paper, plasticity_critics, study, sweep
from rlsuite.cli import check, completion, data, export, pull, push, report, resume
from rlsuite.cli import eval as evaluation
from rlsuite.command import arguments, helptext
from rlsuite.command.train import OfflineArgs, TrainArgs, examples_of
from rlsuite.registry import agent_names

PAGES = {
    "check": (check.CheckArgs, check.PAGE),
    "eval": (evaluation.EvalArgs, evaluation.PAGE),
    "resume": (resume.ResumeArgs, resume.PAGE),
    "report": (report.ReportArgs, report.PAGE),
    "export": (export.ExportArgs, export.PAGE),
    "push": (push.PushArgs, push.PAGE),
    "pull": (pull.PullArgs, pull.PAGE),
    "completion": (completion.CompletionArgs, helptext.PLAIN),
    "sweep": (sweep.SweepArgs, sweep.PAGE),
    "bench d4rl": (d4rl.D4rlArgs, d4rl.PAGE),
    "bench paper": (paper.PaperArgs, paper.PAGE),
    "bench study": (study.StudyArgs, study.PAGE),
    "bench plasticity-critics": (plasticity_critics.PlasticityCriticsArgs, plasticity_critics.PAGE),
    **{f"data {action}": (cls, data.PAGES[action]) for action, cls in data.ACTIONS.items()},
}


def fields_of(cls):
    return {flag.removeprefix("--").replace("-", "_") for flag in arguments.flags(cls)}


@pytest.mark.parametrize("command", PAGES)
def test_topics_name_flags_that_there_are(command):
    cls, page = PAGES[command]
    named = [field for fields in page.topics.values() for field in fields]
    assert len(named) == len(set(named))
    assert {*named, *page.required} <= fields_of(cls)


def test_topics_of_train_name_flags_that_there_are():
    named = [field for fields in helptext.TOPICS.values() for field in fields]
    assert len(named) == len(set(named))
    assert set(named) <= fields_of(TrainArgs) | fields_of(OfflineArgs)


@pytest.mark.parametrize("command", PAGES)
def test_help_has_what_is_needed_first_and_examples_last(command, rlsuite):
    cls, page = PAGES[command]
    answer = rlsuite(*command.split(), "--help")
    assert (answer.code, answer.err) == (0, "")
    usage, summary, *parts = answer.out.rstrip().split("\n\n")
    assert usage.startswith(f"usage: rlsuite {command} ")
    assert " ".join(str(cls.__doc__).split()).split(". ")[0][:40] in " ".join(summary.split())
    for field in page.required:
        assert f"--{field.replace('_', '-')} " in usage
    heads = [part.partition("\n")[0] for part in parts]
    topics = [head.removesuffix(":") for head in heads if head.removesuffix(":") in page.topics]
    assert topics == list(page.topics)
    if page.examples:
        assert heads[-1] == "examples:"
        assert all(example in parts[-1] for example in page.examples)
    assert max(map(len, answer.out.splitlines())) <= helptext.MAX_WIDTH


@pytest.mark.parametrize("command", PAGES)
def test_rare_flags_are_shown_when_all_are_asked_for(command, rlsuite):
    cls, page = PAGES[command]
    usual, everything = (rlsuite(*command.split(), flag).out for flag in ("--help", "--help-all"))
    named = {field for fields in page.topics.values() for field in fields}
    for flag in dataclasses.fields(cls):
        shown = re.compile(rf"^  --{flag.name.replace('_', '-')}(?= |$)", flags=re.M)
        if f"--{flag.name.replace('_', '-')}" not in arguments.flags(cls):
            continue  # positional, or called otherwise
        assert shown.search(everything)
        assert bool(shown.search(usual)) == (not page.topics or flag.name in named)
    assert ("--help-all shows" in usual) == (usual != everything)


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        (
            "eval",
            ["usage: rlsuite eval RUN ", "--episodes INT", "At least 1, at most 1048576.", "(default 10)"],
        ),
        ("eval", ["(also --video-worlds)", "--json / --no-json", "--seed INT|none"]),
        ("push", ["usage: rlsuite push RUN --repo USER/NAME "]),
        ("report", ["usage: rlsuite report RUN... "]),
        ("completion", ["usage: rlsuite completion {bash,zsh,fish} "]),
        ("data make", ["usage: rlsuite data make NAME ", "--layout {minari,d4rl}", "--shares [FLOAT ...]"]),
        ("sweep", ["usage: rlsuite sweep AGENT --env ENV ", "--launcher-option KEY=VALUE"]),
        ("bench paper", ["usage: rlsuite bench paper --task TASK "]),
    ],
)
def test_help_says_what_a_flag_takes(command, texts, rlsuite):
    shown = " ".join(rlsuite(*command.split(), "--help-all").out.split())  # however wide the console is
    for text in texts:
        assert text in shown


EXAMPLES = [example for _, page in PAGES.values() for example in page.examples]
EXAMPLES += [example for agent in agent_names() for example in examples_of(agent)[:2]]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_lines_that_are_taken(example, monkeypatch):
    monkeypatch.setattr("rlsuite.offline.load.environment_of", lambda name: "gym:Maze")  # no data are here
    program, *words = shlex.split(example, comments=True)
    assert program == "rlsuite"
    assert parsed(words)


@pytest.mark.parametrize("command", sorted(PAGES.keys() - {"data list", "bench d4rl"}))
def test_a_line_without_words_is_one_line_of_an_answer(command, rlsuite):
    answer = rlsuite(*command.split())
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert answer.out == ""


def test_lists_of_data_need_no_word(rlsuite, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    answer = rlsuite("data", "list")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("no data sets in ")
