"""Signals that end a run."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from torch import multiprocessing

from sdedit_pl.training.stop_signals import EXIT_CODES, Interrupted, StopSignals


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_the_first_signal_is_recorded_and_handlers_are_restored(signum: int, code: int) -> None:
    before = [signal.getsignal(known) for known in EXIT_CODES]
    with StopSignals() as signals:
        signals.defer()
        assert signals.received == 0
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == signum
    assert [signal.getsignal(known) for known in EXIT_CODES] == before
    stop = Interrupted(signals.received, 7)
    assert stop.exit_code == code and str(stop).startswith(f"stopped by {signal.Signals(signum).name} after step 7;")


@pytest.mark.parametrize("signum", EXIT_CODES)
def test_before_the_first_step_a_signal_ends_the_process_at_once(signum: int) -> None:
    words = f"{signal.Signals(signum).name} before its first step"
    with pytest.raises(Interrupted, match=words) as stopped, StopSignals():
        os.kill(os.getpid(), signum)
        time.sleep(10)
    assert stopped.value.exit_code == EXIT_CODES[signal.Signals(signum)]


def test_a_second_interrupt_ends_at_once_and_a_second_sigterm_does_not() -> None:
    with StopSignals() as signals:
        signals.defer()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        signals.defer()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)


def test_workers_survive_a_first_signal_but_not_a_second_sigterm() -> None:
    def work(ready: multiprocessing.SimpleQueue) -> None:
        ready.put(True)
        time.sleep(60)

    context = multiprocessing.get_context("fork")
    ready = context.SimpleQueue()
    with StopSignals():
        worker = context.Process(target=work, args=(ready,), daemon=True)
        worker.start()
        assert ready.get()
        for signum in (signal.SIGINT, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM):
            os.kill(worker.pid, signum)
            time.sleep(0.05)
            assert worker.is_alive()
        worker.terminate()
        worker.join(30)
    assert worker.exitcode == -signal.SIGTERM


def test_another_thread_installs_no_handlers() -> None:
    handlers = []

    def run() -> None:
        with StopSignals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]
