"""Training steps of our network in several processes of this machine, each on cores of its own."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from compared import OURS, Case
from torch import distributed
from torch.nn.parallel import DistributedDataParallel


def images_a_second(case: Case, processes: int, threads: int, steps: int) -> float:
    """The rate of `processes` that share the case's batch and average their gradients with gloo.

    Args:
        case: the networks, of which ours is trained, and the joint batch.
        processes: how many.
        threads: of each, on as many cores that no other process gets.
        steps: training steps that are timed, after one that is not.
    """
    share = replace(case, batch=case.batch // processes)
    with tempfile.TemporaryDirectory() as folder:
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=fresh) as pool:
            jobs = [
                pool.submit(_seconds, share, rank, processes, threads, steps, Path(folder) / "meeting")
                for rank in range(processes)
            ]
            seconds = max(job.result() for job in jobs)
    return case.batch * steps / seconds


def _seconds(case: Case, rank: int, processes: int, threads: int, steps: int, meeting: Path) -> float:
    """The time of the steps of one process; `meeting` is a file where they find each other."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[rank * threads : (rank + 1) * threads] or cores)
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    try:
        network = DistributedDataParallel(case.network(OURS, "channels last").train())
        images, label = case.inputs("channels last")
        optimizer = torch.optim.Adam(network.parameters(), 1e-4)
        started = 0.0
        for number in range(steps + 1):
            if number == 1:
                distributed.barrier()
                started = time.perf_counter()
            optimizer.zero_grad()
            (network(images, label) - images).square().mean().backward()
            optimizer.step()
        distributed.barrier()
        return time.perf_counter() - started
    finally:
        distributed.destroy_process_group()
