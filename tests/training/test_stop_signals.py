"""Signals that end a run, and how devices agree on its last step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import lightning
import pytest
from torch import multiprocessing

from sdedit_pl.training.device_agreement import Agreement
from sdedit_pl.training.lightning_internals import ignore_signals
from sdedit_pl.training.stop_signals import EXIT_CODES, Interrupted, StopSignals


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_the_first_signal_is_remembered_and_handlers_are_put_back(signum: int, code: int) -> None:
    before = [signal.getsignal(known) for known in EXIT_CODES]
    with StopSignals() as signals:
        signals.wait()
        assert signals.received == 0
        os.kill(os.getpid(), signum)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == signum
    assert [signal.getsignal(known) for known in EXIT_CODES] == before
    stop = Interrupted(signals.received, 7)
    assert stop.exit_code == code and str(stop).startswith(f"stopped by {signal.Signals(signum).name} after step 7;")


@pytest.mark.parametrize("signum", EXIT_CODES)
def test_before_the_first_step_nothing_is_waited_for(signum: int) -> None:
    words = f"{signal.Signals(signum).name} before its first step"
    with pytest.raises(Interrupted, match=words) as stopped, StopSignals():
        os.kill(os.getpid(), signum)
        time.sleep(10)
    assert stopped.value.exit_code == EXIT_CODES[signal.Signals(signum)]


def test_a_second_interrupt_does_not_wait_and_a_second_sigterm_does() -> None:
    with StopSignals() as signals:
        signals.wait()
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        signals.wait()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)


def test_workers_outlive_a_signal_to_all_and_not_an_insistent_one() -> None:
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


def test_in_another_thread_nothing_is_caught_and_nothing_fails() -> None:
    handlers = []

    def run() -> None:
        with StopSignals():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_what_lightning_does_on_signals_is_still_where_it_is_taken_from() -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    taken = [
        (trainer._signal_connector, "register_signal_handlers"),
        (trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
    ]
    assert all(callable(getattr(owner, name)) and name not in vars(owner) for owner, name in taken)
    ignore_signals(trainer)
    assert all(name in vars(owner) for owner, name in taken)


def test_one_device_agrees_with_itself_at_once() -> None:
    agreement = Agreement()
    agreement.begin(1)
    assert agreement.largest(0, 3) == [0, 3] and agreement.largest(15, 0) == [15, 0]
    assert agreement.gathered("name") == ["name"]


AGREEING = """
import sys, torch.distributed as dist
from sdedit_pl.training.device_agreement import Agreement
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
agreement = Agreement()
agreement.begin(2)
heard = [agreement.largest(15 if (rank, call) == (1, 2) else 0, 10 * call + rank) for call in range(5)]
assert heard == [[0, 0], [0, 1], [0, 11], [15, 21], [0, 31]], heard
assert agreement.gathered({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
if rank == 0:
    dist.barrier()
    try:
        for _ in range(100):
            agreement.largest(0, 0)
    except RuntimeError as error:
        print("the other is gone:", error)
else:
    dist.barrier()
    import os
    os._exit(0)
"""


def test_two_devices_hear_the_same_one_call_later_and_notice_when_the_other_is_gone(tmp_path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AGREEING, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "the other is gone" in outputs[0]
