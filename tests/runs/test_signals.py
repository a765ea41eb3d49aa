"""Stop signals set a flag; the second interrupt leaves at once."""

import os
import signal
import threading

import pytest

from rlsuite.runs.signals import StopFlag


@pytest.mark.parametrize("number", StopFlag.SIGNALS)
def test_a_signal_sets_the_flag_and_its_name(number: signal.Signals) -> None:
    with StopFlag() as flag:
        assert flag.stop is None
        os.kill(os.getpid(), number)
        assert flag.stop == number.name


def test_the_first_signal_is_the_one_named() -> None:
    with StopFlag() as flag:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert flag.stop == "SIGTERM"


def test_old_handlers_come_back() -> None:
    seen = []
    interrupt = signal.getsignal(signal.SIGINT)  # ignored where a shell started the tests in the background
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        with StopFlag():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == []
        os.kill(os.getpid(), signal.SIGUSR1)
        assert seen == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = [signal.getsignal(number) for number in StopFlag.SIGNALS]
    inside = []

    def work() -> None:
        with StopFlag() as flag:
            inside.append(([signal.getsignal(number) for number in StopFlag.SIGNALS], flag.stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert inside == [(before, None)]
