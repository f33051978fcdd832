"""Measures the cost of training: the loop, the step against other libraries, and recomputing.

python benchmarks/training.py out=outputs/training [parts=[loop,step,checkpointing]]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark_command import refuse_unknown, run_benchmark
from ceiling import ConvolutionsAlone, convolutions_of
from compared_networks import CASES, OURS, Case, NetworkResults
from measuring import Run, counted, in_turns, peak_memory
from speed_report import CEILING, training_report
from torch import nn
from tqdm import tqdm
from training_loop import measure_loops

from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.schema import Command

USAGE = "python benchmarks/training.py out=FOLDER [key=value ...]"
PARTS = ("loop", "step", "checkpointing")
LAYOUT = "channels last"


@dataclass(frozen=True, kw_only=True)
class Arguments(NetworkResults):
    """A measurement.

    Args:
        parts: some of loop, step and checkpointing.
        cases: networks compared in the part `step`, some of ncsnpp, ddpm and ddpm256; other parts take the first.
        config: training configuration of the part `loop`.
        loop_steps: training steps of a turn in the part `loop`.
    """

    parts: tuple[str, ...] = PARTS
    config: str = "configs/portraits64.yaml"
    loop_steps: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, loop_steps=1)
        refuse_unknown("parts", self.parts, PARTS)
        if not self.cases:
            raise ValueError(f"cases must name at least one of {', '.join(CASES)}")


COMMAND = Command(USAGE, Arguments)


def gradient_of(case: Case, library: str, layout: str, recompute: bool) -> tuple[nn.Module, Run]:
    """A network and a run of its gradient; with `recompute`, ours recomputes activations in the backward pass."""
    network = case.network(library, layout).train()
    if recompute:
        network.checkpoint_gradients = True
    images, label = case.inputs(layout)

    def gradient() -> None:
        network.zero_grad()
        (network(images, label) - images).square().mean().backward()

    return network, gradient


def step_of(case: Case, library: str, layout: str, recompute: bool = False) -> Run:
    """A training step with Adam."""
    network, gradient = gradient_of(case, library, layout, recompute)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)

    def step() -> None:
        gradient()
        optimizer.step()

    return step


def facts_of(case: Case, library: str, layout: str, recompute: bool = False) -> dict[str, int]:
    """Parameters, FLOPs and memory of a training step."""
    _, gradient = gradient_of(case, library, layout, recompute)
    return {
        "parameters": case.parameters(library),
        **counted(gradient)._asdict(),
        "process": peak_memory(step_of, case, library, layout, recompute),
    }


def measure_steps(case: Case, arguments: Arguments, bar: tqdm) -> dict[str, Any]:
    """Training steps of the libraries' networks, and of their convolutions alone."""
    alone = ConvolutionsAlone(convolutions_of(case.network(OURS, "contiguous"), *case.inputs("contiguous")))
    rows = case.rows(arguments.libraries)
    facts = {row: facts_of(case, *chosen) for row, chosen in rows.items()}
    runs = {row: step_of(case, *chosen) for row, chosen in rows.items()}
    seconds = in_turns({CEILING: alone.forward_and_backward, **runs}, arguments.rounds, bar.update)
    return {**case.described(), "seconds": seconds, "facts": facts | {CEILING: {"flops": 3 * alone.flops}}}


def measure_checkpointing(case: Case, arguments: Arguments, bar: tqdm) -> dict[str, Any]:
    """Our training step with activations kept and recomputed."""
    ways = {"kept": False, "recomputed": True}
    facts = {way: facts_of(case, OURS, LAYOUT, recompute) for way, recompute in ways.items()}
    runs = {way: step_of(case, OURS, LAYOUT, recompute) for way, recompute in ways.items()}
    return {**case.described(), "seconds": in_turns(runs, arguments.rounds, bar.update), "facts": facts}


def measure(arguments: Arguments) -> dict[str, Any]:
    """Raises ValueError for an invalid network or configuration, ModuleNotFoundError without a library."""
    cases = arguments.resized
    first = next(iter(cases.values()))
    numbers: dict[str, Any] = {}
    with tqdm(desc="timing", unit="run", disable=None) as bar:
        if "loop" in arguments.parts:
            numbers["loop"] = measure_loops(Path(arguments.config), arguments.loop_steps, arguments.rounds)
        if "step" in arguments.parts:
            numbers["cases"] = {name: measure_steps(case, arguments, bar) for name, case in cases.items()}
        if "checkpointing" in arguments.parts:
            numbers["checkpointing"] = measure_checkpointing(first, arguments, bar)
    return numbers


def main(words: list[str]) -> int:
    return run_benchmark(words, COMMAND, measure, training_report)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
