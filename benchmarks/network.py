"""Measures how fast networks are and what memory they need, and what the time loop adds to them.

    python benchmarks/network.py out=outputs/network

Our NCSN++ and DDPM U-Net at published sizes against those of diffusers, beside the 3 x 3 convolutions that they consist
of. `--help` lists the keys; benchmarks/README.md says what is measured, and why so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from ceiling import ConvolutionsAlone, convolutions_of
from command import refuse_unknown, run_benchmark
from compared import CASES, DIFFUSERS, LIBRARIES, OURS, Case
from measuring import Run, counted, in_turns, peak_memory
from speed_report import CEILING, network_report, plot_cases
from torch import Tensor, nn
from tqdm import tqdm

from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.denoiser import Denoiser, Epsilon
from sdedit_pl.grids import Uniform
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.sde import VPSDE
from sdedit_pl.solvers import SOLVERS
from sdedit_pl.typing import Images, Times

USAGE = "python benchmarks/network.py out=FOLDER [key=value ...]"


@dataclass
class Arguments:
    """A measurement.

    Args:
        out: folder of the results.
        cases: which networks, of ncsnpp, ddpm and ddpm256.
        libraries: whose.
        rounds: how often each is timed.
        solver: the solver whose time loop is measured.
        steps: its steps.
        threads: of torch; null for as many as it takes by itself.
        channels: width of the networks in place of the published one.
        size: height and width of images in place of the published one.
        batch: images at once in place of the usual number.
        overwrite: replace earlier results.
    """

    out: str
    cases: tuple[str, ...] = ("ncsnpp", "ddpm256")
    libraries: tuple[str, ...] = (OURS, DIFFUSERS)
    rounds: int = 10
    solver: str = "ancestral"
    steps: int = 5
    threads: int | None = None
    channels: int | None = None
    size: int | None = None
    batch: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_at_least(self, rounds=1, steps=1, threads=1, channels=1, size=1, batch=1)
        refuse_unknown("cases", self.cases, CASES)
        refuse_unknown("libraries", self.libraries, LIBRARIES)
        refuse_unknown("solvers", (self.solver,), SOLVERS)


COMMAND = Command(USAGE, Arguments)


class Nothing(nn.Module):
    """A network that costs nothing: it returns its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, images: Images, label: Times) -> Tensor:
        """Returns `images`."""
        return images


def forward_of(case: Case, library: str, layout: str) -> Run:
    """A forward pass in evaluation mode."""
    network = case.network(library, layout).eval()
    images, label = case.inputs(layout)

    def forward() -> None:
        with torch.no_grad():
            network(images, label)

    return forward


def measure_case(case: Case, config: Mapping[str, Any], bar: tqdm) -> dict[str, Any]:
    """Times, FLOPs and memory of a case's networks, and of their convolutions alone."""
    alone = ConvolutionsAlone(convolutions_of(case.network(OURS, "contiguous"), *case.inputs("contiguous")))
    rows = case.rows(config["libraries"])
    runs = {row: forward_of(case, *chosen) for row, chosen in rows.items()}
    facts = {
        row: {
            "parameters": case.parameters(library),
            **counted(runs[row])._asdict(),
            "process": peak_memory(forward_of, case, library, layout),
        }
        for row, (library, layout) in rows.items()
    }
    seconds = in_turns({CEILING: alone.forward, **runs}, config["rounds"], bar.update)
    loop = measure_loop(case, config, bar)
    return {**case.described(), "seconds": seconds, "facts": facts | {CEILING: {"flops": alone.flops}}, "loop": loop}


def measure_loop(case: Case, config: Mapping[str, Any], bar: tqdm) -> dict[str, Any]:
    """Times of the time loop over our network, of the bare network calls, and of the loop over a network of no cost."""
    images, label = case.inputs("channels last")
    network = case.network(OURS, "channels last").eval()
    solver, sde = SOLVERS[config["solver"]](), VPSDE()
    times = Uniform().times(sde, 0.5, config["steps"])
    noise = SeededNoise(range(case.batch))
    calls = (config["steps"] - 1) * solver.evaluations_per_step + 1  # the last step is one estimate of x_0

    def bare() -> None:
        with torch.no_grad():
            for _ in range(calls):
                network(images, label)

    def loop_over(network: nn.Module) -> Run:
        return partial(integrate, Denoiser(network, Epsilon(), sde), solver, images, times, noise=noise)

    runs = {"bare calls": bare, "integrate": loop_over(network), "integrate, no network": loop_over(Nothing())}
    return {"calls": calls, "seconds": in_turns(runs, config["rounds"], bar.update)}


def measure(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of all cases.

    Raises:
        ValueError: networks that cannot be built at the given width and size.
        ModuleNotFoundError: a library that is not installed.
    """
    resizing = {key: config[key] for key in ("channels", "size", "batch")}
    with tqdm(desc="timing", unit="run", disable=None) as bar:
        cases = {name: measure_case(CASES[name].resized(**resizing), config, bar) for name in config["cases"]}
    return {"cases": cases}


def main(arguments: list[str]) -> int:
    """Runs the measurement and returns the exit code."""
    return run_benchmark(arguments, COMMAND, measure, network_report, plot_cases)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
