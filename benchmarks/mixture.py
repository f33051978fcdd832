"""Measures the error of every solver's edits on data whose exact score and exact edits are known.

    python benchmarks/mixture.py out=outputs/mixture

The data are small images from a mixture of Gaussians; like natural images, each varies in a few directions and hardly
in any other. The reverse SDE from a guide noised to t0 ends on a sample of p(x_0 | x_t0), which for a mixture is again
a mixture. The distance of a solver's edits to exact samples of it is therefore the error of the solver alone, without
that of a network. It is the sliced Wasserstein distance of order 2 in units of the image range, as root mean square
over random directions and guides; its floor is the distance of as many exact samples. A solver of the probability-flow
ODE converges to a different limit from the reverse SDE: it keeps properties of the guide that the SDE forgets.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from benchmark_command import Numbers, Results, run_benchmark
from jaxtyping import Float
from speed_report import table
from torch import Tensor, nn
from tqdm import tqdm

from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.schema import Command
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.editing import SDEdit
from sdedit_pl.grids import GRIDS
from sdedit_pl.noise import hash64
from sdedit_pl.parameterisations import Epsilon
from sdedit_pl.sde import SDE, VPSDE
from sdedit_pl.solvers import ERSDE, SOLVERS, Ancestral, Solver, UniPC
from sdedit_pl.typing import Images, Times, over_images

USAGE = "python benchmarks/mixture.py out=FOLDER [key=value ...]"
SHAPE = (1, 8, 8)
EXACT_PER_SAMPLE = 8
REFERENCE_STEPS = 500


@dataclass(frozen=True, kw_only=True)
class Arguments(Results):
    """A measurement.

    Args:
        t0: times that edits start from.
        evaluations: maximum numbers of denoiser evaluations of an edit.
        guides: number of guides.
        samples: number of edits of each guide.
        directions: number of directions of the sliced Wasserstein distance.
        modes: number of modes of the mixture.
        seed: seed of the data, the guides and the noise.
    """

    t0: tuple[float, ...] = (0.3, 0.45, 0.6)
    evaluations: tuple[int, ...] = (5, 10, 15, 20, 25, 50, 100)
    guides: int = 8
    samples: int = 512
    directions: int = 128
    modes: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(self, guides=1, samples=2, directions=1, modes=1)


@dataclass(frozen=True)
class BatchNoise:
    """Noise of a whole batch from one seed, the same for every solver."""

    seed: int

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        generator = torch.Generator().manual_seed(hash64(self.seed, step, draw))
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)


class LowRankMixture(Denoiser):
    """The exact denoiser of a mixture of equally likely Gaussians N(mean, deviation^2 I + spread^2 basis basis^T).

    Means and bases are smooth random images, from `seed`; bases are orthonormal, of the given rank.
    """

    def __init__(
        self, sde: SDE, modes: int, seed: int, rank: int = 4, spread: float = 0.8, deviation: float = 0.03
    ) -> None:
        super().__init__(nn.Identity(), Epsilon(), sde)
        generator = torch.Generator().manual_seed(hash64(seed, 1))

        def smooth(count: int) -> Tensor:
            coarse = torch.randn(count, SHAPE[0], 3, 3, generator=generator)
            return nn.functional.interpolate(coarse, SHAPE[1:], mode="bicubic", align_corners=True).flatten(1)

        self.mean = 0.5 * smooth(modes).clamp(-2, 2)
        self.basis = torch.linalg.qr(smooth(modes * rank).reshape(modes, rank, -1).mT).Q
        self.along, self.off = spread**2 + deviation**2, deviation**2
        self.calls = 0

    def posterior(self, x_t: Images, t: Times) -> tuple[Tensor, Tensor, Tensor]:
        """p(x_0 | x_t): probabilities (B, modes) and means (B, modes, dimensions) of the modes, and sigma / alpha."""
        level = self.sde.noise_level(t.reshape(-1, 1, 1))
        offset = (x_t / over_images(self.sde.alpha(t))).flatten(1)[:, None] - self.mean
        inner = torch.einsum("bmd,mdr->bmr", offset, self.basis)
        off, along = self.off + level.square(), self.along + level.square()
        energy = offset.square().sum(-1) / off[..., 0] + inner.square().sum(-1) * (1 / along - 1 / off)[..., 0]
        gains = self.off / off, self.along / along
        means = self.mean + gains[0] * offset
        means = means + torch.einsum("bmr,mdr->bmd", (gains[1] - gains[0]) * inner, self.basis)
        return (-energy / 2).softmax(-1), means, level

    def forward(self, x_t: Images, t: Times) -> Images:
        self.calls += 1
        probabilities, means, _ = self.posterior(x_t, t)
        return torch.einsum("bm,bmd->bd", probabilities, means).reshape(x_t.shape)

    def score(self, x_t: Images, t: Times) -> Images:
        return (over_images(self.sde.alpha(t)) * self(x_t, t) - x_t) / over_images(self.sde.sigma(t)).square()

    def sample_posterior(self, x_t: Images, t: Times, generator: torch.Generator) -> Images:
        """A sample of p(x_0 | x_t) for each state: the limit of the reverse SDE."""
        probabilities, means, level = self.posterior(x_t, t)
        chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        noise = torch.randn(means[:, 0].shape, generator=generator)
        mean, basis = means[torch.arange(len(x_t)), chosen], self.basis[chosen]
        off, along = (
            (prior * level[:, 0].square() / (prior + level[:, 0].square())).sqrt() for prior in (self.off, self.along)
        )
        inner = torch.einsum("bd,bdr->br", noise, basis)
        return (mean + off * noise + torch.einsum("br,bdr->bd", (along - off) * inner, basis)).reshape(x_t.shape)

    def crude_paintings(self, count: int, seed: int) -> Images:
        """Guides: images of the data reduced to three colours and four blocks per channel."""
        generator = torch.Generator().manual_seed(hash64(seed, 2))
        mode = torch.randint(len(self.mean), (count,), generator=generator)
        inner = math.sqrt(self.along) * torch.randn(count, self.basis.shape[-1], generator=generator)
        images = self.mean[mode] + torch.einsum("br,bdr->bd", inner, self.basis[mode])
        blocks = nn.functional.avg_pool2d(images.reshape(count, *SHAPE), SHAPE[1] // 2)
        return nn.functional.interpolate((1.25 * blocks).round().clamp(-1, 1) * 0.8, SHAPE[1:])


def exact_edits(
    denoiser: LowRankMixture, guides: Images, t0: float, samples: int, generator: torch.Generator
) -> Float[Tensor, "guides samples C H W"]:
    edits = []
    for guide in guides:
        t = torch.full((samples,), t0)
        noise = torch.randn(samples, *SHAPE, generator=generator)
        edits.append(denoiser.sample_posterior(denoiser.sde.perturb(guide.expand_as(noise), t, noise), t, generator))
    return torch.stack(edits)


def affordable(sde: SDE, t0: float, solver: Solver, grid: str, evaluations: int) -> SDEdit | None:
    """The edit with the most steps within `evaluations`; None if the solver or the grid refuses it."""
    steps = (evaluations - 1) // solver.evaluations_per_step + 1  # the last step takes one evaluation
    edit = SDEdit(t0, steps, solver=solver, grid=GRIDS[grid]())
    try:
        solver.initial_state(sde, edit.times(sde))
    except ValueError:
        return None
    return edit


def measure(arguments: Arguments) -> Numbers:
    """The distances of every solver on every grid, with those of exact edits and of long runs."""
    seed, samples = arguments.seed, arguments.samples
    denoiser = LowRankMixture(VPSDE(), arguments.modes, seed)
    guides = denoiser.crude_paintings(arguments.guides, seed)
    repeated, noise = guides.repeat_interleave(samples, 0), BatchNoise(hash64(seed, 4))
    solvers = {name: solver() for name, solver in SOLVERS.items()}
    solvers |= {"er_sde stages=2": ERSDE(stages=2), "unipc predictor_order=3": UniPC(predictor_order=3)}
    floors, references, distances = {}, {}, {}
    with tqdm(total=len(arguments.t0) * len(solvers) * len(GRIDS), desc="solvers", disable=None) as bar:
        for t0 in arguments.t0:
            generator = torch.Generator().manual_seed(hash64(seed, 3))
            directions = torch.randn(math.prod(SHAPE), arguments.directions, generator=generator)
            directions = directions / directions.norm(dim=0)

            def quantiles(edits: Tensor, directions: Tensor = directions) -> Tensor:
                return (edits.flatten(2) @ directions).sort(1).values

            exact = quantiles(exact_edits(denoiser, guides, t0, samples * EXACT_PER_SAMPLE, generator))
            exact = exact.unflatten(1, (samples, EXACT_PER_SAMPLE)).mean(2)

            def distance(edit: SDEdit, exact: Tensor = exact) -> float:
                edits = edit(denoiser, repeated, noise=noise).unflatten(0, (len(guides), samples))
                return (quantiles(edits) - exact).square().mean().sqrt().item()

            generator = torch.Generator().manual_seed(hash64(seed, 5))
            floor = quantiles(exact_edits(denoiser, guides, t0, samples, generator)) - exact
            floors[str(t0)] = floor.square().mean().sqrt().item()
            references[str(t0)] = {
                "Algorithm 4": distance(SDEdit(t0, REFERENCE_STEPS, variant="paper")),
                "ancestral": distance(SDEdit(t0, REFERENCE_STEPS, solver=Ancestral())),
            }
            found = distances.setdefault(str(t0), {})
            for name, solver in solvers.items():
                for grid in GRIDS:
                    for evaluations in arguments.evaluations:
                        edit = affordable(denoiser.sde, t0, solver, grid, evaluations)
                        if edit is not None:
                            denoiser.calls = 0
                            value = distance(edit)
                            assert denoiser.calls <= evaluations
                            found.setdefault(f"{name}, {grid}", {})[str(evaluations)] = value
                    bar.update()
    return {"floor": floors, f"reference_{REFERENCE_STEPS}_steps": references, "distance": distances}


def report(numbers: Mapping[str, Any]) -> str:
    counts = [str(count) for count in numbers["settings"]["evaluations"]]
    blocks = ["# Edits on a Gaussian mixture with its exact score"]
    blocks += [
        "Sliced Wasserstein distance to the exact edits, times 1000, by the number of evaluations; a cell is empty "
        "where the solver or the grid refuses so few."
    ]
    for t0, found in numbers["distance"].items():
        levels = {"exact edits": numbers["floor"][t0], **numbers[f"reference_{REFERENCE_STEPS}_steps"][t0]}
        blocks += [f"## t0 = {t0}", ", ".join(f"{name}: {1000 * value:.1f}" for name, value in levels.items())]
        rows = [
            [name, *(f"{1000 * values[count]:.1f}" if count in values else "" for count in counts)]
            for name, values in found.items()
        ]
        blocks += [table(["solver, grid", *counts], rows)]
    return "\n\n".join(blocks) + "\n"


def main(words: list[str]) -> int:
    return run_benchmark(words, Command(USAGE, Arguments), measure, report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
