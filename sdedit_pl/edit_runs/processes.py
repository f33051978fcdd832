"""The processes that share the guides of an edit: those of torchrun, of a SLURM job or array, or of `devices=`.

They do not communicate. Each takes every `count`-th guide, and finds what is done in the folder of the results.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import torch

_CHILD = "SDEDIT_ENDS_WITH_STDIN"


@dataclass(frozen=True)
class ProcessShare:
    """One process of `count`; `local` is its number on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.count}"

    def device(self, wanted: str) -> str:
        """The device of the process: `wanted`, but for auto and cuda each of several processes has its own GPU."""
        gpus = torch.cuda.device_count() if self.count > 1 and wanted in ("auto", "cuda") else 0
        return f"cuda:{self.local % gpus}" if gpus else wanted


def share_of_environment() -> ProcessShare:
    """The share that a launcher's variables set; a task of a SLURM array may have several processes."""
    task = _number("SLURM_ARRAY_TASK_ID", 0) - _number("SLURM_ARRAY_TASK_MIN", 0)
    task, tasks = task // _number("SLURM_ARRAY_TASK_STEP", 1), _number("SLURM_ARRAY_TASK_COUNT", 1)
    if "WORLD_SIZE" in os.environ:
        within = ProcessShare(_number("RANK", 0), _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0))
    elif "SLURM_STEP_NUM_TASKS" in os.environ:  # only within srun
        within = ProcessShare(
            _number("SLURM_PROCID", 0), _number("SLURM_STEP_NUM_TASKS", 1), _number("SLURM_LOCALID", 0)
        )
    else:
        within = ProcessShare()
    return ProcessShare(task * within.count + within.rank, tasks * within.count, within.local)


@contextmanager
def on_devices(command: Sequence[str], share: ProcessShare, devices: int | str, device: str) -> Iterator[ProcessShare]:
    """Yields this process's share of the devices of its machine, and starts processes with `command` for the others.

    At the end of the block it waits for them; after an error, and if this process is killed, they end. Raises
    ValueError for too few devices, a launcher that has already started a process for each, or a failed process.
    """
    if os.environ.get(_CHILD):
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    count = max(1, gpus) if devices == "auto" else int(devices)
    most = gpus or 8 * (os.cpu_count() or 1)
    if count > most:
        raise ValueError(f"devices={count} is too many for this machine; take at most {most}, or auto")
    if count == 1:
        yield share
        return
    if "WORLD_SIZE" in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ:
        raise ValueError(f"devices={devices} within torchrun or srun, which start a process for each device; omit it")
    os.environ.update(RANK="0", WORLD_SIZE=str(count), LOCAL_RANK="0")
    children = [_started(command, number) for number in range(1, count)]
    try:
        yield share_of_environment()
        for number, (child, messages) in enumerate(children, 1):
            if child.wait():
                messages.seek(0)
                reason = (messages.read().decode(errors="replace").strip().splitlines() or ["it was killed"])[-1]
                raise ValueError(f"process {number} of {count} failed: {reason.removeprefix('error: ')}; run it again")
    finally:
        for child, messages in children:
            child.communicate()  # closes its standard input
            messages.close()
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            os.environ.pop(name, None)


def _started(command: Sequence[str], number: int) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed after the process
    environment = {**os.environ, "RANK": str(number), "LOCAL_RANK": str(number), _CHILD: "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "sdedit_pl", *command],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=messages,
    )
    return child, messages


def _end_with_stdin() -> None:
    """Ends this process when the one that started it ends."""
    os.read(0, 1)  # sys.stdin would be locked when the interpreter exits
    os._exit(1)


def _number(variable: str, usual: int) -> int:
    text = os.environ.get(variable, str(usual))
    if not text.isdecimal():
        raise ValueError(f"the environment variable {variable} must be a number, got {text!r}; unset it or start again")
    return int(text)
