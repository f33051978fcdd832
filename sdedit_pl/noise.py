"""Noise as a function of (seed of the sample, step, draw), without global state.

A sample has the same noise in any batch, at any position in the batch, on any device and after any restart. Step 0 is
the noise of the starting state (the prior or the noised guide); the steps of the time loop start at 1. Numbers are
drawn on the CPU in float32, because generators differ between devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sdedit_pl.typing import Images

_WORD = 2**64


@runtime_checkable
class Noise(Protocol):
    """A source of standard normal noise."""

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        """Draw `draw` of step `step`, in the shape, dtype and device of `like`."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """Noise from one seed for each sample.

    Args:
        seeds: the seeds, in the order of the batch, each in [0, 2^64).
    """

    seeds: tuple[int, ...]

    def __init__(self, seeds: Sequence[int]) -> None:
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in seeds))
        if not self.seeds or not all(0 <= seed < _WORD for seed in self.seeds):
            raise ValueError(f"seeds must be integers in [0, 2^64), one for each sample, got {list(self.seeds)}")

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        """See `Noise`.

        Raises:
            ValueError: a batch that does not have one image for each seed.
        """
        if len(like) != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds cannot noise a batch of {len(like)}; give one for each")
        return _moved(self.drawn(step, draw, host_buffer(like)), like)

    def drawn(self, step: int, draw: int, buffer: Tensor) -> Tensor:
        """Fills `buffer`, float32 on the CPU, with a draw and returns it; thread-safe."""
        for image, seed in zip(buffer, self.seeds, strict=True):
            image.normal_(generator=torch.Generator().manual_seed(mixed(seed, step, draw)))
        return buffer


class PrefetchedNoise:
    """Draws the noise of the next steps in threads while the device computes the current one.

    Drawing an image of 256 px takes over a millisecond, about as long as a GPU's step. Prefetching begins with the
    first draw, so that a solver without noise costs nothing, and covers draw 0 of each step. Use as a context manager,
    which ends the threads.

    Args:
        ahead: number of steps drawn ahead, each in a thread.
    """

    def __init__(self, noise: SeededNoise, last_step: int, ahead: int = 6) -> None:
        self._noise = noise
        self._last_step = last_step
        self._ahead = ahead
        self._threads = ThreadPoolExecutor(ahead)
        self._pending: dict[int, Future[Tensor]] = {}

    def __enter__(self) -> PrefetchedNoise:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        """See `Noise`."""
        if draw:
            return self._noise(step, draw, like)
        pending = self._pending.pop(step, None)
        images = self._noise(step, draw, like) if pending is None else _moved(pending.result(), like)
        for coming in range(step + 1, min(step + self._ahead, self._last_step) + 1):
            if coming not in self._pending:
                self._pending[coming] = self._threads.submit(self._noise.drawn, coming, 0, host_buffer(like))
        return images


def host_buffer(like: Images) -> Tensor:
    """Memory for a draw, float32 on the CPU; pinned for a GPU, so that the copy is asynchronous."""
    return torch.empty(like.shape, dtype=torch.float32, pin_memory=like.device.type == "cuda")


def _moved(images: Tensor, like: Images) -> Images:
    return images.to(device=like.device, dtype=like.dtype, non_blocking=True)


class StepNoise:
    """The noise of one step of the time loop.

    `shared` is the step's z, drawn at first use and the same for the solver and a constraint (Algorithms 3 and 5 of
    SDEdit share it between kept and edited pixels). Each call of `fresh()` is another draw.

    With `silent`, `shared` is zero, so that a step returns its mean. `like` has the state's shape, dtype and device.
    """

    def __init__(self, noise: Noise, step: int, like: Images, *, silent: bool = False) -> None:
        self._noise = noise
        self._step = step
        self._like = like
        self._silent = silent
        self._shared: Tensor | None = None
        self._draws = 0

    @property
    def shared(self) -> Images:
        """The step's z, (B, C, H, W)."""
        if self._shared is None:
            self._shared = torch.zeros_like(self._like) if self._silent else self._noise(self._step, 0, self._like)
        return self._shared

    def fresh(self) -> Images:
        """Standard normal noise that is used nowhere else, (B, C, H, W)."""
        self._draws += 1
        return self._noise(self._step, self._draws, self._like)


def mixed(*words: int) -> int:
    """A 64-bit hash of integers.

    Torch's CPU generator uses only the lower half of its seed, so that two of n draws coincide with probability
    n^2 / 2^33, about one in ten thousand for the thousand steps of a sample.

    Source: the finaliser of splitmix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
    """
    state = 0
    for word in words:
        state = ((state ^ word) + 0x9E3779B97F4A7C15) % _WORD
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % _WORD
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % _WORD
        state ^= state >> 31
    return state
