"""`sdedit study` as a user meets it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from sdedit_pl.cli import study as verb
from sdedit_pl.configuration.schema import keys_of
from sdedit_pl.study.study_database import StudyDatabase
from sdedit_pl.study.study_report import REPORT_FILES

METHODS = ("methods.ours=ours", "methods.theirs=theirs")


@pytest.fixture
def folders(desk: Path) -> Path:
    """Outputs of two methods for three guides."""
    noise = np.random.default_rng(0)
    for folder in ("ours", "theirs", "guides"):
        Path(folder).mkdir()
        for number in range(3):
            Image.fromarray(noise.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(f"{folder}/{number}.png")
    return desk


@pytest.fixture
def answered(folders: Path, command: Callable) -> Path:
    """A study with a rater who prefers ours and passes all catch trials, and one who always chooses the left image."""
    assert command("study", "build", *METHODS, "guides=guides").code == 0
    with StudyDatabase(Path("study.sqlite")) as study:
        for rater in ("careful", "careless"):
            study.join(rater)
            for trial, left, correct in study._rows(
                "SELECT trials.id, left_source, correct FROM trials JOIN raters USING (form) WHERE token = ?", rater
            ):
                right_choice = correct or ("left" if left == "ours" else "right")
                study.record(rater, trial, right_choice if rater == "careful" else "left", 1000)
    return folders


@pytest.mark.parametrize("step", ["build", "serve", "report"])
def test_help_of_each_step(step: str, command) -> None:
    code, output, _ = command("study", step, "--help")
    assert code == 0 and output.startswith(f"sdedit study {step} ")
    for key, known in keys_of(verb.COMMANDS[step].arguments).items():
        assert f"\n  {key} " in output and len(known.text) > 5
    assert output.strip() in command("study", "--help").output


def test_build_reports_the_size_of_the_study(folders: Path, command) -> None:
    code, output, _ = command("study", "build", *METHODS, "guides=guides", "out=new/mine.sqlite", "comparisons=3")
    assert code == 0 and output.splitlines() == [
        "3 items, 9 comparisons in 6 forms; each rater answers one form",
        "serve it with: sdedit study serve study=new/mine.sqlite",
    ]
    assert [path.name for path in Path("new").iterdir()] == ["mine.sqlite"]


def test_serve_ends_with_an_interrupt(answered: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sdedit_pl.web.serve_app", interrupted)
    code, output, errors = command("study", "serve", "study=study.sqlite", "port=0")
    first, second = output.splitlines()
    assert (code, errors) == (0, "")
    assert first.startswith("the page is at http://127.0.0.1:") and first.endswith("/; Ctrl-C stops the server")
    assert second == "24 answers of 2 raters so far; sdedit study report study=study.sqlite"


def test_a_killed_server_has_stored_every_acknowledged_answer(folders: Path, command) -> None:
    assert command("study", "build", *METHODS, "guides=guides").code == 0
    serve = [sys.executable, "-m", "sdedit_pl", "study", "serve", "study=study.sqlite", "port=0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[4].rstrip(";")
        with httpx.Client(base_url=address) as client:
            trials = client.post("api/join", json={"rater": "a"}).json()["trials"]
            for trial in trials[:5]:
                body = {"rater": "a", "trial": trial["id"], "choice": "left", "milliseconds": 1}
                assert client.post("api/answers", json=body).json() == {"choice": "left"}
        process.kill()
    with StudyDatabase(Path("study.sqlite")) as study:
        assert len(study.answers()) == 5


@pytest.mark.parametrize("step", ["serve", "report"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    step: str, answered: Path, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "find_spec", lambda name: None)
    message = refused("study", step, "study=study.sqlite")
    assert "needs jinja2" in message and message.endswith("; pip install 'sdedit-pl[study]'")


def test_serving_and_reporting_need_no_pytorch() -> None:
    """A server starts instantly, even on a small machine."""
    program = (
        "import sys, sdedit_pl.cli.study, sdedit_pl.study.study_server, sdedit_pl.study.study_report; "
        "sys.exit(str(sorted({'torch', 'PIL', 'numpy'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr == "[]\n"


def test_report_writes_tables_data_and_answers(answered: Path, command) -> None:
    code, output, _ = command("study", "report", "study=study.sqlite", "out=found")
    assert code == 0 and {path.name for path in Path("found").iterdir()} == set(REPORT_FILES)
    text = Path("found/report.md").read_text()
    assert text in output and "in found: report.md, report.json, answers.csv" in output
    assert "| ours over theirs | 100.0 % [43.9, 100.0], 3 |" in text
    assert "are excluded: rater 2 (" in text
    findings = json.loads(Path("found/report.json").read_text())
    assert findings["left_out"] == [2] and findings["study"]["methods"] == {"ours": "ours", "theirs": "theirs"}
    with Path("found/answers.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24


def test_report_replaces_an_earlier_one_on_request(answered: Path, command, refused) -> None:
    assert command("study", "report", "study=study.sqlite", "out=found").code == 0
    Path("found/notes.txt").write_text("mine")
    code, _, errors = command("study", "report", "study=study.sqlite", "out=found")
    assert code == 0 and "the results were already there" in errors
    assert refused("study", "report", "study=study.sqlite", "out=found", "threshold=0") == (
        "found/report.md is already there; give another out=, or overwrite=true"
    )
    again = ("study", "report", "study=study.sqlite", "out=found", "threshold=0", "overwrite=true")
    assert command(*again).code == 0
    assert json.loads(Path("found/report.json").read_text())["left_out"] == []
    assert Path("found/notes.txt").read_text() == "mine"
    Path("found/report.md").write_text("my words")
    assert "found holds report.md: not written by this program, changed since" in refused(*again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study"], "sdedit study takes one of build, serve, report, and then key=value ..., got nothing"),
        (["study", "buidl"], "got 'buidl'; did you mean build?"),
        (["study", "build"], "methods is required: methods.NAME=FOLDER"),
        (["study", "build", "methods=ours"], "methods must be "),
        (["study", "build", *METHODS, "guides=none"], "guides=none: there is no file or folder at none"),
        (["study", "build", "methods.ours=ours", "methods.theirs=none", "guides=guides"], "methods.theirs=none: "),
        (["study", "build", *METHODS, "guides=guides", "out=guide.png"], "guide.png is already there and may hold"),
        (["study", "build", *METHODS, "guides=guides", "questions=[beauty]"], "questions must be some of realism, "),
        (
            ["study", "build", *METHODS, "guides=guides", "comparison=3"],
            "unknown key comparison; did you mean comparisons",
        ),
        (["study", "serve"], "study is required: the study's database file"),
        (["study", "serve", "study=none.sqlite"], "there is no study at none.sqlite; `sdedit study build` makes one"),
        (["study", "serve", "study=guide.png"], "guide.png is not a study and was not changed"),
        (["study", "report", "study=guide.png"], "guide.png is not a study and was not changed"),
        (["study", "report", "study=x", "threshold=2"], "threshold must lie in [0, 1], got 2.0; "),
        (["study", "report", "study=x", "out=guide.png"], "out=guide.png is a file; name a folder"),
    ],
)
def test_invalid_arguments_are_refused(folders: Path, refused, arguments: list[str], message: str) -> None:
    assert message in refused(*arguments)


def test_answers_are_never_overwritten(answered: Path, refused) -> None:
    assert "study.sqlite is already there and may hold answers; give another out=" in refused(
        "study", "build", *METHODS, "guides=guides"
    )
    Path("study.sqlite").rename("study.sqlite-wal")
    assert "study.sqlite-wal is already there" in refused("study", "build", *METHODS, "guides=guides")


def test_a_study_without_answers_has_no_report(folders: Path, command, refused) -> None:
    assert command("study", "build", *METHODS, "guides=guides").code == 0
    assert "the study has no answers yet" in refused("study", "report", "study=study.sqlite")
