"""The file of a study: its images, its forms, its raters and their answers, in one SQLite database.

An answer is on the disk before it is acknowledged: every commit is synchronised (`synchronous=FULL`). The write-ahead
log lets a report be made while raters answer; it is moved into the file after every commit, so that the file alone is
whole whenever nobody is answering. The first answer of a rater to a trial is the one that counts, and the same answer
sent again changes nothing.

A file that is not a study, or is damaged, is refused as it is opened, before anything is written to it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from sdedit_pl.study.design import Side, StudyError, Subject, Trial

APPLICATION_ID = 0x53444564
"""What marks the file as a study's in SQLite's header: "SDEd"."""
VERSION = 1

_MAGIC = b"SQLite format 3\0"
_LOCK_TIMEOUT = 30
"""Seconds for which a commit waits for another program that has the file."""

_TABLES = """
CREATE TABLE study (settings TEXT NOT NULL);
CREATE TABLE images (id TEXT PRIMARY KEY, png BLOB NOT NULL);
CREATE TABLE trials (
    id TEXT PRIMARY KEY,
    form INTEGER NOT NULL,
    position INTEGER NOT NULL,
    question TEXT NOT NULL,
    item TEXT NOT NULL,
    left_source TEXT NOT NULL,
    right_source TEXT NOT NULL,
    left_image TEXT NOT NULL REFERENCES images,
    right_image TEXT NOT NULL REFERENCES images,
    guide_image TEXT REFERENCES images,
    correct TEXT CHECK (correct IN ('left', 'right')),
    UNIQUE (form, position)
);
CREATE TABLE raters (
    number INTEGER PRIMARY KEY,
    token TEXT NOT NULL UNIQUE,
    form INTEGER NOT NULL,
    joined TEXT NOT NULL
);
CREATE TABLE answers (
    rater INTEGER NOT NULL REFERENCES raters,
    trial TEXT NOT NULL REFERENCES trials,
    choice TEXT NOT NULL CHECK (choice IN ('left', 'right')),
    milliseconds INTEGER,
    received TEXT NOT NULL,
    PRIMARY KEY (rater, trial)
);
"""


class UnknownTrial(StudyError):
    """An answer of a rater, or to a trial, that the study does not have."""


class ShownTrial(NamedTuple):
    """What a rater's page is told of a trial: nothing that says whose the images are.

    Args:
        id: of the trial.
        question: a key of QUESTIONS.
        left: id of the image on the left.
        right: id of the image on the right.
        guide: id of the guide's image, None where it is not shown.
        answered: whether the rater has answered it.
    """

    id: str
    question: str
    left: str
    right: str
    guide: str | None
    answered: bool


@dataclass(frozen=True)
class Answer:
    """An answer, with all that is known of it.

    Args:
        rater: number of the rater, in the order in which they came.
        form: number of the form.
        position: of the trial in the form.
        question: a key of QUESTIONS.
        item: name of the item.
        left: whose image stood on the left, see `Subject.label`.
        right: whose image stood on the right.
        choice: the side chosen.
        correct: the right answer of a catch trial; None in a comparison.
        milliseconds: from the images' appearance to the choice.
        received: when it was stored, in UTC.
    """

    rater: int
    form: int
    position: int
    question: str
    item: str
    left: str
    right: str
    choice: Side
    correct: Side | None
    milliseconds: int | None
    received: str

    @property
    def preferred(self) -> str:
        """Whose image was chosen."""
        return self.left if self.choice == "left" else self.right


class Study:
    """An opened study; its methods may be called by several threads.

    Args:
        path: the file.

    Raises:
        StudyError: if there is none, it is not a study of this version, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        _check_header(path)
        self.path = path
        self._lock = RLock()
        # Without a log beside it the file is all there is, and SQLite need not make one to read it.
        reading = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
        self._database = self._connected(reading)
        try:
            self.settings = self._checked_settings()
            self._database.close()
            self._database = self._connected("mode=rw")
            for pragma in ("synchronous = FULL", "wal_autocheckpoint = 1", "foreign_keys = ON"):
                self._database.execute(f"PRAGMA {pragma}")
            self._rows("SELECT 1 FROM study")  # makes the log, which takes a folder that can be written
        except (sqlite3.Error, ValueError, TypeError) as error:
            self._database.close()
            if isinstance(error, sqlite3.OperationalError):
                raise StudyError(f"the study {path} cannot be opened: {error}") from error
            raise StudyError(
                f"the study {path} is damaged ({error}), and left as it is; take a copy of it from before, or save "
                f"what can be saved with: sqlite3 {path} .recover"
            ) from error

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._database.close()

    def join(self, token: str) -> list[ShownTrial]:
        """The trials of a rater, in order; a new one gets the form that the fewest raters have.

        Args:
            token: what the rater's browser calls itself.
        """
        with self._transaction() as database:
            number = self._number(token)
            if number is None:
                (form,) = database.execute(
                    "SELECT form FROM (SELECT DISTINCT form FROM trials) AS forms "
                    "ORDER BY (SELECT count(*) FROM raters WHERE raters.form = forms.form), form LIMIT 1"
                ).fetchone()
                number = database.execute(
                    "INSERT INTO raters (token, form, joined) VALUES (?, ?, ?)", (token, form, _now())
                ).lastrowid
            rows = database.execute(
                "SELECT id, trials.question, left_image, right_image, guide_image, answers.trial IS NOT NULL "
                "FROM trials LEFT JOIN answers ON answers.trial = trials.id AND answers.rater = :number "
                "WHERE form = (SELECT form FROM raters WHERE raters.number = :number) ORDER BY position",
                {"number": number},
            ).fetchall()
        return [ShownTrial(*row[:-1], answered=bool(row[-1])) for row in rows]

    def record(self, token: str, trial: str, choice: Side, milliseconds: int | None) -> Side:
        """Stores an answer, unless there is one already, and returns the one that is stored.

        Raises:
            UnknownTrial: if no rater has this token, or the trial is not of this rater's form.
        """
        with self._transaction() as database:
            number = self._number(token)
            if number is None:
                raise UnknownTrial("this study does not know you; load the page again")
            asked = database.execute(
                "SELECT 1 FROM trials JOIN raters USING (form) WHERE trials.id = ? AND number = ?", (trial, number)
            ).fetchone()
            if asked is None:
                raise UnknownTrial("this study did not ask you that; load the page again")
            database.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT (rater, trial) DO NOTHING",
                (number, trial, choice, milliseconds, _now()),
            )
            return database.execute(
                "SELECT choice FROM answers WHERE rater = ? AND trial = ?", (number, trial)
            ).fetchone()[0]

    def image(self, identity: str) -> bytes | None:
        """The PNG file of an image; None where the study has none of this id."""
        rows = self._rows("SELECT png FROM images WHERE id = ?", identity)
        return rows[0][0] if rows else None

    def answers(self) -> list[Answer]:
        """All answers, by rater, in the order in which they were asked."""
        rows = self._rows(
            "SELECT rater, form, position, question, item, left_source, right_source, choice, correct, milliseconds, "
            "received FROM answers JOIN trials ON trials.id = trial ORDER BY rater, position"
        )
        return [Answer(*row) for row in rows]

    def raters(self) -> dict[int, int]:
        """For each rater, by number, how many trials the form has."""
        return dict(
            self._rows(
                "SELECT number, (SELECT count(*) FROM trials WHERE trials.form = raters.form) FROM raters "
                "ORDER BY number"
            )
        )

    def _connected(self, mode: str) -> sqlite3.Connection:
        """The file, opened; a log is moved into it as the last connection that may write closes."""
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{mode}",
            uri=True,
            timeout=_LOCK_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )

    def _checked_settings(self) -> dict[str, Any]:
        """What the study was made of, from a file that SQLite finds nothing wrong with."""
        ((found,),) = self._rows("PRAGMA integrity_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))
        ((settings,),) = self._rows("SELECT settings FROM study")
        return json.loads(settings)

    def _number(self, token: str) -> int | None:
        rows = self._rows("SELECT number FROM raters WHERE token = ?", token)
        return rows[0][0] if rows else None

    def _rows(self, query: str, *values: str) -> list[Any]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """What is written in the block is on the disk when it ends; on an error, none of it is."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")


def write_study(
    path: Path, settings: Mapping[str, Any], forms: Sequence[Sequence[Trial]], pictures: Mapping[Subject, bytes]
) -> None:
    """Writes a new study.

    Args:
        path: of the file, which must not be there.
        settings: what it was made of; plain data, with the seed.
        forms: the trials of each form.
        pictures: the PNG file of every image that the trials show.

    Raises:
        StudyError: if it cannot be written.
    """
    content = [json.dumps(settings, sort_keys=True).encode(), *(pictures[subject] for subject in sorted(pictures))]
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in content)).digest()
    names = {subject: _opaque(png, key) for subject, png in pictures.items()}
    unique = {names[subject]: png for subject, png in pictures.items()}
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            for pragma in (f"application_id = {APPLICATION_ID}", f"user_version = {VERSION}", "journal_mode = WAL"):
                database.execute(f"PRAGMA {pragma}")
            database.executescript(_TABLES)
            database.execute("BEGIN")
            database.execute("INSERT INTO study VALUES (?)", (json.dumps({"id": key.hex()[:16], **settings}),))
            database.executemany("INSERT INTO images VALUES (?, ?)", sorted(unique.items()))
            for form, trials in enumerate(forms):
                for position, trial in enumerate(trials):
                    row = (_opaque(f"{form} {position}".encode(), key), form, position, *_columns(trial, names))
                    database.execute(f"INSERT INTO trials VALUES ({', '.join('?' * len(row))})", row)
            database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise StudyError(f"the study cannot be written: {error}") from error


def _columns(trial: Trial, names: Mapping[Subject, str]) -> tuple[str | None, ...]:
    """A trial's columns from `question` on."""
    return (
        trial.question,
        trial.item,
        trial.left.label,
        trial.right.label,
        names[trial.left],
        names[trial.right],
        None if trial.guide is None else names[trial.guide],
        trial.correct,
    )


def _opaque(content: bytes, key: bytes) -> str:
    """A name for `content` that says nothing of it to who does not have the key."""
    return hashlib.blake2b(content, key=key, digest_size=12).hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _check_header(path: Path) -> None:
    """Raises a StudyError unless a file's first bytes, read without SQLite, are those of a study of this version."""
    if not path.is_file():
        raise StudyError(f"there is no study at {path}; `sdedit study build` makes one")
    with path.open("rb") as file:
        header = file.read(100)
    version, application = (int.from_bytes(header[start : start + 4], "big") for start in (60, 68))
    if not header.startswith(_MAGIC) or application != APPLICATION_ID:
        raise StudyError(f"{path} is not a study, and left as it is; give a file that `sdedit study build` has made")
    if version != VERSION:
        raise StudyError(f"{path} is a study of version {version}, this program reads {VERSION}; use the one it is of")
