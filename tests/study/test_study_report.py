"""What a report says of given answers."""

from __future__ import annotations

import csv
import io
import json
from itertools import product
from typing import Any

import pytest

from sdedit_pl.study.design import StudyError
from sdedit_pl.study.report import as_csv, summarise
from sdedit_pl.study.statistics import wilson
from sdedit_pl.study.store import Answer
from sdedit_pl.study.tables import as_markdown

SETTINGS = {
    "methods": {"ours": "a/", "theirs": "b/", "others": "c/"},
    "questions": ["realism", "faithfulness"],
    "pairs": "all",
    "items": 10,
    "seed": 4,
}


def answer(rater: int, question: str, item: str, left: str, right: str, choice: str, **known: Any) -> Answer:
    facts = {"form": 0, "position": 0, "correct": None, "milliseconds": 2000, "received": "2026-01-01T00:00:00.000"}
    return Answer(
        rater=rater, question=question, item=item, left=left, right=right, choice=choice, **{**facts, **known}
    )


def catch(rater: int, choice: str) -> Answer:
    return answer(rater, "realism", "x", "ours", "(degraded)", choice, correct="left")


@pytest.fixture
def answers() -> list[Answer]:
    """Raters 1 and 2 answer with care, rater 3 always chooses the right side; rater 4 has left early, 5 at once."""
    given = []
    for rater in (1, 2, 3):
        given += [catch(rater, "right" if rater == 3 else "left")] * 3 + [catch(rater, "left")]
        for number in range(10):
            swapped = (number + rater) % 2
            left, right = ("theirs", "ours") if swapped else ("ours", "theirs")
            preferred = "theirs" if number == 0 or (number == 1 and rater == 2) else "ours"
            choice = "right" if rater == 3 or preferred == right else "left"
            given.append(answer(rater, "realism", f"item{number}", left, right, choice))
    given.append(answer(4, "realism", "item0", "ours", "others", "left", milliseconds=None))
    return given


@pytest.fixture
def findings(answers: list[Answer]) -> dict[str, Any]:
    return summarise(SETTINGS, {1: 14, 2: 14, 3: 14, 4: 14, 5: 14}, answers, 0.75)


def preference(findings: dict[str, Any], question: str, first: str, second: str) -> dict[str, Any]:
    (row,) = [
        row
        for row in findings["preferences"]
        if (row["question"], row["first"], row["second"]) == (question, first, second)
    ]
    return row


def test_rates_are_of_the_earlier_method(findings: dict[str, Any]) -> None:
    row = preference(findings, "realism", "ours", "theirs")
    assert (row["preferred"], row["answers"], row["rate"]) == (17, 20, 0.85)
    assert (row["low"], row["high"]) == wilson(17, 20)
    assert preference(findings, "realism", "ours", "others")["rate"] == 1
    assert preference(findings, "faithfulness", "ours", "theirs")["rate"] is None
    assert len(findings["preferences"]) == 2 * 3


def test_raters_who_fail_the_catch_trials_are_left_out(findings: dict[str, Any], answers: list[Answer]) -> None:
    assert findings["left_out"] == [3]
    facts = {rater["rater"]: (rater["answers"], rater["catches"], rater["caught"]) for rater in findings["raters"]}
    assert facts == {1: (14, 4, 4), 2: (14, 4, 4), 3: (14, 4, 1), 4: (1, 0, 0), 5: (0, 0, 0)}
    assert [rater["seconds"] for rater in findings["raters"]] == [2, 2, 2, None, None]
    everybody = summarise(SETTINGS, {1: 14, 2: 14, 3: 14, 4: 14}, answers, 0.25)
    assert everybody["left_out"] == [] and preference(everybody, "realism", "ours", "theirs")["answers"] == 30


def test_agreement_is_about_the_same_two_images_whatever_their_sides(findings: dict[str, Any]) -> None:
    realism, faithfulness = findings["agreement"]
    assert (realism["units"], realism["share"]) == (10, 0.9)
    # 20 ratings, 3 of them for theirs; one unit of ten is disagreed on
    assert realism["alpha"] == pytest.approx(1 - (2 / 20) / (2 * 3 * 17 / (20 * 19)))
    assert faithfulness == {"question": "faithfulness", "alpha": None, "share": None, "units": 0}


def test_raters_by_chance_have_no_agreement_however_many_pairs_there_are() -> None:
    """Of each pair, two raters answer four items in the four ways that there are."""
    pairs = [("ours", "theirs"), ("ours", "others"), ("theirs", "others")]
    given = [
        answer(rater, "realism", f"item{number}", *pair, choice)
        for pair in pairs
        for number, choices in enumerate(product(("left", "right"), repeat=2))
        for rater, choice in enumerate(choices)
    ]
    (realism, _) = summarise(SETTINGS, {0: 12, 1: 12}, given, 0.75)["agreement"]
    # half of the pairs of ratings are equal, and 12 of 24 ratings are for the first method
    assert realism["share"] == 0.5 and realism["alpha"] == pytest.approx(1 - 0.5 / (2 * 12 * 12 / (24 * 23)))
    assert abs(realism["alpha"]) < 0.05


def test_a_rater_at_the_threshold_is_kept() -> None:
    given = [catch(1, "left" if number < 11 else "right") for number in range(20)]
    assert summarise(SETTINGS, {1: 20}, given, 0.55)["left_out"] == []


def test_a_study_without_answers_has_no_report() -> None:
    with pytest.raises(StudyError, match="the study has no answers yet; `sdedit study serve` collects them"):
        summarise(SETTINGS, {1: 14}, [], 0.75)


def test_one_whose_raters_are_all_left_out_says_so() -> None:
    findings = summarise(
        SETTINGS, {7: 2}, [catch(7, "right"), answer(7, "realism", "a", "ours", "theirs", "left")], 1.0
    )
    text = as_markdown(findings)
    assert "rater 7 (0 of 1)" in text and "1 rater answered; 0 of them and 0 comparisons count" in text
    assert "| ours over theirs | no answers | no answers |" in text


def test_the_tables(findings: dict[str, Any]) -> None:
    text = as_markdown(findings)
    low, high = wilson(17, 20)
    assert "3 methods (ours, theirs, others), 10 items" in text
    assert "4 raters answered; 3 of them and 21 comparisons count" in text
    assert "|  | realism | faithfulness |" in text
    assert f"| ours over theirs | 85.0 % [{100 * low:.1f}, {100 * high:.1f}], 20 | no answers |" in text
    assert "| realism | 0.627 | 90.0 % | 10 |" in text and "| faithfulness | - | - | 0 |" in text
    assert "9 of 12 answered rightly. Raters below 75% are left out: rater 3 (1 of 4)." in text
    assert "Not finished: 2 raters (4, 5)." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| ours")}
    assert widths == {4}


def test_findings_are_plain_data(findings: dict[str, Any]) -> None:
    assert json.loads(json.dumps(findings)) == findings


def test_the_list_of_answers_says_which_count(answers: list[Answer], findings: dict[str, Any]) -> None:
    table = list(csv.DictReader(io.StringIO(as_csv(answers, findings["left_out"]))))
    assert len(table) == len(answers) and sum(int(row["counts"]) for row in table) == 21
    assert {row["rater"] for row in table if row["counts"] == "1"} == {"1", "2", "4"}
    assert all(row["preferred"] == row[row["choice"]] for row in table)
