"""Two processes that train together, for tests of what they exchange."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed
from torch import multiprocessing


def on_two_devices(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Runs `work` of a rank in two forked processes that are connected by gloo, and returns both results.

    Args:
        work: must not use an accelerator; returns plain data.
        folder: an empty folder, for the file through which the processes find each other.
    """
    context = multiprocessing.get_context("fork")

    def process(rank: int, results: Any) -> None:
        method = f"file://{folder / 'meeting'}"
        torch.distributed.init_process_group("gloo", init_method=method, rank=rank, world_size=2)
        results.send(work(rank))
        os._exit(0)  # without waiting for the other

    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [context.Process(target=process, args=(rank, pipes[rank][1]), daemon=True) for rank in range(2)]
    for started in processes:
        started.start()
    found = []
    for ours, theirs in pipes:
        theirs.close()
        assert ours.poll(120)
        found.append(ours.recv())  # EOFError: the process has died; its traceback is on standard error
    for started in processes:
        started.join(30)
    return found
