"""How far every solver's edits are from the right ones, on data whose exact score and exact edits are known.

    python benchmarks/mixture.py out=outputs/mixture

The data are small images from a mixture of Gaussians, each a picture with a few directions that it varies in and next
to no noise off them, as natural images have. The reverse SDE that starts from a guide noised to t0 ends on a sample of
p(x_0 | x_t0): for a mixture a mixture again, which is drawn from without a solver. So the distance of a solver's edits
to the right ones is its own alone: no network's error is in it. Guides are crude paintings, off the data.

The distance is the sliced Wasserstein distance of order 2, in units of the image range along one direction of unit
length, averaged (as squares) over directions and guides. The floor is what as many exact samples have, so that nothing
lies below it but by chance. A solver of the probability-flow ODE has another limit than the reverse SDE: it keeps of
the guide what the SDE forgets.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from command import Numbers, run_benchmark
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.denoiser import Denoiser, Epsilon
from sdedit_pl.editing import SDEdit
from sdedit_pl.grids import GRIDS
from sdedit_pl.noise import mixed
from sdedit_pl.plots import line_plot
from sdedit_pl.sde import SDE, VPSDE
from sdedit_pl.solvers import ERSDE, SOLVERS, Solver, UniPC
from sdedit_pl.typing import Images, over_images

USAGE = "python benchmarks/mixture.py out=FOLDER [key=value ...]"
SHAPE = (1, 8, 8)
EXACT_PER_SAMPLE = 8
REFERENCE_STEPS = 500
PLOTTED = ("ancestral", "ddim", "dpm_solver_2m", "sde_dpm_solver_2m", "er_sde", "edm_heun")


@dataclass
class Arguments:
    """A measurement.

    Args:
        out: folder of the results.
        t0: how far guides are noised.
        evaluations: how often the denoiser may be called for an edit.
        guides: how many guides.
        samples: edits of each.
        directions: of the sliced Wasserstein distance.
        modes: of the mixture.
        seed: of the data, guides and noise.
        threads: of torch; null for its default.
        overwrite: replace earlier results.
    """

    out: str
    t0: tuple[float, ...] = (0.3, 0.45, 0.6)
    evaluations: tuple[int, ...] = (5, 10, 15, 20, 25, 50, 100)
    guides: int = 8
    samples: int = 512
    directions: int = 128
    modes: int = 5
    seed: int = 0
    threads: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, guides=1, samples=2, directions=1, modes=1)


COMMAND = Command(USAGE, Arguments)


@dataclass(frozen=True)
class Draws:
    """Noise for a whole batch from one seed, the same for every solver."""

    seed: int

    def __call__(self, step: int, draw: int, like: Images) -> Images:
        generator = torch.Generator().manual_seed(mixed(self.seed, step, draw))
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)


class MixtureDenoiser(Denoiser):
    """The exact denoiser of a mixture of evenly likely Gaussians N(mean, deviation^2 I + spread^2 basis basis^T).

    Args:
        sde: the SDE.
        mean: of each mode, (modes, dimensions).
        basis: orthonormal directions that a mode varies in, (modes, dimensions, rank).
        spread: the standard deviation along them.
        deviation: that along all directions.
    """

    def __init__(
        self,
        sde: SDE,
        mean: Float[Tensor, "modes dimensions"],
        basis: Float[Tensor, "modes dimensions rank"],
        spread: float = 0.8,
        deviation: float = 0.03,
    ) -> None:
        super().__init__(nn.Identity(), Epsilon(), sde)
        self.mean, self.basis = mean, basis
        self.along, self.off = spread**2 + deviation**2, deviation**2
        self.evaluations = 0

    @classmethod
    def of_smooth_images(cls, sde: SDE, modes: int, seed: int, rank: int = 4) -> MixtureDenoiser:
        """A mixture of smooth random images that vary smoothly."""
        generator = torch.Generator().manual_seed(mixed(seed, 1))

        def smooth(count: int) -> Tensor:
            coarse = torch.randn(count, SHAPE[0], 3, 3, generator=generator)
            return nn.functional.interpolate(coarse, SHAPE[1:], mode="bicubic", align_corners=True).flatten(1)

        mean = 0.5 * smooth(modes).clamp(-2, 2)
        basis = torch.linalg.qr(smooth(modes * rank).reshape(modes, rank, -1).mT).Q
        return cls(sde, mean, basis)

    def posterior(self, x_t: Images, t: Float[Tensor, "B"]) -> tuple[Tensor, Tensor, Tensor]:
        """p(x_0 | x_t): the modes' probabilities (B, modes), their means (B, modes, dimensions), and sigma / alpha."""
        level = self.sde.noise_level(t)[:, None, None]
        offset = (x_t / over_images(self.sde.alpha(t))).flatten(1)[:, None] - self.mean
        inner = torch.einsum("bmd,mdr->bmr", offset, self.basis)
        off, along = self.off + level.square(), self.along + level.square()
        energy = offset.square().sum(-1, keepdim=True) / off + inner.square().sum(-1, keepdim=True) * (
            1 / along - 1 / off
        )
        gains = self.off / off, self.along / along
        means = self.mean + gains[0] * offset
        means = means + torch.einsum("bmr,mdr->bmd", (gains[1] - gains[0]) * inner, self.basis)
        return (-energy[..., 0] / 2).softmax(-1), means, level

    def forward(self, x_t: Images, t: Float[Tensor, "B"]) -> Images:
        self.evaluations += 1
        probabilities, means, _ = self.posterior(x_t, t)
        return torch.einsum("bm,bmd->bd", probabilities, means).reshape(x_t.shape)

    def score(self, x_t: Images, t: Float[Tensor, "B"]) -> Images:
        return (over_images(self.sde.alpha(t)) * self(x_t, t) - x_t) / over_images(self.sde.sigma(t)).square()

    def sample_posterior(self, x_t: Images, t: Float[Tensor, "B"], generator: torch.Generator) -> Images:
        """What the reverse SDE makes of each state: a sample of p(x_0 | x_t)."""
        probabilities, means, level = self.posterior(x_t, t)
        chosen = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
        everywhere = torch.randn(means[:, 0].shape, generator=generator)
        mean, basis = means[torch.arange(len(x_t)), chosen], self.basis[chosen]
        variances = [prior * level[:, 0].square() / (prior + level[:, 0].square()) for prior in (self.off, self.along)]
        inner = torch.einsum("bd,bdr->br", everywhere, basis)
        noise = variances[0].sqrt() * everywhere
        noise = noise + torch.einsum("br,bdr->bd", (variances[1].sqrt() - variances[0].sqrt()) * inner, basis)
        return (mean + noise).reshape(x_t.shape)

    def crude_paintings(self, count: int, seed: int) -> Images:
        """Guides: images of the data in three colours and four blocks a channel."""
        generator = torch.Generator().manual_seed(mixed(seed, 2))
        mode = torch.randint(len(self.mean), (count,), generator=generator)
        inner = math.sqrt(self.along) * torch.randn(count, self.basis.shape[-1], generator=generator)
        images = self.mean[mode] + torch.einsum("br,bdr->bd", inner, self.basis[mode])
        blocks = nn.functional.avg_pool2d(images.reshape(count, *SHAPE), SHAPE[1] // 2)
        return nn.functional.interpolate((1.25 * blocks).round().clamp(-1, 1) * 0.8, SHAPE[1:])


@dataclass(frozen=True)
class RightEdits:
    """What edits are compared with.

    Args:
        directions: unit vectors, (dimensions, directions).
        quantiles: of the right edits of each guide along each direction, (guides, samples, directions), ascending.
    """

    directions: Float[Tensor, "dimensions directions"]
    quantiles: Float[Tensor, "guides samples directions"]

    @classmethod
    def of(cls, denoiser: MixtureDenoiser, guides: Images, t0: float, config: Mapping[str, Any]) -> RightEdits:
        """The right edits, from several times as many samples as edits are compared with them."""
        generator = torch.Generator().manual_seed(mixed(config["seed"], 3))
        directions = torch.randn(math.prod(SHAPE), config["directions"], generator=generator)
        directions = directions / directions.norm(dim=0)
        exact = exact_edits(denoiser, guides, t0, config["samples"] * EXACT_PER_SAMPLE, generator)
        ordered = (exact.flatten(2) @ directions).sort(1).values
        return cls(directions, ordered.unflatten(1, (config["samples"], EXACT_PER_SAMPLE)).mean(2))

    def distance(self, edits: Float[Tensor, "guides samples C H W"]) -> float:
        """The sliced Wasserstein distance to `edits`."""
        ordered = (edits.flatten(2) @ self.directions).sort(1).values
        return (ordered - self.quantiles).square().mean().sqrt().item()


def exact_edits(
    denoiser: MixtureDenoiser, guides: Images, t0: float, samples: int, generator: torch.Generator
) -> Float[Tensor, "guides samples C H W"]:
    """Samples of the right edits of each guide."""
    made = []
    for guide in guides:
        t = torch.full((samples,), t0)
        noise = torch.randn(samples, *SHAPE, generator=generator)
        made.append(denoiser.sample_posterior(denoiser.sde.perturb(guide.expand_as(noise), t, noise), t, generator))
    return torch.stack(made)


def all_solvers() -> dict[str, Solver]:
    """Every solver with its defaults, and the other orders of those that have several."""
    return {name: solver() for name, solver in SOLVERS.items()} | {
        "er_sde stages=2": ERSDE(stages=2),
        "unipc predictor_order=3": UniPC(predictor_order=3),
    }


def affordable(sde: SDE, t0: float | str, solver: Solver, grid: str, evaluations: int) -> SDEdit | None:
    """The edit with most steps that calls the denoiser at most so often; None where solver or grid refuse it."""
    steps = (evaluations - 1) // solver.evaluations_per_step + 1  # the last step calls it once
    edit = SDEdit(t0, steps, solver=solver, grid=GRIDS[grid]())
    try:
        solver.initial_state(sde, edit.times(sde))
    except ValueError:
        return None
    return edit


def measure(config: Mapping[str, Any]) -> Numbers:
    """The distances of every solver on every grid."""
    denoiser = MixtureDenoiser.of_smooth_images(VPSDE(), config["modes"], config["seed"])
    guides = denoiser.crude_paintings(config["guides"], config["seed"])
    repeated = guides.repeat_interleave(config["samples"], 0)
    noise = Draws(mixed(config["seed"], 4))
    solvers, distances, floors, references = all_solvers(), {}, {}, {}
    with tqdm(total=len(config["t0"]) * len(solvers) * len(GRIDS), desc="solvers", disable=None) as bar:
        for t0 in config["t0"]:
            right = RightEdits.of(denoiser, guides, t0, config)

            def distance(edit: SDEdit, right: RightEdits = right) -> float:
                edits = edit(denoiser, repeated, noise=noise)
                return right.distance(edits.unflatten(0, (config["guides"], config["samples"])))

            generator = torch.Generator().manual_seed(mixed(config["seed"], 5))
            floors[str(t0)] = right.distance(exact_edits(denoiser, guides, t0, config["samples"], generator))
            references[str(t0)] = {
                "Algorithm 4": distance(SDEdit(t0, REFERENCE_STEPS, variant="paper")),
                "ancestral": distance(SDEdit(t0, REFERENCE_STEPS, solver=SOLVERS["ancestral"]())),
            }
            found = distances.setdefault(str(t0), {})
            for name, solver in solvers.items():
                for grid in GRIDS:
                    for evaluations in config["evaluations"]:
                        edit = affordable(denoiser.sde, t0, solver, grid, evaluations)
                        if edit is None:
                            continue
                        denoiser.evaluations = 0
                        value = distance(edit)
                        assert denoiser.evaluations <= evaluations
                        found.setdefault(name, {}).setdefault(grid, {})[str(evaluations)] = value
                    bar.update()
    return {
        "floor": floors,
        f"reference_{REFERENCE_STEPS}_steps": references,
        "stochastic": {name: solver.stochastic for name, solver in solvers.items()},
        "distance": distances,
    }


def best(found: Mapping[str, Any], evaluations: str, count: int = 3) -> list[tuple[float, str]]:
    """The smallest distances at so many evaluations, with what they belong to."""
    entries = [
        (values[evaluations], f"{solver}, {grid}")
        for solver, grids in found.items()
        for grid, values in grids.items()
        if evaluations in values
    ]
    return sorted(entries)[:count]


def report(numbers: Numbers) -> str:
    """The tables."""
    evaluations = [str(count) for count in numbers["settings"]["evaluations"]]
    lines = ["# Edits on a Gaussian mixture with its exact score", ""]
    lines += ["Sliced Wasserstein distance to the exact edits, times 1000. Lower is better.", ""]
    lines += ["| t0 | floor | Algorithm 4, 500 | ancestral, 500 | evaluations | best | second | third |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for t0, found in numbers["distance"].items():
        references = numbers[f"reference_{REFERENCE_STEPS}_steps"][t0]
        levels = [f"{1000 * value:.1f}" for value in (numbers["floor"][t0], *references.values())]
        for count in evaluations:
            winners = [f"{name}: {1000 * value:.1f}" for value, name in best(found, count)]
            lines.append(f"| {t0} | {' | '.join(levels)} | {count} | {' | '.join(winners)} |")
    for t0, found in numbers["distance"].items():
        lines += ["", f"## t0 = {t0}", "", f"| solver | grid | {' | '.join(evaluations)} |"]
        lines += ["|---|---|" + "---|" * len(evaluations)]
        for solver, grids in found.items():
            for grid, values in grids.items():
                row = [f"{1000 * values[count]:.1f}" if count in values else "" for count in evaluations]
                lines.append(f"| {solver} | {grid} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def plot(numbers: Numbers, folder: Path) -> None:
    """One picture for each t0: some solvers, each on its best grid at every number of evaluations."""
    for t0, found in numbers["distance"].items():
        curves = {}
        for solver in PLOTTED:
            least: dict[int, float] = {}
            for values in found[solver].values():
                for count, value in values.items():
                    least[int(count)] = min(value, least.get(int(count), math.inf))
            curves[solver] = [(count, 1000 * value) for count, value in sorted(least.items())]
        picture = line_plot(
            curves,
            title=f"Edits on a Gaussian mixture, t0 = {t0}",
            x_title="evaluations",
            y_title="sliced Wasserstein distance x 1000",
            levels={"exact edits": 1000 * numbers["floor"][t0]},
            logarithmic=True,
        )
        picture.save(folder / f"mixture_t0_{t0}.png")


if __name__ == "__main__":
    raise SystemExit(run_benchmark(sys.argv[1:], COMMAND, measure, report, plot))
