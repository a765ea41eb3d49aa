"""Row 3: SIGTERM in the middle of an update: saved at the next boundary, exit code 75, nothing repeated."""

import signal
import time

import whole_runs as runs


def test_sigterm_saves_at_the_next_step_and_exits_75(tmp_path, unbroken):
    path = tmp_path / "run"
    child = runs.start("train", "dsac_t", *runs.flags(), "--out", path)
    while not (path / "ckpt").exists():
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.01)
    asked = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 75
    assert time.monotonic() - asked < 10
    said = child.stdout.read()
    assert f"rlsuite resume {path}" in said
    stopped_at = int(runs.newest(path).name.removeprefix("step-"))
    assert 200 <= stopped_at < 800
    child = runs.start("resume", path, "--import", "toys")
    assert child.wait(60) == 0
    runs.assert_same_run(unbroken, path)
