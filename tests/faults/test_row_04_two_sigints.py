"""Row 4: a second SIGINT, in the middle of a save, ends the process at once; older checkpoints stay."""

import os
import signal
import subprocess
import sys
import time

import whole_runs as runs

from rlsuite.runs.checkpoint import CheckpointStore
from rlsuite.runs.signals import EXIT_SIGINT

SLOW_DISK = """
import sys, time
import toys
from rlsuite.cli import main
from rlsuite.runs.files import FileLayer

write = FileLayer.write

def slow(self, path, data):
    write(self, path, data)
    if slow.told and "ckpt" in str(path):
        print("saving", flush=True)
        time.sleep(60)

slow.told = False
FileLayer.write = slow

from rlsuite.training import loop
save = loop.save

def told(run, store, recorder, *, final):
    slow.told = final
    save(run, store, recorder, final=final)

loop.save = told
main.main()
"""


def test_the_second_interrupt_during_a_save_leaves_at_once(tmp_path, count):
    path = tmp_path / "run"
    words = ["train", "sac", *runs.flags(steps=100_000), "--out", str(path)]
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_DISK, *words],
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(path.glob("ckpt/step-*/manifest.json")):
            assert time.monotonic() < deadline and child.poll() is None, child.stdout.read()
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        while child.stdout.readline() != "saving\n":
            assert child.poll() is None
        asked = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == EXIT_SIGINT
        assert time.monotonic() - asked < 1
    finally:
        child.kill()
        child.wait()
    assert list(path.glob("ckpt/.stage*")), "the save was not under way"
    store = CheckpointStore(path / "ckpt")
    assert store.load(config_digest=None).step == store.steps()[-1] >= 200
    runs.train(path, "sac", resume=True, steps=store.steps()[-1] + 8)
    assert not list(path.glob("ckpt/.stage*"))
    count("saves broken off by a second SIGINT, survived")


SLOW_SAVE = """
import sys, time
from rlsuite.runs.signals import StopFlag
with StopFlag() as flag:
    print("ready", flush=True)
    while flag.stop is None:
        time.sleep(0.01)
    print(flag.stop, flush=True)
    time.sleep(60)  # a save that takes long
"""


def test_a_second_interrupt_ends_the_process_within_a_second() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SLOW_SAVE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "SIGINT\n"
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(5) == EXIT_SIGINT
        assert time.monotonic() - start < 1
    finally:
        process.kill()
        process.wait()
