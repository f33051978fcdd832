"""A study's findings as the tables of a paper, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def as_markdown(findings: Mapping[str, Any]) -> str:
    """The tables.

    Args:
        findings: see `sdedit_pl.study.report.summarise`.
    """
    study, raters = findings["study"], findings["raters"]
    counted = sum(row["answers"] for row in findings["preferences"])
    answering = [rater for rater in raters if rater["answers"]]
    kept = [rater for rater in answering if rater["kept"]]
    sections = [
        "# User study",
        f"{len(study['methods'])} methods ({', '.join(study['methods'])}), {_count(study['items'], 'item')}, pairs of "
        f"images side by side, one must be chosen. {_count(len(answering), 'rater')} answered; {len(kept)} of them and "
        f"{_count(counted, 'comparison')} count. Seed {study['seed']}.",
        "## How often the first method is preferred",
        _preferences(study["questions"], findings["preferences"]),
        f"Rate, Wilson's {findings['confidence']:.0%} interval, number of answers. The interval takes answers to be "
        "independent; several by one rater or about one item make it somewhat too narrow.",
        "## Agreement of the raters",
        _table(
            ["question", "Krippendorff's alpha", "equal pairs", "comparisons with two answers or more"],
            [
                [row["question"], _number(row["alpha"]), _percent(row["share"]), str(row["units"])]
                for row in findings["agreement"]
            ],
        ),
        "Alpha is 1 where raters of the same two images always agree and 0 where they agree as by chance. It is low "
        "also where one method nearly always wins; the part of equal pairs tells these apart.",
        "## Checks",
        _checks(findings, answering),
    ]
    return "\n\n".join(sections) + "\n"


def _preferences(questions: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each pair of methods, a column for each question."""
    pairs = list(dict.fromkeys((row["first"], row["second"]) for row in rows))
    found = {(row["first"], row["second"], row["question"]): row for row in rows}
    return _table(
        ["", *questions],
        [
            [f"{first} over {second}", *(_rate(found[first, second, question]) for question in questions)]
            for first, second in pairs
        ],
    )


def _checks(findings: Mapping[str, Any], answering: Sequence[Mapping[str, Any]]) -> str:
    catches = sum(rater["catches"] for rater in answering)
    caught = sum(rater["caught"] for rater in answering)
    lines = [
        f"- Catch trials: {caught} of {catches} answered rightly. Raters below {findings['threshold']:.0%} are left "
        f"out: {_left_out(findings)}.",
        f"- The image on the left was chosen in {_rate(findings['left_side'])}: forms are mirrored, so that this "
        "favours no method.",
    ]
    unfinished = [str(rater["rater"]) for rater in findings["raters"] if rater["answers"] < rater["asked"]]
    if unfinished:
        lines.append(f"- Not finished: {_count(len(unfinished), 'rater')} ({', '.join(unfinished)}).")
    return "\n".join(lines)


def _left_out(findings: Mapping[str, Any]) -> str:
    excluded = [rater for rater in findings["raters"] if not rater["kept"]]
    described = [f"rater {rater['rater']} ({rater['caught']} of {rater['catches']})" for rater in excluded]
    return ", ".join(described) or "none"


def _rate(row: Mapping[str, Any]) -> str:
    if row["rate"] is None:
        return "no answers"
    return f"{_percent(row['rate'])} [{100 * row['low']:.1f}, {100 * row['high']:.1f}], {row['answers']}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
