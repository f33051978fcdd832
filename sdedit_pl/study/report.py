"""What a study found: how often one method is preferred to another, and how far the answers can be trusted."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from sdedit_pl.study.design import StudyError, pairs_of
from sdedit_pl.study.statistics import CONFIDENCE, agreement, wilson
from sdedit_pl.study.store import Answer


@dataclass(frozen=True)
class Rater:
    """What is known of a rater.

    Args:
        rater: the number, in the order in which they came.
        answers: how many the rater gave, catch trials among them.
        asked: how many the form asks.
        catches: how many of them were catch trials.
        caught: how many of those were answered rightly.
        seconds: the median time for an answer; None where no time is known.
        kept: whether the answers count.
    """

    rater: int
    answers: int
    asked: int
    catches: int
    caught: int
    seconds: float | None
    kept: bool


@dataclass(frozen=True)
class Preference:
    """How often a method was preferred to another.

    Args:
        question: a key of QUESTIONS.
        first: the method that the rate is of.
        second: the other one.
        preferred: answers for the first one.
        answers: how many there are.
        rate: preferred of answers; None without any, and so are its bounds.
        low: lower bound of the rate.
        high: upper bound of the rate.
    """

    question: str
    first: str
    second: str
    preferred: int
    answers: int
    rate: float | None
    low: float | None
    high: float | None


def summarise(
    settings: Mapping[str, Any], forms: Mapping[int, int], answers: Sequence[Answer], threshold: float
) -> dict[str, Any]:
    """The findings of a study, as plain data.

    Args:
        settings: what the study was made of.
        forms: for each rater, by number, how many trials the form has.
        answers: all of them.
        threshold: raters who answered a smaller part of their catch trials rightly are left out.

    Raises:
        StudyError: if there are no answers.
    """
    if not answers:
        raise StudyError("the study has no answers yet; `sdedit study serve` collects them")
    raters = [rater_of(number, asked, answers, threshold) for number, asked in forms.items()]
    kept = {rater.rater for rater in raters if rater.kept}
    comparisons = [answer for answer in answers if answer.correct is None and answer.rater in kept]
    pairs = pairs_of(list(settings["methods"]), settings["pairs"])
    lefts = sum(answer.choice == "left" for answer in comparisons)
    return {
        "study": dict(settings),
        "confidence": CONFIDENCE,
        "threshold": threshold,
        "raters": [asdict(rater) for rater in raters],
        "left_out": [rater.rater for rater in raters if not rater.kept],
        "preferences": [
            asdict(preference(question, first, second, comparisons))
            for question in settings["questions"]
            for first, second in pairs
        ],
        "agreement": [
            {"question": question, **agreement(ratings(question, pairs, comparisons))._asdict()}
            for question in settings["questions"]
        ],
        "left_side": _rate(lefts, len(comparisons)),
    }


def rater_of(number: int, asked: int, answers: Iterable[Answer], threshold: float) -> Rater:
    """What a rater did. One who has met no catch trial is kept: nothing speaks against the answers."""
    given = [answer for answer in answers if answer.rater == number]
    catches = [answer for answer in given if answer.correct is not None]
    caught = sum(answer.choice == answer.correct for answer in catches)
    times = [answer.milliseconds / 1000 for answer in given if answer.milliseconds is not None]
    return Rater(
        rater=number,
        answers=len(given),
        asked=asked,
        catches=len(catches),
        caught=caught,
        seconds=median(times) if times else None,
        kept=not catches or caught / len(catches) >= threshold,
    )


def preference(question: str, first: str, second: str, comparisons: Iterable[Answer]) -> Preference:
    """How often the answers to a question about two methods were for the first one."""
    chosen = [
        answer.preferred
        for answer in comparisons
        if answer.question == question and {answer.left, answer.right} == {first, second}
    ]
    return Preference(question, first, second, **_rate(chosen.count(first), len(chosen)))


def ratings(question: str, pairs: Iterable[tuple[str, str]], comparisons: Iterable[Answer]) -> list[list[bool]]:
    """The answers to a question, those about the same two images together: whether the pair's first method was chosen.

    Not which method: answers about other pairs could not agree with these by chance.
    """
    firsts = {frozenset(pair): pair[0] for pair in pairs}
    units: dict[tuple[str, frozenset[str]], list[bool]] = defaultdict(list)
    for answer in comparisons:
        if answer.question == question:
            pair = frozenset((answer.left, answer.right))
            units[answer.item, pair].append(answer.preferred == firsts[pair])
    return list(units.values())


def as_csv(answers: Iterable[Answer], left_out: Iterable[int]) -> str:
    """All answers, a line each, and whether they count."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Answer)), "preferred", "counts"])
    excluded = set(left_out)
    for answer in answers:
        counts = answer.correct is None and answer.rater not in excluded
        writer.writerow([*asdict(answer).values(), answer.preferred, int(counts)])
    return table.getvalue()


def _rate(successes: int, trials: int) -> dict[str, Any]:
    low, high = wilson(successes, trials) if trials else (None, None)
    rate = successes / trials if trials else None
    return {"preferred": successes, "answers": trials, "rate": rate, "low": low, "high": high}
