"""The SQLite database of a study: images, forms, raters and their answers.

An answer is on disk before it is acknowledged (`synchronous=FULL`). The write-ahead log allows a report while raters
answer; it is moved into the file after every commit, so that the file alone is complete between answers. Only a rater's
first answer to a trial counts. A file that is damaged or not a study is refused before anything is written to it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from sdedit_pl.study.questions import QUESTIONS
from sdedit_pl.study.trial_design import Side, StudyError, Trial, TrialImage

APPLICATION_ID = 0x53444564
"""Identifies the file as a study in SQLite's header; the ASCII bytes of "SDEd"."""
STUDY_VERSION = 1

_MAGIC = b"SQLite format 3\0"
_DAMAGE = (sqlite3.Error, OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
_LOCK_TIMEOUT = 30
"""Seconds that a commit waits for another program's lock on the file."""

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
    """The study has no such rater, or the trial is not part of the rater's form."""


class ShownTrial(NamedTuple):
    """A trial as the rater's page receives it, without names of methods; images are ids, `guide` None if not shown."""

    id: str
    question: str
    left: str
    right: str
    guide: str | None
    answered: bool


@dataclass(frozen=True)
class Answer:
    """A stored answer.

    Args:
        rater: number of the rater, in the order of joining.
        left, right: origin of the image on that side, see `TrialImage.label`.
        correct: the correct side in a catch trial; None in a comparison.
        milliseconds: time from the appearance of the images to the choice; None if unknown.
        received: time of storage, ISO 8601 in UTC.
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
        return self.left if self.choice == "left" else self.right


class StudyDatabase:
    """An open study database, thread-safe; raises StudyError unless the file is an intact study of this version."""

    def __init__(self, path: Path) -> None:
        _check_header(path)
        self.path = path
        self._lock = RLock()
        # `immutable` stops SQLite from creating a log beside the file, but would ignore one that exists.
        reading = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
        self._database = self._connected(reading)
        try:
            self.settings = self._checked_settings()
            self._database.close()
            self._database = self._connected("mode=rw")
            for pragma in ("synchronous = FULL", "wal_autocheckpoint = 1", "foreign_keys = ON"):
                self._database.execute(f"PRAGMA {pragma}")
            self._rows("SELECT 1 FROM study")  # creates the log, and so fails in a folder that is not writable
            self._pictures = self._connected("mode=ro")  # reads while another program's lock holds back answers
        except _DAMAGE as error:
            self._database.close()
            if isinstance(error, sqlite3.OperationalError):
                raise StudyError(f"the study {path} cannot be opened: {error}") from error
            raise StudyError(
                f"the study {path} is damaged ({error}) and was not changed; restore a backup, or recover what is left "
                f"with: sqlite3 {path} .recover"
            ) from error

    def __enter__(self) -> StudyDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pictures.close()
        with self._lock:
            self._database.close()

    def join(self, token: str) -> list[ShownTrial]:
        """The rater's trials in order; a new `token` (a browser's name) gets the form that the fewest raters have."""
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
        """Stores an answer unless one exists, and returns the stored choice; raises UnknownTrial."""
        with self._transaction() as database:
            number = self._number(token)
            if number is None:
                raise UnknownTrial("this study does not know you; reload the page")
            asked = database.execute(
                "SELECT 1 FROM trials JOIN raters USING (form) WHERE trials.id = ? AND number = ?", (trial, number)
            ).fetchone()
            if asked is None:
                raise UnknownTrial("this study did not ask you that; reload the page")
            database.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?) ON CONFLICT (rater, trial) DO NOTHING",
                (number, trial, choice, milliseconds, _now()),
            )
            return database.execute(
                "SELECT choice FROM answers WHERE rater = ? AND trial = ?", (number, trial)
            ).fetchone()[0]

    def image(self, identity: str) -> bytes | None:
        rows = self._pictures.execute("SELECT png FROM images WHERE id = ?", (identity,)).fetchall()
        return rows[0][0] if rows else None

    def answers(self) -> list[Answer]:
        rows = self._rows(
            "SELECT rater, form, position, question, item, left_source, right_source, choice, correct, milliseconds, "
            "received FROM answers JOIN trials ON trials.id = trial ORDER BY rater, position"
        )
        return [Answer(*row) for row in rows]

    def raters(self) -> dict[int, int]:
        """Number of the rater -> number of trials in the rater's form."""
        return dict(
            self._rows(
                "SELECT number, (SELECT count(*) FROM trials WHERE trials.form = raters.form) FROM raters "
                "ORDER BY number"
            )
        )

    def _connected(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{mode}",
            uri=True,
            timeout=_LOCK_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )

    def _checked_settings(self) -> dict[str, Any]:
        """The study's settings; raises if the file fails SQLite's integrity check, or an image its checksums."""
        from PIL.PngImagePlugin import PngImageFile  # slow to import

        ((found,),) = self._rows("PRAGMA integrity_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError(" ".join(found.split()))
        ((text,),) = self._rows("SELECT settings FROM study")
        settings = json.loads(text)
        if not {"id", "methods", "pairs"} <= settings.keys() or not set(settings["questions"]) <= QUESTIONS.keys():
            raise ValueError("its settings are not those of a study")
        self._rows("SELECT 1 FROM images, trials, raters, answers LIMIT 0")
        if settings.pop("sha256", None) not in (None, _digest(settings, self._rows("SELECT * FROM trials"))):
            raise ValueError("the texts of its trials or settings have changed")
        for (png,) in self._database.execute("SELECT png FROM images"):
            PngImageFile(BytesIO(png)).verify()
        return settings

    def _number(self, token: str) -> int | None:
        rows = self._rows("SELECT number FROM raters WHERE token = ?", token)
        return rows[0][0] if rows else None

    def _rows(self, query: str, *values: str) -> list[Any]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits the block's changes to disk when it ends, or none of them after an error."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")


def write_study(
    path: Path, settings: Mapping[str, Any], forms: Sequence[Sequence[Trial]], pictures: Mapping[TrialImage, bytes]
) -> None:
    """Writes the database of a new study to `path`, which must not exist; raises StudyError if it cannot be written.

    `settings` are JSON-serialisable; `pictures` has the PNG file of each image.
    """
    content = [json.dumps(settings, sort_keys=True).encode(), *(pictures[image] for image in sorted(pictures))]
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in content)).digest()
    names = {image: _opaque(png, key) for image, png in pictures.items()}
    unique = {names[image]: png for image, png in pictures.items()}
    rows = [
        (_opaque(f"{form} {position}".encode(), key), form, position, *_columns(trial, names))
        for form, trials in enumerate(forms)
        for position, trial in enumerate(trials)
    ]
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            for pragma in (
                f"application_id = {APPLICATION_ID}",
                f"user_version = {STUDY_VERSION}",
                "journal_mode = WAL",
            ):
                database.execute(f"PRAGMA {pragma}")
            database.executescript(_TABLES)
            database.execute("BEGIN")
            settings = {"id": key.hex()[:16], **settings}
            settings |= {"sha256": _digest(settings, rows)}
            database.execute("INSERT INTO study VALUES (?)", (json.dumps(settings),))
            database.executemany("INSERT INTO images VALUES (?, ?)", sorted(unique.items()))
            database.executemany(f"INSERT INTO trials VALUES ({', '.join('?' * len(rows[0]))})", rows)
            database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise StudyError(f"the study cannot be written: {error}") from error


def _columns(trial: Trial, names: Mapping[TrialImage, str]) -> tuple[str | None, ...]:
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


def _digest(settings: Mapping[str, Any], trials: Sequence[tuple[Any, ...]]) -> str:
    """A hash of the settings and the rows of `trials`: SQLite has no checksums of its own."""
    return hashlib.sha256(json.dumps([settings, sorted(trials)], sort_keys=True).encode()).hexdigest()


def _opaque(content: bytes, key: bytes) -> str:
    return hashlib.blake2b(content, key=key, digest_size=12).hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _check_header(path: Path) -> None:
    """Raises StudyError unless the file's header, read without SQLite, is that of a study of this version."""
    if not path.is_file():
        raise StudyError(f"there is no study at {path}; `sdedit study build` makes one")
    with path.open("rb") as file:
        header = file.read(100)
    version, application = (int.from_bytes(header[start : start + 4], "big") for start in (60, 68))
    if not header.startswith(_MAGIC) or application != APPLICATION_ID:
        raise StudyError(f"{path} is not a study and was not changed; give a file made by `sdedit study build`")
    if version != STUDY_VERSION:
        raise StudyError(
            f"{path} is a study of version {version}, and this program reads version {STUDY_VERSION}; "
            "use the sdedit_pl release that made it"
        )
