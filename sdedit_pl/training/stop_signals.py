"""Signals that end a run early, after a checkpoint.

After a cluster's SIGTERM or SIGUSR1, or SIGINT (Ctrl-C), the current step finishes, a checkpoint is written and the
process exits: with 75 (EX_TEMPFAIL, run again) after a cluster's signal, with 130 after Ctrl-C. A second Ctrl-C, or any
of these signals before the first step, ends the process immediately, with the same exit codes.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}


class Interrupted(Exception):
    """A signal ended the run after `step` steps (None: before the first); `problem` is why there is no checkpoint."""

    def __init__(self, signum: int, step: int | None, problem: str | None = None) -> None:
        self.signal = signal.Signals(signum)
        if step is None:
            text = "before its first step; run the same command to start again"
        elif problem is None:
            text = f"after step {step}; run the same command to resume there"
        else:
            text = f"after step {step}, but {problem}; run the same command to resume from the newest checkpoint"
        super().__init__(f"stopped by {self.signal.name} {text}")

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.signal]


class StopSignals:
    """Records, inside its `with` block, the first signal that asks this process to stop.

    Workers forked in the block ignore the first signal, since the training process ends them, but not a second SIGTERM.
    """

    def __init__(self) -> None:
        self.received = 0
        self._waits = False
        self._seen: set[int] = set()
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python accepts handlers only from the main thread.
        if threading.current_thread() is threading.main_thread():
            self._before = {signum: signal.signal(signum, self._receive) for signum in EXIT_CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def defer(self) -> None:
        """Until this call a signal raises Interrupted; afterwards the caller checks `received` and ends the run."""
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
