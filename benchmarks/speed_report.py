"""The Markdown reports of the speed benchmarks, made from their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compared_networks import DIFFUSERS, OURS
from measuring import Spread, ratio

CEILING = "3x3 convolutions alone"
LEGEND = f"""\
Times are medians over the rounds, ratios medians of the ratio within a round, with quartiles in brackets. GFLOP counts
matrix products and convolutions; a multiply-add is two operations. "Of the ceiling" is the rate divided by that of
"{CEILING}". Memory is the peak increase over a loaded network: of tensors, and of the process."""

Numbers = Mapping[str, Any]


def network_report(numbers: Numbers) -> str:
    blocks = ["# Networks: time and memory of a forward pass", environment(numbers), LEGEND]
    for case in numbers["cases"].values():
        blocks += [heading(case), case_table(case), against_goals(case), loop_line(case["loop"])]
    return "\n\n".join(blocks) + "\n"


def training_report(numbers: Numbers) -> str:
    """The report of the parts of `training.py` that were run."""
    blocks = ["# Training: time and memory of a step", environment(numbers)]
    if "loop" in numbers:
        blocks += ["## The loop", loops_line(numbers["loop"])]
    if "cases" in numbers:
        blocks += ["## The step", f"{LEGEND} It includes gradients; for the process also Adam's two moments."]
        for case in numbers["cases"].values():
            blocks += [heading(case, "###"), case_table(case), against_goals(case)]
    if "checkpointing" in numbers:
        blocks += ["## Recomputing activations", checkpointing_table(numbers["checkpointing"])]
    return "\n\n".join(blocks) + "\n"


def environment(numbers: Numbers) -> str:
    """The settings and the machine, in one line."""
    facts = {"rounds": numbers["settings"].get("rounds", 1), **numbers["machine"]}
    return ", ".join(f"{key} {value}" for key, value in facts.items()) + "."


def heading(case: Numbers, level: str = "##") -> str:
    return f"{level} {case['title']}, {case['batch']} x {case['size']} px, width {case['channels']}"


def case_table(case: Numbers) -> str:
    """One row per network and one for the convolutions alone."""
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
    """The row of a library with the smallest median time; None if it has no row."""
    rows = [name for name in case["seconds"] if name.startswith(f"{library},")]
    return min(rows, key=lambda name: Spread.of(case["seconds"][name]).median, default=None)


def of_ceiling(case: Numbers, name: str) -> Spread:
    """The rate of a row divided by that of the convolutions alone."""
    work = case["facts"][name]["flops"] / case["facts"][CEILING]["flops"]
    inverse = ratio(case["seconds"], CEILING, name)
    return Spread(*(work * value for value in inverse))


def against_goals(case: Numbers) -> str:
    """One sentence that compares our fastest row with the fastest of diffusers and with the ceiling."""
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
    """One sentence on the cost of the time loop."""
    seconds = loop["seconds"]
    own = Spread.of([time / loop["calls"] for time in seconds["integrate, no network"]])
    share = ratio(seconds, "integrate, no network", "bare calls")
    whole = ratio(seconds, "integrate", "bare calls")
    return (
        f"`integrate` without a network: {shown(own, 1e3, '.3f')} ms per evaluation, {shown(share, 100, '.2f')} % of "
        f"the bare network calls; with it, {shown(whole, 1, '.4f')} of their time."
    )


def loops_line(loop: Numbers) -> str:
    """One sentence that compares Lightning's loop with the bare loop."""
    seconds = loop["seconds"]
    speed = ratio(seconds, "bare loop", "Lightning")
    steps = {name: Spread.of(seconds[name]) for name in seconds}
    return (
        f"`{loop['config']}`, batches of {loop['batch']}, {loop['precision']}, turns of {loop['steps']} steps: "
        f"{shown(steps['Lightning'], 1e3, '.1f')} ms per step with the data pipeline, "
        f"{shown(steps['bare loop'], 1e3, '.1f')} ms bare: {shown(speed, 1, '.3f')} of the bare loop's speed."
    )


def checkpointing_table(case: Numbers) -> str:
    """Time and memory with kept and with recomputed activations."""
    rows = []
    for name, facts in case["facts"].items():
        time, cost = Spread.of(case["seconds"][name]), ratio(case["seconds"], name, "kept")
        sizes = [f"{facts[kind] / 1e6:.0f}" for kind in ("tensors", "process")]
        rows.append([name, shown(time, 1e3, ".1f"), shown(cost, 1, ".3f"), *sizes])
    return heading(case, "###") + "\n\n" + table(["activations", "ms", "over kept", "tensors, MB", "process, MB"], rows)


def shown(spread: Spread, unit: float, form: str) -> str:
    """A median with its quartiles, multiplied by `unit` and formatted by `form`."""
    median, low, high = (format(value * unit, form) for value in spread)
    return f"{median} [{low}, {high}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns after the first are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
