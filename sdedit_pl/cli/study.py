"""`sdedit study`: ask people which of two methods' images they prefer."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sdedit_pl.cli import say
from sdedit_pl.configuration import ConfigError, nearest
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.files import require_folder
from sdedit_pl.result_folder import ResultFolder
from sdedit_pl.study.answers_database import StudyDatabase
from sdedit_pl.study.study_findings import answers_csv, summarise
from sdedit_pl.study.study_plan import StudyPlan

REPORT_FILES = ("report.md", "report.json", "answers.csv")

BUILD_USAGE = """sdedit study build methods.NAME=FOLDER methods.OTHER=FOLDER guides=FOLDER [out=FILE] [key=value ...]

Makes the file of a study: which two images are shown to whom, in which order, on which side, with which question. It
holds copies of the images, and takes the answers."""
SERVE_USAGE = """sdedit study serve study=FILE [host=127.0.0.1] [port=8000]

Serves the raters' page until Ctrl-C. An answer is on the disk before it is acknowledged; the page keeps what it could
not send, so that the server can be stopped and started again at any time. ?rater=NAME in the address names a rater."""
REPORT_USAGE = """sdedit study report study=FILE [out=FOLDER] [key=value ...]

Writes what came of a study, also while it is served: report.md, report.json and answers.csv."""


@dataclass
class Serving:
    """What to serve, and where.

    Args:
        study: the study's file.
        host: address to listen at: 127.0.0.1 for browsers on this machine, 0.0.0.0 for all that reach it.
        port: to listen at; 0 for any that is free.
        names: further host names by which raters reach the server, as behind a proxy. IP addresses, localhost and
            this machine's name always work; requests for other names are refused against DNS rebinding.
    """

    study: str
    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()


@dataclass
class Reporting:
    """What to report, and where to.

    Args:
        study: the study's file.
        out: folder of the report.
        threshold: raters who answer a smaller fraction of their catch trials correctly are left out.
        overwrite: replace an earlier report in `out`.
    """

    study: str
    out: str = "outputs/study"
    threshold: float = 0.75
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold}; 0 leaves nobody out")


COMMANDS = {
    "build": Command(BUILD_USAGE, StudyPlan),
    "serve": Command(SERVE_USAGE, Serving),
    "report": Command(REPORT_USAGE, Reporting),
}


def run(words: list[str]) -> None:
    """Runs one of the steps: build, serve, report."""
    step = words[0] if words else ""
    if step not in STEPS:
        got = f"got {step!r}{nearest(step, STEPS)}" if step else "got nothing"
        raise ConfigError(f"sdedit study takes {', '.join(STEPS)} and then key=value ..., {got}")
    STEPS[step](words[1:])


def build(words: list[str]) -> None:
    """Writes the file of a new study; one that is there is never replaced, it may hold answers."""
    plan = COMMANDS["build"].parse(words)
    from sdedit_pl.study.study_builder import build_study  # imports PyTorch, which no other step needs

    out = Path(plan.out)
    for file in (out, out.with_name(f"{out.name}-wal")):  # a log without its file would be taken for the new one's
        if file.exists():
            raise ConfigError(f"{file} is already there and may hold answers; give another out=, or move it away")
    with ResultFolder(out.parent) as results:
        made = build_study(plan, results / out.name)
    say(
        f"{made['items']} items, {made['asked']} comparisons in {made['forms']} forms; a form is what one "
        f"rater is asked\nserve it with: sdedit study serve study={out}"
    )


def serve(words: list[str]) -> None:
    """Serves a study until it is interrupted."""
    arguments = COMMANDS["serve"].parse(words)
    _require_packages("serve", "jinja2", "pydantic", "starlette", "uvicorn")
    from sdedit_pl.study.study_server import listen, serve_study

    with StudyDatabase(Path(arguments.study)) as study, listen(arguments.host, arguments.port) as listening:
        everywhere = arguments.host in ("0.0.0.0", "")
        host = socket.gethostname() if everywhere else arguments.host
        elsewhere = ", or at this machine's address in the network" if everywhere else ""
        say(f"the page is at http://{host}:{listening.getsockname()[1]}/{elsewhere}; Ctrl-C ends")
        sys.stdout.flush()  # also into a file or a pipe, where somebody waits for the address
        with suppress(KeyboardInterrupt):
            serve_study(study, listening, arguments.names)
        answers = study.answers()
    raters = len({answer.rater for answer in answers})
    say(f"{len(answers)} answers of {raters} raters so far; sdedit study report study={arguments.study}")


def report(words: list[str]) -> None:
    """Writes the findings of a study."""
    arguments = COMMANDS["report"].parse(words)
    out = Path(arguments.out)
    check_free(out, REPORT_FILES, arguments.overwrite)
    _require_packages("report", "jinja2", "scipy")
    from sdedit_pl.study.study_report import report_markdown

    with StudyDatabase(Path(arguments.study)) as study:
        answers = study.answers()
        findings = summarise(study.settings, study.raters(), answers, arguments.threshold)
    texts = (
        report_markdown(findings),
        json.dumps(findings, indent=1, ensure_ascii=False) + "\n",
        answers_csv(answers, findings["left_out"]),
    )
    with ResultFolder(out) as results:
        for name, text in zip(REPORT_FILES, texts, strict=True):
            (results / name).write_text(text, encoding="utf-8")
    say(texts[0])
    say(f"in {out}: {', '.join(REPORT_FILES)}")


def _require_packages(step: str, *packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(f"sdedit study {step} needs {' and '.join(missing)}; pip install 'sdedit-pl[study]'")


STEPS: dict[str, Callable[[list[str]], None]] = {"build": build, "serve": serve, "report": report}


def check_free(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raises a ValueError if files of these names are in `folder` and not to be overwritten, or it is a file."""
    require_folder(folder)
    found = [name for name in names if (folder / name).exists()]
    if found and not overwrite:
        raise ConfigError(f"{folder} already holds {found[0]}; give another out=, or overwrite=true")
