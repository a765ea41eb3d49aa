"""Run the commands that README and docs show, in small, one after the other, in a temporary folder.

    python docs/run_commands.py                  # all pages: about an hour on one core
    python docs/run_commands.py docs/quickstart.md docs/hub.md
    python docs/run_commands.py --only torchrun  # commands with this word
    python docs/run_commands.py --list           # what would run, how, and what would not and why

Every `rlsuite` command, by itself or under torchrun, keeps its words; flags behind them make trainings short
(the last one given wins). Runs and data that a page speaks of without making them are made first. What needs
the network, a GPU or another package's checkpoint is left out, and said. `tests/cli/test_shown.py` parses all
of them.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from shown_commands import Shown, rlsuite_words, shown_commands  # noqa: E402

COMMON = "--eval-every 200 --eval-episodes 1 --checkpoint-every 200 --log-every 100 --threads 1"
ONLINE = f"--steps 200 --warmup-steps 100 --num-envs 1 --batch-size 16 --replay-size 1000 {COMMON}"
ROLLOUTS = f"--steps 256 --num-envs 2 --replay-size 64 --batch-size 16 --epochs 2 {COMMON}"
OFFLINE = f"--steps 20 --batch-size 16 {COMMON}"
DATA = ("rlsuite/pointmaze/umaze-v0",)  # made here first; other data sets are downloads
RUN = f"{ONLINE} --agent.hidden 16 16"
STUDY = "--seeds 1 --steps 200 --jobs 2"
SWEEP = "--trials 2 --seeds 2 --steps 200 --evaluations 2 --jobs 1 --out runs/sweep"
SWEPT = RUN.replace("--batch-size 16 ", "").replace("--eval-every 200 ", "")  # these are the sweep's
STAGES = "--agent.skills-updates 4 --agent.prior-updates 4 --agent.values-updates 4"
CANDIDATES = "--agent.stored 4 --agent.target-candidates 4 --agent.candidates 4"
RANKS = "runs/ranks"  # of the runs under torchrun, which their page leaves nameless
SECONDS = 900.0  # of one command

PREPARED = {
    DATA[0]: "rlsuite data make pointmaze/umaze --steps 2000",
    "runs/a": f"rlsuite train ldcq --dataset {DATA[0]} --preset small --stages skills,prior --out runs/a "
    f"--batch-size 16 {COMMON} {STAGES} {CANDIDATES}",
    "runs/pendulum": f"rlsuite train sac --env gym:Pendulum-v1 {ONLINE} --out runs/pendulum",
    "runs/other": f"rlsuite train td3 --env gym:Pendulum-v1 {ONLINE} --out runs/other",
    "runs/sac": f"rlsuite train sac --env gym:Pendulum-v1 {RUN} --seeds 2 --out runs/sac",
    "runs/sac-tau": f"rlsuite train sac --env gym:Pendulum-v1 {RUN} --seeds 2 --agent.tau 0.01 "
    "--out runs/sac-tau",
    "runs/td3": f"rlsuite train td3 --env gym:Pendulum-v1 {RUN} --seeds 2 --out runs/td3",
    "runs/cheetah": f"rlsuite train sac --env HalfCheetah {RUN} --out runs/cheetah",
    "runs/cheetah-td3": f"rlsuite train td3 --env HalfCheetah {RUN} --out runs/cheetah-td3",
    **{
        f"runs/study/sac-Hopper-s{seed}": f"rlsuite train sac --env Hopper {RUN} --seed {seed} "
        f"--out runs/study/sac-Hopper-s{seed}"
        for seed in range(3)
    },
}
"""Data and runs that pages speak of without making them, or that another page has made."""

TUTORIAL = "docs/tutorial_own_env.md"  # its first program is the module cart

LEFT_OUT = {
    "rlsuite push": "needs the Hub (tests/hub runs it against a stand-in)",
    "rlsuite pull": "needs the Hub (tests/hub runs it against a stand-in)",
    "rlsuite eval runs/theirs": "is a pulled run",
    "rlsuite bench d4rl": "trains for hours on downloads (tests/cli/test_bench_d4rl.py runs it in small)",
    "rlsuite bench plasticity-critics": "trains for hours (tests/bench runs it in small)",
    "rlsuite bench paper": "trains for hours (tests/cli/test_bench.py runs it in small)",
    "rlsuite data make halfcheetah/expert": "needs another package's checkpoint",
    "rlsuite data make halfcheetah/random-expert": "needs the data of that",
    "rlsuite data make hopper": "needs a trained policy (tests/offline/test_making.py runs it in small)",
    "ogbench": "records for minutes (tests/offline/test_ogbench.py runs it in small)",
    "--device cuda": "needs a GPU",
    "--engine warp": "compiles kernels for many minutes",
    "--preset massive": "needs a GPU",
    "my_": "needs the templates installed (tests/cli/test_extending.py installs them)",
}
"""What is not run: words of the command, and why."""


def reason(command: str) -> str | None:
    """Return why a command is not run; None: it is."""
    if rlsuite_words(command) is None:
        return "sets up, tests or measures: the Makefile, pytest and benchmarks have tests of their own"
    for words, why in LEFT_OUT.items():
        if words in command:
            return why
    if "--dataset" in command and not any(name in command for name in (*DATA, "--dataset ... ")):
        return "a download"
    return None


def shortened(command: str) -> str:
    """Return the command with the flags that make it short behind it."""
    command = command.replace("--dataset ... ", f"--dataset {DATA[0]} ")
    words = shlex.split(command)
    if words[0] == "torchrun":
        own = shortened(command.partition(" -m ")[2]).replace("runs/...", RANKS)
        worlds = f" --num-envs 2 --out {RANKS}" if " train " in own else ""
        return f"torchrun --nproc-per-node 2 -m {own}{worlds}"
    if words[1] == "sweep" or words[1:3] == ["bench", "study"]:
        ours, _, runs = command.partition(" -- ")
        short, each = (SWEEP, SWEPT) if words[1] == "sweep" else (STUDY, RUN)
        short += " --seeds 2 --max-seeds 3 --turn 1" if "--until-decided" in words else ""
        return f"{ours} {short} -- {runs} {each}"
    if words[1:3] == ["train", "ldcq"]:  # networks as they are: stages of several runs must fit
        return f"{command} --batch-size 16 {COMMON} {STAGES} {CANDIDATES}"
    if words[1] == "train":
        extra = OFFLINE if "--dataset" in words else ROLLOUTS if words[2] == "ppo" else ONLINE
        widths = "" if words[2] == "d_eta_n" else " --agent.hidden 16 16"
        seeds = " --seeds 2" if "--seeds" in words else ""
        processes = " --processes 2" if "--processes" in words else ""
        online = " --then-online 50" if "--then-online" in words else ""
        return f"{command} {extra}{widths}{seeds}{processes}{online}"
    if words[1] == "report":  # of all that earlier commands made, seeds would come twice
        return command.replace("report runs ", "report runs/pendulum ")
    if words[1] == "resume":
        return f"{command} --steps 300"
    if words[1:3] == ["data", "make"]:
        return f"{command} --steps 2000"
    if words[1] == "eval":
        return f"{command} --episodes 2"
    if words[1] in ("branch", "replay"):  # of runs that are short here
        for flag, step in (("--at", 150), ("--from", 150), ("--to", 160), ("--every", 2)):
            command = re.sub(rf"{flag} [\d_]+", f"{flag} {step}", command)
    return command


def run(command: str, folder: Path) -> bool:
    """Run one command in `folder`; print how long it took, or what it said when it failed."""
    began = time.monotonic()
    program, *rest = shlex.split(command)
    module = "torch.distributed.run" if program == "torchrun" else program
    words = [sys.executable, "-m", module, *rest]
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
    parser.add_argument("--only", default="", metavar="WORDS", help="commands that have these in them")
    parser.add_argument("--list", action="store_true")
    line = parser.parse_args()
    shown: list[Shown] = [
        one
        for one in shown_commands()
        if line.only in one.text and (not line.pages or one.page in line.pages)
    ]
    if not shown:
        parser.error(f"no page of {', '.join(line.pages) or 'all'} shows such a command")
    failed, seen = 0, set()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = (ROOT / TUTORIAL).read_text().partition("```python\n")[2].partition("```")[0]
        (folder / "cart.py").write_text(program)
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
                named = any(word == path or word.startswith(f"{path}/") for word in shlex.split(command))
                made = f"--out {path}" in command
                there = any((root / path).exists() for root in (folder, folder / "minari"))
                if named and not made and not there:
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
