"""Measures what training costs: the loop, the step against other libraries, recomputing, and a second process.

    python benchmarks/training.py out=outputs/training

Four parts, each of which can be run alone, as in parts=[step]: `loop`, `step`, `checkpointing`, `processes`. `--help`
lists the keys; benchmarks/README.md says what is measured, and why so.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ceiling import ConvolutionsAlone, convolutions_of
from command import refuse_unknown, run_benchmark
from compared import CASES, LIBRARIES, OURS, Case
from distributed import images_a_second
from loops import measure_loops
from measuring import Run, counted, in_turns, peak_memory
from speed_report import CEILING, plot_cases, training_report
from torch import nn
from tqdm import tqdm

from sdedit_pl.configuration import require_at_least
from sdedit_pl.configuration.command_line import Command

USAGE = "python benchmarks/training.py out=FOLDER [key=value ...]"
PARTS = ("loop", "step", "checkpointing", "processes")
LAYOUT = "channels last"


@dataclass
class Arguments:
    """A measurement.

    Args:
        out: folder of the results.
        parts: of loop, step, checkpointing and processes.
        cases: networks that the part `step` compares, of ncsnpp, ddpm and ddpm256; other parts take the first.
        libraries: whose.
        rounds: how often each is timed.
        config: training configuration of the part `loop`.
        loop_steps: training steps of a turn in the part `loop`.
        process_steps: training steps of a turn in the part `processes`.
        threads: of torch; null for as many as it takes by itself.
        channels: width of the networks in place of the published one.
        size: height and width of images in place of the published one.
        batch: images at once in place of the usual number.
        overwrite: replace earlier results.
    """

    out: str
    parts: tuple[str, ...] = PARTS
    cases: tuple[str, ...] = ("ncsnpp", "ddpm")
    libraries: tuple[str, ...] = LIBRARIES
    rounds: int = 8
    config: str = "configs/portraits64.yaml"
    loop_steps: int = 25
    process_steps: int = 2
    threads: int | None = None
    channels: int | None = None
    size: int | None = None
    batch: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        counts = {"loop_steps": 1, "process_steps": 1, "threads": 1, "channels": 1, "size": 1, "batch": 1}
        require_at_least(self, rounds=1, **counts)
        refuse_unknown("parts", self.parts, PARTS)
        refuse_unknown("cases", self.cases, CASES)
        refuse_unknown("libraries", self.libraries, LIBRARIES)
        if not self.cases:
            raise ValueError(f"cases must name at least one of {', '.join(CASES)}")


COMMAND = Command(USAGE, Arguments)


def gradient_of(case: Case, network: nn.Module, layout: str) -> Run:
    """The forward and backward pass of a training step."""
    images, label = case.inputs(layout)

    def gradient() -> None:
        network.zero_grad()
        (network(images, label) - images).square().mean().backward()

    return gradient


def step_of(case: Case, library: str, layout: str, recompute: bool = False) -> Run:
    """A training step with Adam, of which the first is done.

    Args:
        case: the networks.
        library: whose.
        layout: of memory.
        recompute: whether our network recomputes activations in the backward pass.
    """
    network = case.network(library, layout).train()
    if recompute:
        network.checkpoint_gradients = True
    gradient = gradient_of(case, network, layout)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)

    def step() -> None:
        gradient()
        optimizer.step()

    return step


def facts_of(case: Case, library: str, layout: str, recompute: bool = False) -> dict[str, int]:
    """Parameters, FLOPs and memory of a training step."""
    network = case.network(library, layout).train()
    if recompute:
        network.checkpoint_gradients = True
    gradient = gradient_of(case, network, layout)
    return {
        "parameters": case.parameters(library),
        **counted(gradient)._asdict(),
        "process": peak_memory(step_of, case, library, layout, recompute),
    }


def measure_steps(case: Case, config: Mapping[str, Any], bar: tqdm) -> dict[str, Any]:
    """Training steps of the libraries, and their convolutions alone."""
    alone = ConvolutionsAlone(convolutions_of(case.network(OURS, "contiguous"), *case.inputs("contiguous")))
    rows = case.rows(config["libraries"])
    facts = {row: facts_of(case, *chosen) for row, chosen in rows.items()}
    runs = {row: step_of(case, *chosen) for row, chosen in rows.items()}
    seconds = in_turns({CEILING: alone.forward_and_backward, **runs}, config["rounds"], bar.update)
    return {**case.described(), "seconds": seconds, "facts": facts | {CEILING: {"flops": 3 * alone.flops}}}


def measure_checkpointing(case: Case, config: Mapping[str, Any], bar: tqdm) -> dict[str, Any]:
    """Our training step with activations kept and recomputed."""
    ways = {"kept": False, "recomputed": True}
    facts = {way: facts_of(case, OURS, LAYOUT, recompute) for way, recompute in ways.items()}
    runs = {way: step_of(case, OURS, LAYOUT, recompute) for way, recompute in ways.items()}
    return {**case.described(), "seconds": in_turns(runs, config["rounds"], bar.update), "facts": facts}


def measure_processes(case: Case, config: Mapping[str, Any], bar: tqdm) -> dict[str, Any]:
    """Images a second of one process on all cores and of two on half of them each, in turns.

    Raises:
        ValueError: a batch or a number of threads that two processes cannot share.
    """
    threads = torch.get_num_threads()
    if case.batch % 2 or threads % 2:
        raise ValueError(f"two processes share a batch of {case.batch} and {threads} threads; make both even")
    rates: dict[str, list[float]] = {"one process": [], "two processes": []}
    for _ in range(config["rounds"]):
        for world, name in enumerate(rates, start=1):
            rates[name].append(images_a_second(case, world, threads // world, config["process_steps"]))
            bar.update()
    return {**case.described(), "threads": threads, "rates": rates}


def measure(config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of all parts.

    Raises:
        ValueError: networks or a training configuration that cannot be built.
        ModuleNotFoundError: a library that is not installed.
    """
    resizing = {key: config[key] for key in ("channels", "size", "batch")}
    cases = {name: CASES[name].resized(**resizing) for name in config["cases"]}
    first = next(iter(cases.values()))
    numbers: dict[str, Any] = {}
    with tqdm(desc="timing", unit="run", disable=None) as bar:
        if "loop" in config["parts"]:
            numbers["loop"] = measure_loops(Path(config["config"]), config["loop_steps"], config["rounds"])
        if "step" in config["parts"]:
            numbers["cases"] = {name: measure_steps(case, config, bar) for name, case in cases.items()}
        if "checkpointing" in config["parts"]:
            numbers["checkpointing"] = measure_checkpointing(first, config, bar)
        if "processes" in config["parts"]:
            numbers["processes"] = measure_processes(first, config, bar)
    return numbers


def main(arguments: list[str]) -> int:
    """Runs the measurement and returns the exit code."""
    return run_benchmark(arguments, COMMAND, measure, training_report, plot_cases)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
