"""`sdedit study`: ask people which of two methods' images they prefer."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from sdedit_pl.cli import counted, say
from sdedit_pl.configuration import ConfigError, alike
from sdedit_pl.configuration.schema import Command
from sdedit_pl.files import require_folder, write_whole
from sdedit_pl.result_folder import already_in, files_recorded_in, refuse_replacing, result_folder
from sdedit_pl.study.study_database import StudyDatabase
from sdedit_pl.study.study_settings import StudyPlan, StudyReporting, StudyServing

BUILD_USAGE = """sdedit study build methods.NAME=FOLDER methods.OTHER=FOLDER guides=FOLDER [out=FILE] [key=value ...]

Creates a study's database file. It holds copies of the images and decides which two images each rater sees, in which
order, on which sides and with which question. It also stores the answers."""
SERVE_USAGE = """sdedit study serve study=FILE [host=127.0.0.1] [port=8000]

Serves the raters' page until Ctrl-C. An answer is on disk before it is acknowledged, and the page keeps answers that it
could not send, so the server can be stopped and restarted at any time. ?rater=NAME in the address names a rater."""
REPORT_USAGE = """sdedit study report study=FILE [out=FOLDER] [key=value ...]

Writes the findings of a study, also while it is served: report.md, report.json and answers.csv."""

COMMANDS = {
    "build": Command(BUILD_USAGE, StudyPlan),
    "serve": Command(SERVE_USAGE, StudyServing),
    "report": Command(REPORT_USAGE, StudyReporting),
}


def run(words: list[str]) -> None:
    step = words[0] if words else ""
    if step not in STEPS:
        got = f"got {step!r}{alike(step, STEPS)}" if step else "got nothing"
        raise ConfigError(f"sdedit study takes one of {', '.join(STEPS)}, and then key=value ..., {got}")
    STEPS[step](words[1:])


def build(words: list[str]) -> None:
    """Writes a new study; an existing file is never replaced, as it may hold answers."""
    plan = COMMANDS["build"].parse(words)
    from sdedit_pl.checkpoints import describe  # imports PyTorch, which no other step needs
    from sdedit_pl.study.study_builder import build_study

    out = Path(plan.out)
    with result_folder(out.parent, out.name) as results:
        # SQLite would apply an orphaned log to the new file.
        for file in (out, out.with_name(f"{out.name}-wal")):
            if file.exists():
                raise ConfigError(f"{file} is already there and may hold answers; give another out=, or move it away")
        domain = None if plan.ckpt is None else describe(plan.ckpt).image
        made = build_study(plan, results / out.name, domain)
    say(
        f"{counted(made['items'], 'item')}, {counted(made['asked'], 'comparison')} in "
        f"{counted(made['forms'], 'form')}; each rater answers one form\n"
        f"serve it with: sdedit study serve {shlex.quote(f'study={out}')}"
    )


def serve(words: list[str]) -> None:
    arguments = COMMANDS["serve"].parse(words)
    _require_packages("serve", "jinja2", "starlette", "uvicorn")
    from sdedit_pl.study.study_server import study_app
    from sdedit_pl.web import listen, page_url, serve_app

    with StudyDatabase(Path(arguments.study)) as study, listen(arguments.host, arguments.port) as listening:
        elsewhere = ", or at this machine's network address" if arguments.host in ("", "0.0.0.0", "::") else ""
        say(f"the page is at {page_url(arguments.host, listening)}{elsewhere}; Ctrl-C stops the server")
        with suppress(KeyboardInterrupt):
            serve_app(study_app(study, arguments.names), listening)
        answers = study.answers()
    raters = counted(len({answer.rater for answer in answers}), "rater")
    word = shlex.quote(f"study={arguments.study}")
    say(f"{counted(len(answers), 'answer')} of {raters} so far; sdedit study report {word}")


def report(words: list[str]) -> None:
    arguments = COMMANDS["report"].parse(words)
    _require_packages("report", "jinja2")
    from sdedit_pl.study.study_report import REPORT_FILES, study_report

    out = Path(arguments.out)
    require_folder(out)
    with StudyDatabase(Path(arguments.study)) as study:
        texts = study_report(study, arguments.threshold)
    earlier: set[str] = set()
    with result_folder(out, replaced=earlier) as results:
        for name, text in texts.items():
            write_whole(results / name, text)
        earlier |= files_recorded_in(out / "report.json")
        if arguments.overwrite or not already_in(out, results):
            for name in REPORT_FILES:
                refuse_replacing(out / name, arguments.overwrite)
    say(texts["report.md"])
    say(f"in {out}: {', '.join(REPORT_FILES)}")


STEPS: dict[str, Callable[[list[str]], None]] = {"build": build, "serve": serve, "report": report}


def _require_packages(step: str, *packages: str) -> None:
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(f"sdedit study {step} needs {' and '.join(missing)}; pip install 'sdedit-pl[study]'")
