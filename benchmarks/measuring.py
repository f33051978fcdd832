"""Measurement of speed: times of runs that take turns in one process, peak memory in a fresh process, and FLOPs.

A machine's speed drifts, so runs take turns, A B C, A B C, and reports give the median of the ratio within a round.
Peak memory is the increase over a loaded network, measured in two ways. Tensors: the largest number of bytes that
tensors hold at once, counted on fake tensors, exact and machine-independent. Process: the high-water mark of a fresh
process's resident memory (VmHWM; `ru_maxrss` would start at the peak of the parent process), with the scratch memory of
libraries and memory that the allocator keeps; it varies from run to run.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import sdedit_pl

Run = Callable[[], object]
Result = TypeVar("Result")


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


def in_turns(
    runs: Mapping[str, Run], rounds: int, advance: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """The seconds of each run in each round; `advance` is called after each run.

    The first round is not counted, because libraries choose kernels and allocate memory in it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
            advance()
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], name: str, reference: str) -> Spread:
    """The time of `name` divided by that of `reference`, per round."""
    return Spread.of([one / other for one, other in zip(seconds[name], seconds[reference], strict=True)])


class Counted(NamedTuple):
    """Floating-point operations of matrix products and convolutions, and peak memory of the new tensors, in bytes."""

    flops: int
    tensors: int


class _LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that operations create, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        values = results if len(func._schema.returns) > 1 else (results,)
        for value, declared in zip(values, func._schema.returns, strict=True):
            if declared.alias_info is None:  # else it is an argument, or a view of one
                for tensor in tree_leaves(value):
                    if isinstance(tensor, Tensor):
                        self._add(tensor.untyped_storage())
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def counted(run: Run) -> Counted:
    """Counts the cost of a run on fake tensors, without computing anything."""
    # The counter of torch does not know the fused attention of CPUs.
    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
            *shapes[:4]
        ),
    }
    # Run twice, because the counter of FLOPs keeps recomputed activations alive until the next garbage collection.
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False, custom_mapping=attention) as work:
        run()
    return Counted(work.get_total_flops(), peak_tensors(run))


def peak_tensors(run: Run) -> int:
    """Peak memory of the tensors that a run creates, in bytes, found on fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True), _LiveTensors() as live:
        run()
    return live.peak


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """The result of `function` in a fresh process with as many threads as this one."""
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        1, mp_context=fresh, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    ) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(prepare: Callable[..., Run], *arguments: Any) -> int:
    """Peak increase in resident memory (bytes) of a fresh process during the run that a picklable `prepare` returns."""
    return apart(_peak_memory, prepare, *arguments)


def machine() -> dict[str, Any]:
    """The machine and the versions on which the numbers depend."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "huge pages for tensors": os.environ.get("THP_MEM_ALLOC_ENABLE") == "1",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "sdedit_pl": sdedit_pl.__version__,
    }


def _peak_memory(prepare: Callable[..., Run], *arguments: Any) -> int:
    run = prepare(*arguments)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
