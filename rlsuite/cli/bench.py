"""Run a benchmark: paper, d4rl, study, plasticity-critics; what they compare, their help says."""

import importlib
from collections.abc import Sequence
from typing import Any

from rlsuite.command.arguments import parse, wants_help
from rlsuite.errors import ConfigError, unknown_name

PROG = "rlsuite bench"
BENCHES = {
    "d4rl": "offline agents on data sets, with published scores beside them",
    "plasticity-critics": "critics of one size at rising update ratios: returns, inactive units, ranks",
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

    benchmark, cls = benchmark_of(name)
    description = f"{cls.__doc__}\n\nFlags after `--` go to every `rlsuite train`."
    page = benchmark.PAGE
    line = parse(cls, args, prog=f"{PROG} {name}", description=description, page=page)
    code: int = benchmark.main(line, extra)
    return code


def benchmark_of(name: str) -> tuple[Any, Any]:
    """Return the module of a benchmark and the dataclass of its flags: `a-b` has `ABArgs` of `a_b.py`."""
    module = importlib.import_module(f"rlsuite.bench.{name.replace('-', '_')}")
    return module, getattr(module, "".join(map(str.capitalize, name.split("-"))) + "Args")


def split_extra(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before `--`, and those after it, which go to `rlsuite train`."""
    if PASSED_ON not in args:
        return list(args), []
    at = list(args).index(PASSED_ON)
    return list(args[:at]), list(args[at + 1 :])
