"""The findings of a study: preference rates, the agreement of the raters, and the checks of their attention."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from statistics import median
from typing import Any

from sdedit_pl.files import not_a_formula
from sdedit_pl.study.rater_statistics import CONFIDENCE, rater_agreement, wilson_interval
from sdedit_pl.study.study_database import Answer
from sdedit_pl.study.trial_design import StudyError, method_pairs


def summarise(
    settings: Mapping[str, Any], forms: Mapping[int, int], answers: Sequence[Answer], threshold: float
) -> dict[str, Any]:
    """The findings of a study as JSON-serialisable data; raises StudyError without answers.

    Args:
        forms: number of each rater -> number of trials in the rater's form.
        threshold: raters are excluded if they answered a smaller fraction of their catch trials correctly.
    """
    if not answers:
        raise StudyError("the study has no answers yet; `sdedit study serve` collects them")
    raters = [_rater(number, asked, answers, threshold) for number, asked in forms.items()]
    kept = {rater["rater"] for rater in raters if rater["kept"]}
    comparisons = [answer for answer in answers if answer.correct is None and answer.rater in kept]
    pairs = method_pairs(list(settings["methods"]), settings["pairs"])
    lefts = sum(answer.choice == "left" for answer in comparisons)
    return {
        "study": dict(settings),
        "confidence": CONFIDENCE,
        "threshold": threshold,
        "raters": raters,
        "left_out": [rater["rater"] for rater in raters if not rater["kept"]],
        "preferences": [
            _preference(question, first, second, comparisons)
            for question in settings["questions"]
            for first, second in pairs
        ],
        "agreement": [
            {"question": question, **rater_agreement(_ratings(question, pairs, comparisons))._asdict()}
            for question in settings["questions"]
        ],
        "left_side": _rate(lefts, len(comparisons)),
    }


def answers_csv(answers: Iterable[Answer], left_out: Iterable[int]) -> str:
    """All answers as CSV, one per line, with the preferred origin and whether the answer counts."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Answer)), "preferred", "counts"])
    excluded = set(left_out)
    for answer in answers:
        counts = answer.correct is None and answer.rater not in excluded
        writer.writerow([not_a_formula(cell) for cell in (*asdict(answer).values(), answer.preferred, int(counts))])
    return table.getvalue()


def _rater(number: int, asked: int, answers: Iterable[Answer], threshold: float) -> dict[str, Any]:
    """A rater's numbers. `kept` is whether the answers count; a rater who has met no catch trial is kept."""
    given = [answer for answer in answers if answer.rater == number]
    catches = [answer for answer in given if answer.correct is not None]
    caught = sum(answer.choice == answer.correct for answer in catches)
    times = [answer.milliseconds / 1000 for answer in given if answer.milliseconds is not None]
    return {
        "rater": number,
        "answers": len(given),  # those to catch trials included
        "asked": asked,
        "catches": len(catches),
        "caught": caught,
        "seconds": median(times) if times else None,
        "kept": not catches or caught / len(catches) >= threshold,
    }


def _preference(question: str, first: str, second: str, comparisons: Iterable[Answer]) -> dict[str, Any]:
    chosen = [
        answer.preferred
        for answer in comparisons
        if answer.question == question and {answer.left, answer.right} == {first, second}
    ]
    return {"question": question, "first": first, "second": second, **_rate(chosen.count(first), len(chosen))}


def _ratings(question: str, pairs: Iterable[tuple[str, str]], comparisons: Iterable[Answer]) -> list[list[bool]]:
    """The answers to a question, grouped by item and pair: whether each chose the pair's first method.

    Methods' names would not do as ratings: answers about different pairs could not agree even by chance.
    """
    firsts = {frozenset(pair): pair[0] for pair in pairs}
    units: dict[tuple[str, frozenset[str]], list[bool]] = defaultdict(list)
    for answer in comparisons:
        if answer.question == question:
            pair = frozenset((answer.left, answer.right))
            units[answer.item, pair].append(answer.preferred == firsts[pair])
    return list(units.values())


def _rate(successes: int, trials: int) -> dict[str, Any]:
    """The rate of successes with its interval [`low`, `high`]; None without trials."""
    low, high = wilson_interval(successes, trials) if trials else (None, None)
    rate = successes / trials if trials else None
    return {"preferred": successes, "answers": trials, "rate": rate, "low": low, "high": high}
