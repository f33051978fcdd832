"""The settings of a study: how it is built, served and reported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sdedit_pl.study.questions import QUESTIONS
from sdedit_pl.study.trial_design import StudyError

_METHOD = re.compile(r"[\w+-]+")


@dataclass(frozen=True)
class StudyPlan:
    """The settings of a new study.

    Args:
        methods: methods.NAME=FOLDER for each method, a folder of its outputs or a pattern ('edits/*_seed0.png'). Files
            are paired by name. A preference rate is the rate at which the method given first is preferred.
        out: the study's database file, which also stores the answers.
        guides: folder or pattern of the guides; null if only realism is asked.
        real: folder or pattern of real images of the domain, for catch trials about realism; null uses outputs instead.
        ckpt: for data other than 8-bit pictures (data.format), a model of such data; images are shown like its
            previews. null for pictures.
        questions: any of realism, faithfulness and satisfaction.
        pairs: all compares every pair of methods; first compares the first method with each other one, as in the paper.
        comparisons: maximum number of comparisons per rater, not counting catch trials; null for all.
        catches: number of catch trials per rater.
        seed: seed of the design: the comparisons that each rater gets, their order and their sides.
    """

    methods: dict[str, str]
    out: str = "study.sqlite"
    guides: str | None = None
    real: str | None = None
    ckpt: str | None = None
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
                raise StudyError(f"a method's name consists of letters, digits, _, + and -, got {name!r}")
        if not self.questions or set(self.questions) - set(QUESTIONS) or len(set(self.questions)) < len(self.questions):
            raise StudyError(f"questions must be some of {', '.join(QUESTIONS)}, got [{','.join(self.questions)}]")
        showing = [question for question in self.questions if QUESTIONS[question].shows_guide]
        if showing and self.guides is None:
            raise StudyError(f"{' and '.join(showing)} cannot be judged without guides=FOLDER; or ask [realism] alone")
        if self.comparisons is not None and self.comparisons < 1:
            raise StudyError(f"comparisons must be at least 1, got {self.comparisons}; null asks all")
        if self.catches < 0:
            raise StudyError(f"catches must be at least 0, got {self.catches}")


@dataclass(frozen=True)
class StudyServing:
    """Where a study is served.

    Args:
        study: the study's database file.
        host: address to listen on; 127.0.0.1 serves browsers on this machine only, 0.0.0.0 any that can reach it.
        port: port to listen on; 0 for any free one.
        names: further host names by which raters reach the server, such as a proxy's. IP addresses, localhost and this
            machine's name always work; requests for any other name are refused, as a protection against DNS rebinding.
    """

    study: str
    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyReporting:
    """The report of a study.

    Args:
        study: the study's database file.
        out: folder of the report.
        threshold: raters are excluded if they answer a smaller fraction of their catch trials correctly.
        overwrite: replace an earlier report in `out`.
    """

    study: str
    out: str = "outputs/study"
    threshold: float = 0.75
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise StudyError(f"threshold must lie in [0, 1], got {self.threshold}; 0 excludes nobody")
