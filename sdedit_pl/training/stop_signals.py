"""Signals that end a run early, and how all devices come to end it after the same step.

SIGTERM and SIGUSR1 (a cluster that needs the machine, or whose time limit is near) and SIGINT (Ctrl-C) let the current
step finish; a checkpoint follows and the process ends, with 75 (EX_TEMPFAIL: to be started again) for the cluster's
signals and 130 for Ctrl-C. A second Ctrl-C does not wait.

Before the first step there is nothing to wait for: then a signal ends the process at once, with the same codes.

Lightning has handlers of its own, which these replace: with several devices they wait for the device at every step,
and from inside a handler they start a broadcast that the other devices may not expect. What every device has to know
goes round in the background instead, on the CPU, and arrives one step later.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
"""Signals that are waited for, and the exit codes of a training that they ended."""


class Interrupted(Exception):
    """A run that a signal has ended, after a checkpoint; the same training goes on from there.

    Args:
        signum: the signal.
        step: optimiser steps that were done; None where it had not come to its first one.
        problem: why there is no checkpoint of that step.
    """

    def __init__(self, signum: int, step: int | None, problem: str | None = None) -> None:
        self.signal = signal.Signals(signum)
        self.step = step
        if step is None:
            text = "before its first step; the same command begins again"
        elif problem is None:
            text = f"after step {step}; the same command goes on from there"
        else:
            text = f"after step {step}, but {problem}; the same command goes on from the newest checkpoint"
        super().__init__(f"stopped by {self.signal.name} {text}")

    @property
    def exit_code(self) -> int:
        """What the process should end with."""
        return EXIT_CODES[self.signal]


class StopSignals:
    """Remembers, inside its `with` block, the first signal that asked this process to stop.

    Until `wait` is called it raises Interrupted there and then.

    Worker processes that are forked inside the block live on: the training that they work for ends them. A second
    SIGTERM does end a worker, so that nothing that insists is left waiting.
    """

    def __init__(self) -> None:
        self.received = 0
        self._waits = False
        self._seen: set[int] = set()
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python takes handlers from the main thread alone.
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._receive) for signum in EXIT_CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def wait(self) -> None:
        """From here on signals are remembered, and who asks for `received` ends the run in its own time."""
        self._waits = True

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        insists = signum in self._seen
        self._seen.add(signum)
        self.received = self.received or signum
        if not self._waits and os.getpid() == self._process:
            raise Interrupted(signum, None)
        if insists and os.getpid() != self._process and signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif insists and os.getpid() == self._process and signum == signal.SIGINT:
            raise KeyboardInterrupt
