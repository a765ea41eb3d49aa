"""Measures the greatest resident memory of whole training processes, compiling included (Linux)."""

import dataclasses
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from races import write_measured

from rlsuite.bounds import AtLeastOne, check_bounds
from rlsuite.command.arguments import parse
from rlsuite.errors import ConfigError

AGENTS = (
    *("sac", "td3", "dsac_t", "stac", "quantile_dsac", "crossq:small"),
    *("tqc:small:bfloat16", "simba_sac:narrow:bfloat16", "dsac_flash:narrow:bfloat16", "ppo"),
)
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
LOOK_EVERY_S = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessMemoryArgs:
    """Trains every agent for some env steps on HalfCheetah-v5, one thread, one after another."""

    agents: tuple[str, ...] = AGENTS
    """AGENT, AGENT:PRESET or AGENT:PRESET:bfloat16 each."""
    steps: AtLeastOne = 12_000
    """Env steps of a run; the random ones of its preset are among them."""
    out: Path | None = None
    """CSV to write."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range."""
        check_bounds(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One agent's process."""

    agent: str
    steps: int
    peak_mib: int


def peak_of(agent: str, steps: int) -> Row:
    """Train and return the peak. Raise ConfigError where training fails."""
    name, _, rest = agent.partition(":")
    preset, _, precision = rest.partition(":")
    flags = [*(["--preset", preset] if preset else []), *(["--mixed-precision"] if precision else [])]
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "rlsuite", "train", name, "--env", "HalfCheetah-v5", "--threads", "1"]
        line += ["--steps", str(steps), "--eval-every", str(steps), "--compile", "on", *flags]
        log = Path(folder, "log")
        with log.open("w") as said:
            process = subprocess.Popen(
                [*line, "--out", str(Path(folder, "run"))], stdout=said, stderr=subprocess.STDOUT
            )
            peak = 0
            while process.poll() is None:
                told = PEAK.search(Path(f"/proc/{process.pid}/status").read_text())
                peak = max(peak, int(told[1]) if told else 0)  # a process that has just ended says nothing
                time.sleep(LOOK_EVERY_S)
        if process.returncode:
            raise ConfigError(f"{agent}: training ended with {process.returncode}: {log.read_text()[-500:]}")
    return Row(agent, steps, peak // 1024)


def main(argv: Sequence[str]) -> None:
    """Measure and print; write where asked, after every agent."""
    line = parse(ProcessMemoryArgs, argv, prog="process_memory.py")
    rows = []
    for agent in line.agents:
        rows.append(peak_of(agent, line.steps))
        print(f"{agent:28} {rows[-1].peak_mib:6} MiB", flush=True)
        if line.out is not None:
            write_measured(line.out, rows, threads=1)


if __name__ == "__main__":
    main(sys.argv[1:])
