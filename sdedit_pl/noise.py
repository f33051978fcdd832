"""Noise as a function of (seed of the sample, step, draw), without global state, and its distributions.

A sample has the same noise in any batch, at any position in the batch, on any device and after any restart. Step 0 is
the noise of the starting state (the prior or the noised guide); the steps of the time loop start at 1. Numbers are
drawn on the CPU in float32, because generators differ between devices.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sdedit_pl.typing import Images

_WORD = 2**64


class Distribution(abc.ABC):
    """A distribution of noise, each pixel of mean 0 and variance 1: a frozen dataclass with an entry in `NOISES`."""

    @abc.abstractmethod
    def fill(self, images: Images, generator: torch.Generator | None = None) -> Images:
        """Overwrites images with independent draws; None takes the default generator of their device."""


@dataclass(frozen=True)
class Gaussian(Distribution):
    """Independent pixels, the noise of diffusion models."""

    def fill(self, images: Images, generator: torch.Generator | None = None) -> Images:
        return images.normal_(generator=generator)


@dataclass(frozen=True)
class Simplex(Distribution):
    """Octaves of gradient noise on a grid of triangles, a noise that hides large structures even at low noise levels.

    Each grid point has a random gradient g. The value of a pixel is the sum of (1/2 - r^2)^4 g.d over the corners of
    its triangle, at offsets d with |d| = r. Grids are shifted at random, so that all pixels have the same distribution.
    The solvers' formulas are those of Gaussian noise.

    Args:
        octaves: number of octaves.
        wavelength: side in pixels of the first octave's cells; each further octave halves it.
        persistence: amplitude of an octave relative to that of the one before.

    Source: Perlin, "Noise hardware", 2001 (grid); Wyatt et al., "AnoDDPM", CVPR Workshops 2022 (the defaults).
    """

    octaves: int = 6
    wavelength: float = 64.0
    persistence: float = 0.8

    def __post_init__(self) -> None:
        last = math.ldexp(self.wavelength, 1 - self.octaves)
        if self.octaves < 1 or not last >= 0.1 or not 0 < self.persistence <= 1:
            raise ValueError(
                "simplex noise needs at least 1 octave, cells of at least 0.1 pixels in the last, and a persistence in "
                f"(0, 1], got {self.octaves}, {last:g} and {self.persistence:g}; lower octaves or raise wavelength"
            )

    def fill(self, images: Images, generator: torch.Generator | None = None) -> Images:
        amplitudes = [self.persistence**octave for octave in range(self.octaves)]
        images.zero_()
        for octave, amplitude in enumerate(amplitudes):
            noise = _gradient_noise(images, self.wavelength / 2**octave, generator)
            images.add_(noise, alpha=amplitude / math.hypot(*amplitudes))
        return images


NOISES: dict[str, type[Distribution]] = {"gaussian": Gaussian, "simplex": Simplex}


def _gradient_noise(like: Images, side: float, generator: torch.Generator | None) -> Images:
    """One octave of unit variance in the shape of `like`; its triangles lie in skewed squares of `side` pixels."""
    (count, channels, height, width), options = like.shape, {"device": like.device, "dtype": torch.float32}
    skew, unskew = (math.sqrt(3) - 1) / 2, (3 - math.sqrt(3)) / 6
    y, x = (torch.arange(length, **options) / side for length in (height, width))
    shear = skew * (y[:, None] + x)
    edge = int((1 + skew) * (max(height, width) - 1) / side + skew * (min(height, width) - 1) / side) + 4
    shift = torch.rand(count, channels, 2, 1, 1, generator=generator, **options)
    place = torch.stack([y[:, None] + shear, x + shear]) + shift
    corner = place.floor()
    within = place - corner
    within = within - unskew * within.sum(2, keepdim=True)
    upper = within[:, :, :1] > within[:, :, 1:]
    middle = torch.cat([upper, ~upper], 2).float()
    angles = 2 * math.pi * torch.rand(count, channels, edge * edge, generator=generator, **options)
    noise = torch.zeros_like(like)
    for step, moved in ((torch.zeros_like(middle), 0), (middle, unskew), (torch.ones_like(middle), 2 * unskew)):
        d = within - step + moved
        rows, columns = (corner + step).long().unbind(2)
        angle = angles.gather(2, (rows * edge + columns).flatten(2)).view(rows.shape)
        slope = d[:, :, 0] * angle.sin() + d[:, :, 1] * angle.cos()
        noise += (0.5 - d.square().sum(2)).clamp(min=0).pow(4) * slope
    return noise * math.sqrt(184320 / (math.pi * math.sqrt(3)))  # 1 / standard deviation of the sum over all points


@runtime_checkable
class Noise(Protocol):
    """A source of noise of unit variance."""

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        """Draw `draw` of step `step`, in the shape, dtype and device of `like`."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """Noise from one seed in [0, 2^64) for each sample, in the order of the batch."""

    seeds: tuple[int, ...]
    distribution: Distribution

    def __init__(self, seeds: Sequence[int], distribution: Distribution | None = None) -> None:
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in seeds))
        object.__setattr__(self, "distribution", distribution or Gaussian())
        if not self.seeds or not all(0 <= seed < _WORD for seed in self.seeds):
            raise ValueError(f"seeds must be integers in [0, 2^64), one for each sample, got {list(self.seeds)}")

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        if len(like) != len(self.seeds):
            raise ValueError(f"{len(self.seeds)} seeds cannot noise a batch of {len(like)}; give one for each")
        return _moved(self.drawn(step, draw, host_buffer(like)), like)

    def drawn(self, step: int, draw: int, buffer: Tensor) -> Tensor:
        """Fills `buffer`, float32 on the CPU, with a draw and returns it; thread-safe."""
        for image, seed in zip(buffer.split(1), self.seeds, strict=True):
            self.distribution.fill(image, torch.Generator().manual_seed(hash64(seed, step, draw)))
        return buffer


class PrefetchedNoise:
    """Draws the noise of the next `ahead` steps in threads while the device computes the current one.

    Drawing the noise of a 256 px image takes over a millisecond, about as long as a GPU's step. Prefetching starts at
    the first draw, so that a solver without noise costs nothing, and covers draw 0 of each step. A context manager.
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
        if draw:
            return self._noise(step, draw, like)
        pending = self._pending.pop(step, None)
        images = self._noise(step, draw, like) if pending is None else _moved(pending.result(), like)
        for coming in range(step + 1, min(step + self._ahead, self._last_step) + 1):
            if coming not in self._pending:
                self._pending[coming] = self._threads.submit(self._noise.drawn, coming, 0, host_buffer(like))
        return images


def host_buffer(like: Images) -> Tensor:
    """Memory for a draw, float32 on the CPU, pinned for a GPU; not an inference tensor, which threads cannot fill."""
    with torch.inference_mode(False):
        return torch.empty(like.shape, dtype=torch.float32, pin_memory=like.device.type == "cuda")


def _moved(images: Tensor, like: Images) -> Images:
    return images.to(device=like.device, dtype=like.dtype, non_blocking=True)


class StepNoise:
    """The noise of one step of the time loop.

    `shared` is the step's z, drawn at first use, the same for solver and constraint (edited and kept pixels; SDEdit,
    Algorithms 3 and 5). `fresh()` draws anew. With `silent`, `shared` is zero, so that a step returns its mean.
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
        if self._shared is None:
            self._shared = torch.zeros_like(self._like) if self._silent else self._noise(self._step, 0, self._like)
        return self._shared

    def fresh(self) -> Images:
        self._draws += 1
        return self._noise(self._step, self._draws, self._like)


def hash64(*words: int) -> int:
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
