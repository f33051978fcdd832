"""Which comparisons a study makes, and how they are dealt to raters.

A comparison is a question about two methods' outputs for one item (a guide and what the methods made of it). All of
(question, pair of methods, item) are asked. They are dealt into forms, each of which a rater fills in:

- Every comparison is in one form, and every (question, pair) has as many in one form as in another, or one more.
- Sides alternate within a form, and every form has a mirror with the sides exchanged: over the two of them each method
  of each comparison stands on the left once.
- A form is asked in blocks, a question each. The order of the blocks rotates from form to form, the order within a
  block is random, and so is the place of the catch trials: an intact image beside a heavily degraded copy of it.

Everything is a function of the seed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from sdedit_pl.study.questions import QUESTIONS

Side: TypeAlias = Literal["left", "right"]

GUIDE, REAL = "(guide)", "(real)"
"""Sources of images that are no method; the brackets keep them apart from methods' names."""


class StudyError(ValueError):
    """A study that cannot be built, served or reported; its message says why and what to do."""


class Subject(NamedTuple):
    """What an image shows.

    Args:
        source: a method's name, GUIDE or REAL.
        item: the name that the files have in common; for REAL the real image's own.
        degraded: whether it is the degraded copy.
    """

    source: str
    item: str
    degraded: bool = False

    @property
    def label(self) -> str:
        """The source, or that it is a degraded copy."""
        return "(degraded)" if self.degraded else self.source


@dataclass(frozen=True)
class Trial:
    """A question about two images, as a rater sees it.

    Args:
        question: a key of QUESTIONS.
        item: whose guide is shown, where the question shows one.
        left: the image on the left.
        right: the image on the right.
        correct: the side of the intact image in a catch trial; None in a comparison.
    """

    question: str
    item: str
    left: Subject
    right: Subject
    correct: Side | None = None

    @property
    def guide(self) -> Subject | None:
        """The guide's image, where the question shows it."""
        return Subject(GUIDE, self.item) if QUESTIONS[self.question].shows_guide else None

    @property
    def subjects(self) -> list[Subject]:
        """All images of the trial."""
        return [subject for subject in (self.guide, self.left, self.right) if subject is not None]

    def mirrored(self) -> Trial:
        """The same with the sides exchanged."""
        other: dict[Side | None, Side | None] = {"left": "right", "right": "left", None: None}
        return Trial(self.question, self.item, self.right, self.left, other[self.correct])


def pairs_of(methods: Sequence[str], pairs: Literal["all", "first"]) -> list[tuple[str, str]]:
    """The methods that are compared: every two of them, or the first with each other one."""
    every = list(itertools.combinations(methods, 2))
    return every if pairs == "all" else every[: len(methods) - 1]


def deal(
    items: Sequence[str],
    questions: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    comparisons: int | None,
    catches: int,
    seed: int,
    real: Sequence[str] = (),
) -> list[list[Trial]]:
    """The forms of a study, every second one the mirror of the one before it.

    Args:
        items: names of the items.
        questions: keys of QUESTIONS.
        pairs: of methods, see `pairs_of`.
        comparisons: at the most in a form; None for all in one.
        catches: catch trials in a form, besides.
        seed: of all that is random.
        real: names of the real images that catch trials may show.

    Returns:
        The trials of each form, in the order in which they are asked.
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
            Trial(question, item, Subject(first, item), Subject(second, item))
            for question, (first, second), item in asked[number::count]
        ]
        caught = [
            _catch(questions[index % len(questions)], items, methods, real, generator) for index in range(catches)
        ]
        trials = [trial for group in (dealt, caught) for trial in _alternating(group, number)]
        for form in (trials, [trial.mirrored() for trial in trials]):
            forms.append(_in_blocks(form, _rotated(questions, len(forms)), generator))
    return forms


def _catch(
    question: str, items: Sequence[str], methods: Sequence[str], real: Sequence[str], generator: random.Random
) -> Trial:
    """A trial with a known answer.

    Any output of a method is better than its own degraded copy, so that it stands in where there is no real image.
    """
    item, method = generator.choice(items), generator.choice(methods)
    intact = Subject(method, item)
    if QUESTIONS[question].intact == "guide":
        intact = Subject(GUIDE, item)
    elif QUESTIONS[question].intact == "real" and real:
        intact = Subject(REAL, generator.choice(real))
    return Trial(question, item, intact, intact._replace(degraded=True), "left")


def _alternating(trials: Sequence[Trial], first: int) -> list[Trial]:
    """The trials, every second one mirrored, beginning with the first one where `first` is odd."""
    return [trial.mirrored() if (index + first) % 2 else trial for index, trial in enumerate(trials)]


def _in_blocks(trials: Sequence[Trial], questions: Sequence[str], generator: random.Random) -> list[Trial]:
    """The trials of one question after those of another, each block shuffled."""
    blocks = ([trial for trial in trials if trial.question == question] for question in questions)
    return [trial for block in blocks for trial in generator.sample(block, len(block))]


def _rotated(questions: Sequence[str], turns: int) -> list[str]:
    turns %= len(questions)
    return [*questions[turns:], *questions[:turns]]
