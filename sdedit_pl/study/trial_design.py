"""The design of a study: which comparisons are made, and how they are distributed over raters.

A comparison is one question about two methods' outputs for one item (a guide and its outputs). Every combination of
question, pair of methods and item is asked in one form and in its twin, which exchanges the sides; a rater answers one
form. For every question and pair, the number of comparisons differs by at most one between forms. Sides alternate
within a form. A form has one block per question; their order rotates from form to form. The order within a block is
random, including the catch trials (an intact image beside a heavily degraded copy). The seed determines the design.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from sdedit_pl.study.questions import QUESTIONS

Side: TypeAlias = Literal["left", "right"]

GUIDE_ORIGIN, REAL_ORIGIN = "(guide)", "(real)"
"""Origins of images that no method made. Names of methods cannot contain brackets, so these cannot clash with one."""


class StudyError(ValueError):
    """A study cannot be built, served or reported."""


class TrialImage(NamedTuple):
    """An image that a trial shows.

    Args:
        origin: name of a method, GUIDE_ORIGIN or REAL_ORIGIN.
        item: name that the files of an item share; for REAL_ORIGIN, the name of the real image.
        degraded: True for the degraded copy of a catch trial.
    """

    origin: str
    item: str
    degraded: bool = False

    @property
    def label(self) -> str:
        return "(degraded)" if self.degraded else self.origin


@dataclass(frozen=True)
class Trial:
    """A question about two images, as a rater sees it; `correct` is the side of a catch trial's intact image."""

    question: str
    item: str
    left: TrialImage
    right: TrialImage
    correct: Side | None = None

    @property
    def guide(self) -> TrialImage | None:
        return TrialImage(GUIDE_ORIGIN, self.item) if QUESTIONS[self.question].shows_guide else None

    @property
    def images(self) -> list[TrialImage]:
        return [image for image in (self.guide, self.left, self.right) if image is not None]

    def mirrored(self) -> Trial:
        other: dict[Side | None, Side | None] = {"left": "right", "right": "left", None: None}
        return Trial(self.question, self.item, self.right, self.left, other[self.correct])


def method_pairs(methods: Sequence[str], pairs: Literal["all", "first"]) -> list[tuple[str, str]]:
    every = list(itertools.combinations(methods, 2))
    return every if pairs == "all" else every[: len(methods) - 1]


def design_forms(
    items: Sequence[str],
    questions: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    comparisons: int | None,
    catches: int,
    seed: int,
    real: Sequence[str] = (),
) -> list[list[Trial]]:
    """Deals all comparisons and the catch trials into forms; every odd form is the twin of the form before it.

    Args:
        comparisons: maximum number of comparisons in a form; None puts all into one form (and its mirror).
        catches: number of catch trials per form, in addition to the comparisons.
        real: names of real images for catch trials.
    """
    generator = random.Random(seed)
    asked = [
        (question, pair, item)
        for question, pair in itertools.product(questions, pairs)
        for item in generator.sample(items, len(items))
    ]
    methods = list(dict.fromkeys(itertools.chain(*pairs)))
    count = 1 if comparisons is None else -(-len(asked) // comparisons)
    forms = []
    for number in range(count):
        dealt = [
            Trial(question, item, TrialImage(first, item), TrialImage(second, item))
            for question, (first, second), item in asked[number::count]
        ]
        caught = [
            _catch_trial(questions[index % len(questions)], items, methods, real, generator) for index in range(catches)
        ]
        trials = [trial for group in (dealt, caught) for trial in _alternating(group, number)]
        for form in (trials, [trial.mirrored() for trial in trials]):
            forms.append(_in_blocks(form, _rotated(questions, len(forms)), generator))
    return forms


def _catch_trial(
    question: str, items: Sequence[str], methods: Sequence[str], real: Sequence[str], generator: random.Random
) -> Trial:
    """A trial with a known answer; without a real image, a method's output beside its own degraded copy."""
    item, method = generator.choice(items), generator.choice(methods)
    intact = TrialImage(method, item)
    if QUESTIONS[question].intact == "guide":
        intact = TrialImage(GUIDE_ORIGIN, item)
    elif QUESTIONS[question].intact == "real" and real:
        intact = TrialImage(REAL_ORIGIN, generator.choice(real))
    return Trial(question, item, intact, intact._replace(degraded=True), "left")


def _alternating(trials: Sequence[Trial], first: int) -> list[Trial]:
    """Mirrors every second trial, beginning with the first one if `first` is odd."""
    return [trial.mirrored() if (index + first) % 2 else trial for index, trial in enumerate(trials)]


def _in_blocks(trials: Sequence[Trial], questions: Sequence[str], generator: random.Random) -> list[Trial]:
    blocks = ([trial for trial in trials if trial.question == question] for question in questions)
    return [trial for block in blocks for trial in generator.sample(block, len(block))]


def _rotated(questions: Sequence[str], turns: int) -> list[str]:
    turns %= len(questions)
    return [*questions[turns:], *questions[:turns]]
