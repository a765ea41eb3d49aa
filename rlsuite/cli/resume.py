"""Go on with a run where it stopped, or extend it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from tyro import conf

from rlsuite import registry
from rlsuite.cli._line import check_run, import_modules, parse
from rlsuite.cli._outcome import goal, outcome_code, say_outcome, title
from rlsuite.training.mapping import RunConfig, config_from_dict, config_to_dict

PROG = "rlsuite resume"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResumeLine:
    """Goes on from the newest checkpoint that verifies; the result is that of the unbroken run."""

    run: conf.Positional[Path]
    """Run folder."""
    steps: int | None = None
    """New total of env steps; more than the run had extends it."""
    imports: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="import", metavar="MODULE")] = ()
    """Module to import first, as at the run's start."""


def run(argv: Sequence[str]) -> int:
    """Resume what the words after `rlsuite resume` say; return 0, or 75 when interrupted and resumable."""
    line = parse(ResumeLine, argv, prog=PROG, description=str(ResumeLine.__doc__))
    check_run(line.run)
    import_modules(line.imports)

    from rlsuite.blocks import ranks
    from rlsuite.hub.bundle import check_resumable
    from rlsuite.training.runfolder import RunFolder

    check_resumable(line.run)
    saved = RunFolder.open(line.run).config()
    saved["train"].setdefault("compile", "off")  # runs of before there was a choice
    config = config_from_dict(saved, lambda name: registry.agent_class(name).Config)
    if line.steps is not None:
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=line.steps))
    with ranks.joined(config.train.device):
        return resume_joined(config, line)


def resume_joined(config: RunConfig, line: ResumeLine) -> int:
    """Go on in as many processes as have joined; the first one writes and speaks."""
    from rlsuite.blocks import ranks
    from rlsuite.training.offline import train
    from rlsuite.training.ranked import own_folder, share_out
    from rlsuite.training.runfolder import RunFolder
    from rlsuite.training.signals import StopFlag

    shared = share_out(config.train, resume=True)

    def reopen() -> RunFolder:
        folder = RunFolder.open(line.run).__enter__()
        if line.steps is not None:
            folder.replace_config(config_to_dict(config))  # an interrupted extension goes on to its end
        print(f"{title(config)}\nresuming {line.run} to {goal(config.train):,} steps", flush=True)
        return folder

    with own_folder(line.run, reopen) as folder, StopFlag() as stop:
        kind = registry.agent_class(config.agent_name)
        result = train(kind, config.agent, shared, folder, stop=stop, resume=True)
    return say_outcome(config, line.run, result) if ranks.rank() == 0 else outcome_code(result)
