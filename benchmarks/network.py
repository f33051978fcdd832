"""Measures the time and memory of a network's forward pass, and the overhead of the time loop.

python benchmarks/network.py out=outputs/network
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from benchmark_command import refuse_unknown, run_benchmark
from ceiling import ConvolutionsAlone, convolutions_of
from compared_networks import DIFFUSERS, OURS, Case, NetworkResults
from measuring import Run, counted, in_turns, peak_memory
from speed_report import CEILING, network_report
from torch import Tensor, nn
from tqdm import tqdm

from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.schema import Command
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.grids import Uniform
from sdedit_pl.noise import SeededNoise
from sdedit_pl.parameterisations import Epsilon
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import VPSDE
from sdedit_pl.solvers import SOLVERS
from sdedit_pl.typing import Images, Times

USAGE = "python benchmarks/network.py out=FOLDER [key=value ...]"


@dataclass(frozen=True, kw_only=True)
class Arguments(NetworkResults):
    """A measurement.

    Args:
        solver: the solver whose time loop is measured.
        steps: number of its steps.
    """

    cases: tuple[str, ...] = ("ncsnpp", "ddpm256")
    libraries: tuple[str, ...] = (OURS, DIFFUSERS)
    rounds: int = 10
    solver: str = "ancestral"
    steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, steps=1)
        refuse_unknown("solver", (self.solver,), SOLVERS)


COMMAND = Command(USAGE, Arguments)


class Nothing(nn.Module):
    """A network without cost."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images: Images, label: Times) -> Tensor:
        return images


def forward_of(case: Case, library: str, layout: str) -> Run:
    network = case.network(library, layout).eval()
    images, label = case.inputs(layout)

    def forward() -> None:
        with torch.no_grad():
            network(images, label)

    return forward


def measure_case(case: Case, arguments: Arguments, bar: tqdm) -> dict[str, Any]:
    """Times, FLOPs and memory of a case's networks and of their convolutions alone."""
    alone = ConvolutionsAlone(convolutions_of(case.network(OURS, "contiguous"), *case.inputs("contiguous")))
    rows = case.rows(arguments.libraries)
    runs = {row: forward_of(case, *chosen) for row, chosen in rows.items()}
    facts = {
        row: {
            "parameters": case.parameters(library),
            **counted(runs[row])._asdict(),
            "process": peak_memory(forward_of, case, library, layout),
        }
        for row, (library, layout) in rows.items()
    }
    seconds = in_turns({CEILING: alone.forward, **runs}, arguments.rounds, bar.update)
    loop = measure_loop(case, arguments, bar)
    return {**case.described(), "seconds": seconds, "facts": facts | {CEILING: {"flops": alone.flops}}, "loop": loop}


def measure_loop(case: Case, arguments: Arguments, bar: tqdm) -> dict[str, Any]:
    """Times of the time loop with our network, of its network calls alone, and of the loop without a network."""
    images, label = case.inputs("channels last")
    network = case.network(OURS, "channels last").eval()
    solver, sde = SOLVERS[arguments.solver](), VPSDE()
    times = Uniform().times(sde, 0.5, arguments.steps)
    noise = SeededNoise(range(case.batch))
    calls = (arguments.steps - 1) * solver.evaluations_per_step + 1  # the last step is one estimate of x_0

    def bare() -> None:
        with torch.no_grad():
            for _ in range(calls):
                network(images, label)

    def loop_over(network: nn.Module) -> Run:
        return partial(integrate, Denoiser(network, Epsilon(), sde), solver, images, times, noise=noise)

    runs = {"bare calls": bare, "integrate": loop_over(network), "integrate, no network": loop_over(Nothing())}
    return {"calls": calls, "seconds": in_turns(runs, arguments.rounds, bar.update)}


def measure(arguments: Arguments) -> dict[str, Any]:
    """Raises ValueError for a width or size that no network can have, ModuleNotFoundError without a library."""
    with tqdm(desc="timing", unit="run", disable=None) as bar:
        found = {name: measure_case(case, arguments, bar) for name, case in arguments.resized.items()}
    return {"cases": found}


def main(words: list[str]) -> int:
    return run_benchmark(words, COMMAND, measure, network_report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
