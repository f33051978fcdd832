"""The study's database: which answers it stores, what survives a kill, and which files it refuses."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from sdedit_pl.study.study_database import StudyDatabase, UnknownTrial, write_study
from sdedit_pl.study.trial_design import StudyError


@pytest.fixture
def file(build: Callable[..., Path]) -> Path:
    return build()


class TestRaters:
    def test_a_new_rater_gets_the_form_that_the_fewest_have(self, study: StudyDatabase) -> None:
        forms = study.settings["forms"]
        given = [tuple(trial.id for trial in study.join(f"rater{number}")) for number in range(2 * forms)]
        assert len(set(given[:forms])) == forms and given[forms:] == given[:forms]

    def test_a_returning_rater_gets_the_same_trials_with_answers_marked(self, file: Path) -> None:
        with StudyDatabase(file) as study:
            first, *rest = study.join("a")
            study.record("a", first.id, "left", None)
        with StudyDatabase(file) as study:
            study.join("b")
            assert study.join("a") == [first._replace(answered=True), *rest]
            assert len(study.raters()) == 2

    def test_the_guide_is_sent_for_questions_that_show_it(self, study: StudyDatabase) -> None:
        for trial in study.join("a"):
            assert (trial.guide is None) == (trial.question == "realism")
            assert all(study.image(image) for image in (trial.left, trial.right, trial.guide) if image)
        assert study.image("0" * 24) is None


class TestAnswers:
    def test_they_are_read_back_in_full(self, study: StudyDatabase) -> None:
        trials = study.join("a")
        for trial in reversed(trials):
            study.record("a", trial.id, "right", 1234)
        answers = study.answers()
        assert [answer.position for answer in answers] == list(range(len(trials)))
        assert [answer.question for answer in answers] == [trial.question for trial in trials]
        for answer in answers:
            assert (answer.rater, answer.form, answer.choice, answer.milliseconds) == (1, 0, "right", 1234)
            assert answer.preferred == answer.right
            assert ("(degraded)" in (answer.left, answer.right)) == (answer.correct is not None)

    def test_the_first_one_counts_and_the_rest_change_nothing(self, study: StudyDatabase) -> None:
        trial = study.join("a")[0].id
        assert [study.record("a", trial, choice, 5) for choice in ("left", "left", "right")] == ["left"] * 3
        assert len(study.answers()) == 1

    def test_an_answer_to_a_trial_that_was_not_asked_is_refused(self, study: StudyDatabase) -> None:
        trials = {rater: study.join(rater) for rater in ("a", "b")}
        with pytest.raises(UnknownTrial, match="does not know you"):
            study.record("c", trials["a"][0].id, "left", None)
        for trial in (trials["b"][0].id, "0" * 24):
            with pytest.raises(UnknownTrial, match="did not ask you that"):
                study.record("a", trial, "left", None)
        assert study.answers() == []

    def test_many_raters_at_once_lose_and_double_nothing(self, study: StudyDatabase) -> None:
        def take_part(rater: str) -> None:
            for trial in study.join(rater):
                for _ in range(2):
                    study.record(rater, trial.id, "left", 1)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(take_part, map(str, range(8))))
        assert len(study.answers()) == sum(study.raters().values()) and len(study.raters()) == 8

    def test_a_report_can_read_while_answers_arrive(self, file: Path) -> None:
        with StudyDatabase(file) as serving, StudyDatabase(file) as reporting:
            trials = serving.join("a")
            for count, trial in enumerate(trials, 1):
                serving.record("a", trial.id, "left", 1)
                assert len(reporting.answers()) == count


class TestDurability:
    @pytest.mark.parametrize("files", [["study.sqlite", "study.sqlite-wal"], ["study.sqlite"]], ids=["log", "alone"])
    def test_an_acknowledged_answer_is_in_the_file(self, file: Path, files: list[str], tmp_path: Path) -> None:
        """Copies the files without closing the database, as a kill leaves them."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        with StudyDatabase(file) as study:
            trials = study.join("a")[:5]
            for trial in trials:
                study.record("a", trial.id, "right", 1)
            for name in files:
                shutil.copyfile(file.with_name(name), elsewhere / name)
        with StudyDatabase(elsewhere / file.name) as study:
            assert len(study.answers()) == 5

    def test_an_error_in_a_transaction_rolls_it_back(self, study: StudyDatabase) -> None:
        with pytest.raises(ZeroDivisionError), study._transaction() as database:
            database.execute("INSERT INTO raters (token, form, joined) VALUES ('x', 0, '')")
            raise ZeroDivisionError
        assert study.raters() == {} and study.join("a")


class TestOtherFiles:
    """They are refused, and no byte of them is changed."""

    @staticmethod
    def refusal(file: Path) -> str:
        before = file.read_bytes() if file.exists() else None
        neighbours = set(file.parent.iterdir())
        with pytest.raises(StudyError) as refused:
            StudyDatabase(file)
        assert (file.read_bytes() if file.exists() else None) == before
        assert set(file.parent.iterdir()) == neighbours
        return str(refused.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert "there is no study at" in self.refusal(tmp_path / "none.sqlite")
        assert "there is no study at" in self.refusal(tmp_path.joinpath("folder"))

    @pytest.mark.parametrize("content", [b"", b"text", b"SQLite format 3\0" + bytes(200)])
    def test_a_file_that_is_not_a_study(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "other"
        file.write_bytes(content)
        assert f"{file} is not a study and was not changed" in self.refusal(file)

    def test_a_database_of_another_program(self, tmp_path: Path) -> None:
        file = tmp_path / "other.sqlite"
        with closing(sqlite3.connect(file)) as database:
            database.execute("CREATE TABLE answers (rater)")
        assert "is not a study and was not changed" in self.refusal(file)

    @pytest.mark.parametrize("damage", ["cut", "overwritten", "emptied", "flipped", "changed name"])
    def test_a_damaged_study(self, file: Path, damage: str) -> None:
        whole = file.read_bytes()
        damaged = {
            "cut": whole[: len(whole) // 2],
            "overwritten": whole[:4096] + b"\xff" * 16384 + whole[20480:],
            "emptied": whole[:100] + bytes(len(whole) - 100),
            "flipped": whole.replace(b"IDAT", b"IDAU", 1),
            "changed name": whole.replace(b"(degraded)", b"(degradee)", 1),
        }
        file.write_bytes(damaged[damage])
        message = self.refusal(file)
        assert "is damaged (" in message and "was not changed" in message and ".recover" in message

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("PRAGMA user_version = 2", "is a study of version 2"),
            ("DROP TABLE answers", "cannot be opened: no such table: answers"),
            *(
                (f"UPDATE study SET settings = '{settings}'", "is damaged (")
                for settings in ("{}", "[]", "[" * 10**5, '{"id": 1, "methods": {}, "pairs": 1, "questions": ["?"]}')
            ),
        ],
        ids=["later version", "missing table", "empty settings", "list", "nested list", "other settings"],
    )
    def test_a_changed_study(self, file: Path, change: str, message: str) -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute(change)
        assert message in self.refusal(file)

    def test_a_damaged_study_keeps_the_log_of_its_killed_server(self, file: Path, tmp_path: Path) -> None:
        killed = tmp_path / "killed"
        killed.mkdir()
        copies = [killed / file.name, killed / f"{file.name}-wal"]
        with StudyDatabase(file) as study:
            study.join("a")
            for copy in copies:
                shutil.copyfile(file.with_name(copy.name), copy)
        whole = copies[0].read_bytes()
        copies[0].write_bytes(whole[:4096] + b"\xff" * 16384 + whole[20480:])
        before = [copy.read_bytes() for copy in copies]
        with pytest.raises(StudyError, match=r"is damaged .* was not changed"):
            StudyDatabase(copies[0])
        assert [copy.read_bytes() for copy in copies] == before

    def test_a_locked_study(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def locked(self: StudyDatabase) -> None:
            raise sqlite3.OperationalError("database is locked")

        monkeypatch.setattr(StudyDatabase, "_checked_settings", locked)
        assert "cannot be opened: database is locked" in self.refusal(file)


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be written: unable to open"):
        write_study(tmp_path / "nowhere" / "study.sqlite", {}, [], {})
