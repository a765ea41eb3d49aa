"""Run a benchmark: paper compares with published curves, d4rl tabulates offline agents, study reports any."""

import importlib
from collections.abc import Sequence

from rlsuite.command.arguments import parse, wants_help
from rlsuite.errors import ConfigError, unknown_name

PROG = "rlsuite bench"
BENCHES = {
    "d4rl": "offline agents on data sets, with published scores beside them",
    "paper": "our agents in the STAC paper's regime, over its published curves",
    "study": "agents on environments with seeds, resumable, on any launcher, to one page",
}
PASSED_ON = "--"  # what follows goes to `rlsuite train`


def run(argv: Sequence[str]) -> int:
    """Run the benchmark that the words after `rlsuite bench` name; return its exit code."""
    if not argv or argv[0].startswith("-"):
        if wants_help(argv):
            print(f"usage: {PROG} {{{','.join(BENCHES)}}} ...\n")
            print("\n".join(f"  {name}  {summary}" for name, summary in BENCHES.items()))
            return 0
        raise ConfigError(f"name the benchmark first: {PROG} {{{','.join(BENCHES)}}}")
    name, *args = argv
    if name not in BENCHES:
        raise unknown_name("a benchmark", name, BENCHES, f"{PROG} --help")
    args, extra = split_extra(args)

    benchmark = importlib.import_module(f"rlsuite.bench.{name}")
    cls_name = {"d4rl": "D4rlArgs", "paper": "PaperArgs", "study": "StudyArgs"}[name]
    cls = getattr(benchmark, cls_name)
    description = f"{cls.__doc__}\n\nFlags after `--` go to every `rlsuite train`."
    code: int = benchmark.main(parse(cls, args, prog=f"{PROG} {name}", description=description), extra)
    return code


def split_extra(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before `--`, and those after it, which go to `rlsuite train`."""
    if PASSED_ON not in args:
        return list(args), []
    at = list(args).index(PASSED_ON)
    return list(args[:at]), list(args[at + 1 :])
