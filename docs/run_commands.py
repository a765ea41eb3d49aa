"""Run the commands that README and docs show, in small, one after the other, in a temporary folder.

    python docs/run_commands.py                  # all pages: about an hour on one core
    python docs/run_commands.py docs/quickstart.md docs/hub.md
    python docs/run_commands.py --list           # what would run, how, and what would not and why

Every `rlsuite` command keeps its words; flags behind them make trainings short (the last one given wins).
Runs that a page speaks of without making them are made first. What needs the network, a GPU or another
package's checkpoint is left out, and said. `tests/cli/test_shown.py` parses all of them.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from shown_commands import Shown, shown_commands  # noqa: E402

COMMON = "--eval-every 200 --eval-episodes 1 --checkpoint-every 200 --log-every 100 --threads 1"
ONLINE = f"--steps 200 --warmup-steps 100 --num-envs 1 --batch-size 16 --replay-size 1000 {COMMON}"
OFFLINE = f"--steps 20 --batch-size 16 {COMMON}"
DATA = ("rlsuite/pointmaze/umaze-v0",)  # made here first; other data sets are downloads
SECONDS = 900.0  # of one command

PREPARED = {
    "runs/pendulum": f"rlsuite train sac --env gym:Pendulum-v1 {ONLINE} --out runs/pendulum",
    "runs/other": f"rlsuite train td3 --env gym:Pendulum-v1 {ONLINE} --out runs/other",
}
"""Runs that pages speak of without making them."""

LEFT_OUT = {
    "rlsuite push": "needs the Hub (tests/hub runs it against a stand-in)",
    "rlsuite pull": "needs the Hub (tests/hub runs it against a stand-in)",
    "rlsuite eval runs/theirs": "is a pulled run",
    "rlsuite bench": "trains for hours on downloads (tests/cli/test_bench*.py run it in small)",
    "rlsuite sweep": "many trainings (tests/bench/test_sweep.py runs it in small)",
    "rlsuite data make hopper": "needs a trained policy (tests/offline/test_making.py runs it in small)",
    "rlsuite train ldcq": "three stages (tests/agents/test_ldcq.py runs it in small)",
    "--device cuda": "needs a GPU",
    "--engine warp": "compiles kernels for many minutes",
    "--preset massive": "needs a GPU",
    "my_": "needs the templates installed (tests/cli/test_extending.py installs them)",
    "--from": "an artifact of another page",
}
"""What is not run: words of the command, and why."""


def reason(command: str) -> str | None:
    """Return why a command is not run; None: it is."""
    if not command.startswith("rlsuite "):
        return "sets up, tests or measures: the Makefile, pytest and benchmarks have tests of their own"
    for words, why in LEFT_OUT.items():
        if words in command:
            return why
    if "--dataset" in command and not any(name in command for name in DATA):
        return "a download"
    return None


def shortened(command: str) -> str:
    """Return the command with the flags that make it short behind it."""
    words = shlex.split(command)
    if words[1] == "train":
        extra = OFFLINE if "--dataset" in words else ONLINE
        widths = "" if words[2] == "d_eta_n" else " --agent.hidden 16 16"
        seeds = " --seeds 2" if "--seeds" in words else ""
        processes = " --processes 2" if "--processes" in words else ""
        online = " --then-online 50" if "--then-online" in words else ""
        return f"{command} {extra}{widths}{seeds}{processes}{online}"
    if words[1] == "resume":
        return f"{command} --steps 300"
    if words[1:3] == ["data", "make"]:
        return f"{command} --steps 2000"
    if words[1] == "eval":
        return f"{command} --episodes 2"
    return command


def run(command: str, folder: Path) -> bool:
    """Run one command in `folder`; print how long it took, or what it said when it failed."""
    began = time.monotonic()
    words = [sys.executable, "-m", *shlex.split(command)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MINARI_DATASETS_PATH": str(folder / "minari"),
        "D4RL_DATASET_DIR": str(folder / "d4rl"),
    }
    try:
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        print(f"FAILED  {command}: not done after {SECONDS:.0f} s")
        return False
    took = time.monotonic() - began
    if done.returncode:
        print(f"FAILED  {command} (exit {done.returncode})\n{done.stderr.strip()[-2000:]}")
        return False
    print(f"ok      {took:5.1f} s  {command}", flush=True)
    return True


def main() -> int:
    """Run what the command line asks for; return 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pages", nargs="*", help="pages by their path; by default all")
    parser.add_argument("--list", action="store_true")
    line = parser.parse_args()
    shown: list[Shown] = [one for one in shown_commands() if not line.pages or one.page in line.pages]
    if not shown:
        parser.error(f"no page of {', '.join(line.pages)} shows a command")
    failed, seen = 0, set()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for one in shown:
            why, command = reason(one.text), one.text
            if why is not None:
                print(f"left    {one.page}:{one.number}: {command}: {why}")
                continue
            command = shortened(command)
            if line.list:
                print(f"run     {one.page}:{one.number}: {command}")
                continue
            if command in seen:
                continue
            seen.add(command)
            for path, preparation in PREPARED.items():
                made = f"--out {path}" in command
                if path in command and not made and not (folder / path).exists():
                    failed += not run(preparation, folder)
            for path in [word for word in shlex.split(command) if made_again(word, command, folder)]:
                (folder / path).rename(folder / f"{path}-{len(seen)}")
            if command.startswith("rlsuite data make"):  # of a name that another page has made
                for name in DATA:
                    shutil.rmtree(folder / "minari" / name, ignore_errors=True)
            failed += not run(command, folder)
    print(f"{failed} failed")
    return min(failed, 1)


def made_again(word: str, command: str, folder: Path) -> bool:
    """Whether `word` names what an earlier command made and this one would make again."""
    return f"--out {word}" in command and " report " not in command and (folder / word).exists()


if __name__ == "__main__":
    sys.exit(main())
