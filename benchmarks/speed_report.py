"""The tables and the picture of the benchmarks of speed, from their numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compared import DIFFUSERS, OURS
from measuring import Spread, ratio

from sdedit_pl.plots import bar_plot

CEILING = "3x3 convolutions alone"
PLOT_FILE = "ceiling.png"
LEGEND = f"""\
Times are medians over the rounds, ratios medians of the ratio within a round, quartiles in brackets. GFLOP are those of
matrix products and convolutions, a multiplication and an addition each. "Of the ceiling" is the rate over that of
"{CEILING}". Memory is what the run adds at its worst moment to a loaded network: of tensors, and of
the process."""

Numbers = Mapping[str, Any]


def network_report(numbers: Numbers) -> str:
    """The numbers of `network.py` as Markdown."""
    blocks = ["# Networks: time and memory of a forward pass", environment(numbers), LEGEND]
    for case in numbers["cases"].values():
        blocks += [heading(case), case_table(case), against_goals(case), loop_line(case["loop"])]
    return "\n\n".join(blocks) + "\n"


def training_report(numbers: Numbers) -> str:
    """The numbers of `training.py` as Markdown, of those parts that were run."""
    blocks = ["# Training: time and memory of a step", environment(numbers)]
    if "loop" in numbers:
        blocks += ["## The loop", loops_line(numbers["loop"])]
    if "cases" in numbers:
        blocks += ["## The step", f"{LEGEND} It holds the gradients; that of the process also Adam's two moments."]
        for case in numbers["cases"].values():
            blocks += [heading(case, "###"), case_table(case), against_goals(case)]
    if "checkpointing" in numbers:
        blocks += ["## Recomputing activations", checkpointing_table(numbers["checkpointing"])]
    if "processes" in numbers:
        blocks += ["## Two processes", processes_line(numbers["processes"])]
    return "\n\n".join(blocks) + "\n"


def environment(numbers: Numbers) -> str:
    """What was measured with what."""
    rounds = numbers["settings"]["rounds"]
    return f"{rounds} rounds; " + ", ".join(f"{key} {value}" for key, value in numbers["machine"].items()) + "."


def heading(case: Numbers, level: str = "##") -> str:
    """The title of a case."""
    return f"{level} {case['title']}, {case['batch']} x {case['size']} px, width {case['channels']}"


def case_table(case: Numbers) -> str:
    """A row for each network and for the convolutions alone."""
    seconds, rows = case["seconds"], []
    reference = fastest(case, DIFFUSERS)
    for name, facts in case["facts"].items():
        time = Spread.of(seconds[name])
        rows.append(
            [
                name,
                f"{facts['parameters'] / 1e6:.1f}" if "parameters" in facts else "",
                f"{facts['flops'] / 1e9:.1f}",
                shown(time, 1e3, ".1f"),
                "" if reference is None else shown(ratio(seconds, name, reference), 1, ".3f"),
                f"{facts['flops'] / time.median / 1e9:.1f}",
                shown(of_ceiling(case, name), 1, ".3f"),
                *(f"{facts[kind] / 1e6:.0f}" if kind in facts else "" for kind in ("tensors", "process")),
            ]
        )
    head = [
        "",
        "parameters, M",
        "GFLOP",
        "ms",
        f"over {reference}",
        "GFLOP/s",
        "of the ceiling",
        "tensors, MB",
        "process, MB",
    ]
    return table(head, rows)


def fastest(case: Numbers, library: str) -> str | None:
    """The row of a library with the least median time, if it has one."""
    rows = [name for name in case["seconds"] if name.startswith(f"{library},")]
    return min(rows, key=lambda name: Spread.of(case["seconds"][name]).median, default=None)


def of_ceiling(case: Numbers, name: str) -> Spread:
    """The rate of a row as a share of that of the convolutions alone."""
    work = case["facts"][name]["flops"] / case["facts"][CEILING]["flops"]
    inverse = ratio(case["seconds"], CEILING, name)
    return Spread(*(work * value for value in inverse))


def against_goals(case: Numbers) -> str:
    """Our fastest row against the fastest of diffusers and the ceiling, in a sentence."""
    ours, other = fastest(case, OURS), fastest(case, DIFFUSERS)
    if ours is None:
        return "This package was not measured."
    share = f"{ours}: {shown(of_ceiling(case, ours), 1, '.3f')} of the ceiling"
    if other is None:
        return f"{share}."
    facts = case["facts"]
    memory = {kind: facts[ours][kind] / facts[other][kind] for kind in ("tensors", "process")}
    weights = 4 * facts[ours]["parameters"], 4 * facts[other]["parameters"]
    whole = (facts[ours]["process"] + weights[0]) / (facts[other]["process"] + weights[1])
    return (
        f"{share}; {shown(ratio(case['seconds'], ours, other), 1, '.3f')} of the time of {other}, and of its memory "
        f"{memory['tensors']:.2f} (tensors), {memory['process']:.2f} (process), {whole:.2f} (process with weights)."
    )


def loop_line(loop: Numbers) -> str:
    """What the time loop costs, in a sentence."""
    seconds = loop["seconds"]
    own = Spread.of([time / loop["calls"] for time in seconds["integrate, no network"]])
    share = ratio(seconds, "integrate, no network", "bare calls")
    whole = ratio(seconds, "integrate", "bare calls")
    return (
        f"`integrate` without a network: {shown(own, 1e3, '.3f')} ms an evaluation, {shown(share, 100, '.2f')} % of "
        f"the bare network calls; with it, {shown(whole, 1, '.4f')} of their time."
    )


def loops_line(loop: Numbers) -> str:
    """Lightning's loop against a bare one, in a sentence."""
    seconds = loop["seconds"]
    speed = ratio(seconds, "bare loop", "Lightning")
    steps = {name: Spread.of(seconds[name]) for name in seconds}
    return (
        f"`{loop['config']}`, batches of {loop['batch']}, {loop['precision']}, turns of {loop['steps']} steps: "
        f"{shown(steps['Lightning'], 1e3, '.1f')} ms a step with the data pipeline, "
        f"{shown(steps['bare loop'], 1e3, '.1f')} ms bare: {shown(speed, 1, '.3f')} of the bare loop's speed."
    )


def checkpointing_table(case: Numbers) -> str:
    """Time and memory with activations kept and recomputed."""
    rows = []
    for name, facts in case["facts"].items():
        time, cost = Spread.of(case["seconds"][name]), ratio(case["seconds"], name, "kept")
        sizes = [f"{facts[kind] / 1e6:.0f}" for kind in ("tensors", "process")]
        rows.append([name, shown(time, 1e3, ".1f"), shown(cost, 1, ".3f"), *sizes])
    return heading(case, "###") + "\n\n" + table(["activations", "ms", "over kept", "tensors, MB", "process, MB"], rows)


def processes_line(found: Numbers) -> str:
    """Two processes against one, in a sentence."""
    one, two = (shown(Spread.of(found["rates"][name]), 1, ".2f") for name in ("one process", "two processes"))
    share = ratio(found["rates"], "two processes", "one process")
    threads = found["threads"]
    return (
        f"{found['title']}, joint batch {found['batch']}: {two} images a second in two gloo processes of "
        f"{threads // 2} threads each, {one} in one of {threads}: {shown(share, 1, '.3f')} of its rate."
    )


def plot_cases(numbers: Numbers, folder: Path) -> None:
    """Draws how much of the ceiling each network reaches, where networks were measured."""
    cases = list(numbers.get("cases", {}).values())
    if not cases:
        return
    groups = {
        heading(case, "").strip(): {name: of_ceiling(case, name) for name in case["facts"] if name != CEILING}
        for case in cases
    }
    picture = bar_plot(
        groups,
        x_title=f"rate, as a share of that of the {CEILING}",
        levels={CEILING: 1.0},
        ours={name for bars in groups.values() for name in bars if name.startswith(OURS)},
    )
    picture.save(folder / PLOT_FILE)


def shown(spread: Spread, unit: float, form: str) -> str:
    """A median with its quartiles, in a unit."""
    median, low, high = (format(value * unit, form) for value in spread)
    return f"{median} [{low}, {high}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
