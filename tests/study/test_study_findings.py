"""The findings and the report of given answers."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from sdedit_pl.study.rater_statistics import wilson_interval
from sdedit_pl.study.study_database import Answer
from sdedit_pl.study.study_findings import answers_csv, summarise
from sdedit_pl.study.study_report import report_markdown
from sdedit_pl.study.trial_design import StudyError

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
    """Raters 1 and 2 answer carefully, rater 3 always chooses the right side, and rater 4 gives one answer."""
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
    """Rater 5 has joined without answering."""
    return summarise(SETTINGS, {1: 14, 2: 14, 3: 14, 4: 14, 5: 14}, answers, 0.75)


def preference(findings: dict[str, Any], question: str, first: str, second: str) -> dict[str, Any]:
    (row,) = [
        row
        for row in findings["preferences"]
        if (row["question"], row["first"], row["second"]) == (question, first, second)
    ]
    return row


class TestFindings:
    def test_rates_are_of_the_earlier_method(self, findings: dict[str, Any]) -> None:
        row = preference(findings, "realism", "ours", "theirs")
        assert (row["preferred"], row["answers"], row["rate"]) == (17, 20, 0.85)
        assert (row["low"], row["high"]) == wilson_interval(17, 20)
        assert preference(findings, "realism", "ours", "others")["rate"] == 1
        assert preference(findings, "faithfulness", "ours", "theirs")["rate"] is None
        assert len(findings["preferences"]) == 2 * 3

    def test_raters_who_fail_the_catch_trials_are_excluded(
        self, findings: dict[str, Any], answers: list[Answer]
    ) -> None:
        assert findings["left_out"] == [3]
        facts = {rater["rater"]: (rater["answers"], rater["catches"], rater["caught"]) for rater in findings["raters"]}
        assert facts == {1: (14, 4, 4), 2: (14, 4, 4), 3: (14, 4, 1), 4: (1, 0, 0), 5: (0, 0, 0)}
        assert [rater["seconds"] for rater in findings["raters"]] == [2, 2, 2, None, None]
        everybody = summarise(SETTINGS, {1: 14, 2: 14, 3: 14, 4: 14}, answers, 0.25)
        assert everybody["left_out"] == []
        assert preference(everybody, "realism", "ours", "theirs")["answers"] == 30

    def test_agreement_is_per_pair_of_images_whatever_their_sides(self, findings: dict[str, Any]) -> None:
        realism, faithfulness = findings["agreement"]
        assert (realism["units"], realism["share"]) == (10, 0.9)
        # 20 ratings, 3 of them for theirs; raters disagree on one unit of ten
        assert realism["alpha"] == pytest.approx(1 - (2 / 20) / (2 * 3 * 17 / (20 * 19)))
        assert faithfulness == {"question": "faithfulness", "alpha": None, "share": None, "units": 0}

    def test_random_raters_have_no_agreement_for_any_number_of_pairs(self) -> None:
        """For each pair, two raters answer four items in all four combinations."""
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

    def test_a_rater_at_the_threshold_is_kept(self) -> None:
        given = [catch(1, "left" if number < 11 else "right") for number in range(20)]
        assert summarise(SETTINGS, {1: 20}, given, 0.55)["left_out"] == []

    def test_a_study_without_answers_has_no_findings(self) -> None:
        with pytest.raises(StudyError, match="no answers yet; `sdedit study serve`"):
            summarise(SETTINGS, {1: 14}, [], 0.75)

    def test_they_are_json_serialisable(self, findings: dict[str, Any]) -> None:
        assert json.loads(json.dumps(findings)) == findings


class TestReport:
    def test_the_tables(self, findings: dict[str, Any]) -> None:
        text = report_markdown(findings)
        low, high = wilson_interval(17, 20)
        assert text.startswith("# User study\n\n3 methods (ours, theirs, others), 10 items")
        assert "4 raters answered; 3 of them, with 21 comparisons, are counted. Seed 4.\n\n## " in text
        assert "\n\n|  | realism | faithfulness |\n| --- | --- | --- |\n| ours over theirs |" in text
        assert f"| ours over theirs | 85.0 % [{100 * low:.1f}, {100 * high:.1f}], 20 | no answers |\n" in text
        assert "\n| realism | 0.627 | 90.0 % | 10 |\n| faithfulness | - | - | 0 |\n\n" in text
        assert "9 of 12 answered correctly. Raters below 75% are excluded: rater 3 (1 of 4).\n- Rate at" in text
        assert text.endswith("\n- Not finished: 2 raters (4, 5).\n")
        assert "\n\n\n" not in text

    def test_all_raters_may_be_excluded(self) -> None:
        given = [catch(7, "right"), answer(7, "realism", "a", "ours", "theirs", "left")]
        text = report_markdown(summarise(SETTINGS, {7: 2}, given, 1.0))
        assert "rater 7 (0 of 1)" in text and "1 rater answered; 0 of them, with 0 comparisons, are counted" in text
        assert "| ours over theirs | no answers | no answers |" in text
        assert text.endswith("favours no method.\n")


class TestAnswersTable:
    def test_it_marks_the_answers_that_count(self, answers: list[Answer], findings: dict[str, Any]) -> None:
        table = list(csv.DictReader(io.StringIO(answers_csv(answers, findings["left_out"]))))
        assert len(table) == len(answers) and sum(int(row["counts"]) for row in table) == 21
        assert {row["rater"] for row in table if row["counts"] == "1"} == {"1", "2", "4"}
        assert all(row["preferred"] == row[row["choice"]] for row in table)

    @pytest.mark.parametrize("name", ["=1+1", "+ours", "-ours", "@ours", "\tours"])
    def test_no_cell_is_a_formula(self, answers: list[Answer], name: str) -> None:
        text = answers_csv([replace(answers[-1], item=name, left=name)], [])
        (row,) = csv.DictReader(io.StringIO(text))
        assert row["item"] == row["left"] == row["preferred"] == f"'{name}"
