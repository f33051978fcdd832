"""What a study compares, and how: all that is decided before an image is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sdedit_pl.study.design import StudyError
from sdedit_pl.study.questions import QUESTIONS

_METHOD = re.compile(r"[\w+-]+")


@dataclass(frozen=True)
class Plan:
    """What a study compares, and how.

    Args:
        methods: methods.NAME=FOLDER for each method, a folder of its outputs or a pattern ('edits/*_seed0.png'). Files
            pair up by name. Rates are those at which an earlier one is preferred to a later one.
        out: the study's file, which also receives the answers.
        guides: folder or pattern of the guides; null for a study of realism alone.
        real: folder or pattern of real images of the domain, for the catch trials about realism; null takes the
            methods' outputs, beside their degraded copies all the same.
        questions: which of realism, faithfulness and satisfaction are asked.
        pairs: all compares every two methods, first the first one with each other one, as in the paper.
        comparisons: how many a rater is asked at the most, catch trials apart; null for all.
        catches: catch trials for each rater.
        seed: of what is asked of whom, in which order and on which side.

    Raises:
        StudyError: an argument that makes no study.
    """

    methods: dict[str, str]
    out: str = "study.sqlite"
    guides: str | None = None
    real: str | None = None
    questions: tuple[str, ...] = tuple(QUESTIONS)
    pairs: Literal["all", "first"] = "all"
    comparisons: int | None = 30
    catches: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.methods) < 2:
            raise StudyError(
                f"a study compares at least 2 methods, got {len(self.methods)}; give methods.ours=FOLDER "
                "methods.theirs=FOLDER"
            )
        for name in self.methods:
            if not _METHOD.fullmatch(name):
                raise StudyError(f"a method's name has letters, digits, _, + and -, got {name!r}")
        if not self.questions or set(self.questions) - set(QUESTIONS) or len(set(self.questions)) < len(self.questions):
            raise StudyError(f"questions must be some of {', '.join(QUESTIONS)}, got [{','.join(self.questions)}]")
        showing = [question for question in self.questions if QUESTIONS[question].shows_guide]
        if showing and self.guides is None:
            raise StudyError(f"{' and '.join(showing)} cannot be judged without guides=FOLDER; or ask [realism] alone")
        if self.comparisons is not None and self.comparisons < 1:
            raise StudyError(f"comparisons must be at least 1, got {self.comparisons}; null asks all")
        if self.catches < 0:
            raise StudyError(f"catches must be at least 0, got {self.catches}")
