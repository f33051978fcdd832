"""The distribution of comparisons over forms: complete, balanced, and a function of the seed."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest

from sdedit_pl.study.questions import QUESTIONS
from sdedit_pl.study.trial_design import GUIDE_ORIGIN, REAL_ORIGIN, Trial, TrialImage, design_forms, method_pairs

ITEMS = [f"item{number}" for number in range(7)]
METHODS = ["a", "b", "c", "d"]


def forms_of(
    items: int = 7, pairs: str = "all", comparisons: int | None = 20, catches: int = 4, seed: int = 3, real: int = 0
) -> list[list[Trial]]:
    return design_forms(
        ITEMS[:items],
        list(QUESTIONS),
        method_pairs(METHODS, "all" if pairs == "all" else "first"),
        comparisons=comparisons,
        catches=catches,
        seed=seed,
        real=[f"real{number}" for number in range(real)],
    )


def comparisons_in(form: list[Trial]) -> list[Trial]:
    return [trial for trial in form if trial.correct is None]


def test_pairs() -> None:
    assert method_pairs(["a", "b", "c"], "all") == [("a", "b"), ("a", "c"), ("b", "c")]
    assert method_pairs(["a", "b", "c"], "first") == [("a", "b"), ("a", "c")]
    assert method_pairs(["a", "b"], "all") == method_pairs(["a", "b"], "first") == [("a", "b")]


@pytest.mark.parametrize("comparisons", [1, 5, 20, 126, 500, None])
@pytest.mark.parametrize("items", [1, 2, 7])
class TestBalance:
    def test_each_comparison_is_asked_once_from_each_side(self, items: int, comparisons: int | None) -> None:
        asked = Counter(
            (trial.question, trial.item, trial.left, trial.right)
            for form in forms_of(items, comparisons=comparisons)
            for trial in comparisons_in(form)
        )
        expected = {
            (question, item, TrialImage(left, item), TrialImage(right, item))
            for question in QUESTIONS
            for item in ITEMS[:items]
            for left in METHODS
            for right in METHODS
            if left != right
        }
        assert asked.keys() == expected and set(asked.values()) == {1}

    def test_questions_and_pairs_are_balanced_over_forms(self, items: int, comparisons: int | None) -> None:
        forms = [comparisons_in(form) for form in forms_of(items, comparisons=comparisons)]
        sizes = {len(form) for form in forms}
        assert max(sizes) - min(sizes) <= 1 and (comparisons is None or max(sizes) <= comparisons)
        for question in QUESTIONS:
            for pair in method_pairs(METHODS, "all"):
                counts = [
                    sum(t.question == question and {t.left.origin, t.right.origin} == set(pair) for t in form)
                    for form in forms
                ]
                assert max(counts) - min(counts) <= 1

    def test_sides_are_balanced_within_a_form(self, items: int, comparisons: int | None) -> None:
        for form in forms_of(items, comparisons=comparisons):
            for question in QUESTIONS:
                for first, second in method_pairs(METHODS, "all"):
                    lefts = Counter(
                        trial.left.origin
                        for trial in comparisons_in(form)
                        if trial.question == question and {trial.left.origin, trial.right.origin} == {first, second}
                    )
                    assert abs(lefts[first] - lefts[second]) <= 1


def test_every_second_form_is_the_mirror_of_the_one_before() -> None:
    forms = forms_of(real=2)
    for form, mirror in zip(forms[::2], forms[1::2], strict=True):
        assert {trial.mirrored() for trial in form} == set(mirror)
        assert len(form) == len(mirror)


def test_a_question_is_one_block_and_the_order_of_blocks_rotates() -> None:
    firsts = []
    for form in forms_of():
        blocks = [question for question, _ in groupby(form, key=lambda trial: trial.question)]
        assert sorted(blocks) == sorted(QUESTIONS)
        firsts.append(blocks[0])
    assert set(firsts[:3]) == set(QUESTIONS)


class TestCatchTrials:
    @pytest.mark.parametrize("real", [0, 2])
    def test_they_show_an_intact_image_beside_its_degraded_copy(self, real: int) -> None:
        for form in forms_of(catches=6, real=real):
            catches = [trial for trial in form if trial.correct is not None]
            assert Counter(trial.question for trial in catches) == dict.fromkeys(QUESTIONS, 2)
            assert Counter(trial.correct for trial in catches) == {"left": 3, "right": 3}
            for trial in catches:
                right = trial.correct == "right"
                intact, copy = (trial.right, trial.left) if right else (trial.left, trial.right)
                assert copy == intact._replace(degraded=True) and not intact.degraded
                if trial.question == "faithfulness":
                    assert intact == TrialImage(GUIDE_ORIGIN, trial.item) == trial.guide
                elif trial.question == "realism" and real:
                    assert intact.origin == REAL_ORIGIN
                else:
                    assert intact.origin in METHODS and intact.item == trial.item

    def test_they_appear_at_any_position_of_their_block(self) -> None:
        places = {
            index
            for seed in range(30)
            for form in forms_of(catches=3, seed=seed)
            for _, block in groupby(form, key=lambda trial: trial.question)
            for index, trial in enumerate(block)
            if trial.correct is not None
        }
        assert places == set(range(7))  # 6 pairs of methods and a catch trial for each question

    def test_zero_catch_trials(self) -> None:
        assert all(trial.correct is None for form in forms_of(catches=0) for trial in form)


def test_the_design_is_a_function_of_the_seed() -> None:
    assert forms_of(seed=1, real=2) == forms_of(seed=1, real=2) != forms_of(seed=2, real=2)
