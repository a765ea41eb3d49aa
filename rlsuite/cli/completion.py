"""Print a script that completes rlsuite's words in bash, zsh or fish."""

import dataclasses
import importlib
import shlex
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from tyro import conf

from rlsuite import registry
from rlsuite.command.arguments import flags, import_modules, parse
from rlsuite.command.train import parse_train
from rlsuite.presets import preset_names

PROG = "rlsuite completion"
ANY_ENV = "gym:Pendulum-v1"  # builds the line of an agent whose fields are looked up; no environment is made
ANY_DATASET = "any.hdf5"  # nor is it read
FILES = "<files>"  # stands for the shell's own completion of paths

Table = dict[str, tuple[str, ...]]
"""What may follow: by `COMMAND`, `COMMAND WORD`, or either with `|--flag` for the values of a flag."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionArgs:
    """Prints a script with today's commands, flags, agents, environments, presets, plug-ins, data sets."""

    shell: conf.Positional[Literal["bash", "zsh", "fish"]]
    """Whose script: bash and zsh `source` it, fish keeps it in ~/.config/fish/completions/rlsuite.fish."""
    imports: typing.Annotated[
        conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")
    ] = ()
    """Module to import first, whose names are to be completed, too."""


def run(argv: Sequence[str]) -> int:
    """Print the script that the words after `rlsuite completion` ask for; return 0."""
    args = parse(CompletionArgs, argv, prog=PROG, description=str(CompletionArgs.__doc__))
    import_modules(args.imports)
    print(SCRIPTS[args.shell](table()))
    return 0


def table() -> Table:
    """Return what may follow what, read from the same dataclasses that parse the commands."""
    from rlsuite.cli.main import commands

    agents = tuple(registry.agent_names())
    following: Table = {"": (*commands(), "--help", "--version")}
    for command in commands():
        module = importlib.import_module(f"rlsuite.cli.{command}")
        for prefix, cls in _lines(command, module):
            for key, more in _of_line(prefix, cls).items():
                following[key] = tuple(dict.fromkeys((*following.get(key, ()), *more)))
    following["train"] = following["sweep"] = (*agents, "--help")
    for agent in agents:
        following[f"train {agent}|--preset"] = tuple(preset_names(agent))
    following["list"] = tuple(importlib.import_module("rlsuite.cli.list").KINDS)
    following["bench"] = tuple(importlib.import_module("rlsuite.cli.bench").BENCHES)
    following["data"] = tuple(importlib.import_module("rlsuite.cli.data").ACTIONS)
    following["data make"] += tuple(
        name for name, text in registry.dataset_names() if text.startswith("made")
    )
    return following


def _lines(command: str, module: Any) -> Iterator[tuple[str, type]]:
    """Yield the words of every form of a command, and the dataclass that parses what follows."""
    if command == "train":
        for agent in registry.agent_names():
            online, offline = ["--env", ANY_ENV], ["--env", ANY_ENV, "--dataset", ANY_DATASET]
            forms = [offline] if registry.agent_class(agent).needs_data else [online, offline]
            for args in forms:
                parsed, _ = parse_train(agent, args)
                yield f"train {agent}", type(parsed)
    elif command == "data":
        yield from ((f"data {action}", cls) for action, cls in module.ACTIONS.items())
    elif command == "bench":
        for name in module.BENCHES:
            yield f"bench {name}", module.benchmark_of(name)[1]
    elif command == "sweep":
        sweep = importlib.import_module("rlsuite.bench.sweep").SweepArgs
        yield from ((f"sweep {agent}", sweep) for agent in registry.agent_names())
    elif command == "choose":
        yield "choose", importlib.import_module("rlsuite.bench.choose").ChooseArgs
    else:
        classes = [item for item in vars(module).values() if dataclasses.is_dataclass(item)]
        classes = [item for item in classes if typing.cast(type, item).__module__ == module.__name__]
        yield from ((command, typing.cast(type, item)) for item in classes)


def _of_line(prefix: str, cls: type) -> Table:
    """Return the flags of a dataclass, its positional choices, and the values of the flags that have some."""
    following: Table = {}
    values = dict(_choices(cls))
    positional = values.pop("", ())
    following[prefix] = (*positional, *flags(cls), "--help", *(() if positional else (FILES,)))
    for flag in flags(cls):
        if flag in NAMED:
            following[f"{prefix}|{flag}"] = NAMED[flag]()
        elif flag in values:
            following[f"{prefix}|{flag}"] = values[flag]
    return following


NAMED: Mapping[str, Callable[[], tuple[str, ...]]] = {
    "--env": lambda: tuple(name for name, _ in registry.env_names() if not name.endswith(("ID", "TASK"))),
    "--plugins": lambda: tuple(registry.plugin_names()),
    "--dataset": lambda: (*(name for name, _ in registry.dataset_names()), FILES),
    "--expert": lambda: (*(name for name, _ in registry.dataset_names()), FILES),
    "--prior-data": lambda: (*(name for name, _ in registry.dataset_names()), FILES),
    "--checkpoint": lambda: ("last", "best"),
}
"""Flags whose values are names of the registry, whatever the command."""


def _choices(cls: type, prefix: str = "") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield flag and allowed words of every field that allows only some; "" for a positional one."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint, marks = hints[field.name], ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *marks = typing.get_args(hint)  # type: ignore[assignment]
        if dataclasses.is_dataclass(hint):
            inner = "" if conf.OmitArgPrefixes in marks else f"{prefix}{field.name}."
            yield from _choices(typing.cast(type, hint), inner)
        elif typing.get_origin(hint) is Literal:
            choices = tuple(map(str, typing.get_args(hint)))
            flag = "" if conf.Positional in marks else f"--{prefix}{field.name}".replace("_", "-")
            yield flag, choices


def _cases(following: Table, case: str, end: str) -> str:
    """Return one branch for every key, in a shell's form; equal lists share a branch."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for key, choices in following.items():
        shared.setdefault(choices, []).append(key)
    lines = []
    for choices, keys in shared.items():
        shown = " ".join(shlex.quote(word) for word in choices) or "''"
        lines.append(case.format(" ".join(map(_quoted, keys)), "|".join(map(_quoted, keys)), shown) + end)
    return "\n".join(lines)


def _quoted(key: str) -> str:
    return f"'{key}'"


SHARED = """\
__rlsuite_words() {{
    case "$1" in
{cases}
        *) return 1 ;;
    esac
}}

# What may follow the words $2... when the last whole word is $1, one a line.
__rlsuite_next() {{
    local last="$1" command="$2" second="$3"
    case "$last" in
        --*) __rlsuite_words "$command $second|$last" || __rlsuite_words "$command|$last" && return ;;
    esac
    __rlsuite_words "$command $second" || __rlsuite_words "$command"
}}
"""

BASH = """\
# Completion of rlsuite in bash: source <(rlsuite completion bash)
{shared}
_rlsuite() {{
    local line="${{COMP_LINE:0:COMP_POINT}}" current="" candidates
    local -a typed
    read -ra typed <<< "$line"
    if [[ "$line" != *" " ]]; then  # the word under the cursor; bash splits it at colons, we do not
        current="${{typed[-1]}}"
        unset 'typed[-1]'
    fi
    candidates="$(__rlsuite_next "${{typed[-1]}}" "${{typed[1]:-}}" "${{typed[2]:-}}")"
    COMPREPLY=()
    if [[ "$candidates" == *"{files}"* || -z "$candidates" ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        compopt -o filenames 2>/dev/null
    fi
    local candidate
    while IFS= read -r candidate; do
        [[ "$candidate" == "$current"* && -n "$candidate" && "$candidate" != "{files}" ]] &&
            COMPREPLY+=("$candidate")
    done <<< "$candidates"
    local upto="${{current%"${{current##*:}}"}}"
    COMPREPLY=("${{COMPREPLY[@]#"$upto"}}")
}}
complete -F _rlsuite rlsuite"""

ZSH = """\
#compdef rlsuite
# Completion of rlsuite in zsh: source <(rlsuite completion zsh), after compinit
{shared}
_rlsuite() {{
    local -a candidates
    candidates=("${{(@f)$(__rlsuite_next "${{words[CURRENT-1]}}" "${{words[2]}}" "${{words[3]}}")}}")
    (( CURRENT == 2 )) && candidates=("${{(@f)$(__rlsuite_words '')}}")
    (( CURRENT == 3 )) && candidates=("${{(@f)$(__rlsuite_words "${{words[2]}}")}}")
    if (( ${{candidates[(I){files}]}} )); then
        candidates=("${{(@)candidates:#{files}}}")
        _files
    fi
    compadd -a candidates
}}
compdef _rlsuite rlsuite"""

FISH = """\
# Completion of rlsuite in fish: rlsuite completion fish > ~/.config/fish/completions/rlsuite.fish
function __rlsuite_words
    switch "$argv[1]"
{cases}
        case '*'
            return 1
    end
end

function __rlsuite_next
    set -l typed (commandline -opc)
    set -l last $typed[-1]
    if string match -q -- '--*' $last
        __rlsuite_words "$typed[2] $typed[3]|$last"; and return
        __rlsuite_words "$typed[2]|$last"; and return
    end
    __rlsuite_words "$typed[2] $typed[3]"; or __rlsuite_words "$typed[2]"
end

complete -c rlsuite -e
complete -c rlsuite -a '(__rlsuite_next | string match -v -- "{files}")'"""


def _posix(template: str) -> Callable[[Table], str]:
    def script(following: Table) -> str:
        cases = _cases(following, "        {1}) printf '%s\\n' {2}", " ;;")
        return template.format(shared=SHARED.format(cases=cases), files=FILES)

    return script


def _fish(following: Table) -> str:
    cases = _cases(following, "        case {0}\n            printf '%s\\n' {2}", "")
    return FISH.format(cases=cases, files=FILES)


SCRIPTS: Mapping[str, Callable[[Table], str]] = {"bash": _posix(BASH), "zsh": _posix(ZSH), "fish": _fish}
