"""Settings that results depend on, recorded beside them, so that a later command with other settings is refused.

A record is a JSON file that appears whole or not at all. Settings are plain data: mappings, lists, strings, numbers,
booleans and None. Tuples count as lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sdedit_pl.files import write_whole

_ABSENT = object()


class SettingsChanged(ValueError):
    """Results that were made with other settings; the message names each changed key with both of its values."""


class ChangedSetting(NamedTuple):
    """A setting with two values.

    Args:
        key: its name, with dots between the levels of nested mappings.
        before: its value in the record, None if it is not there.
        now: its value now.
    """

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} was {self.before}, and is {self.now} now"


@dataclass(frozen=True)
class SettingsRecord:
    """A record in a file.

    Args:
        file: the file.
        format: identifies the kind of record and its version, for example "sdedit_pl evaluation, version 1".
        remedy: what the user can do about a record that does not fit, for messages.
    """

    file: Path
    format: str
    remedy: str

    def read(self) -> dict[str, Any] | None:
        """The recorded settings, or None if there is no record.

        Raises:
            ValueError: the file is not a record of this format.
        """
        if not self.file.is_file():
            return None
        try:
            settings = json.loads(self.file.read_text(encoding="utf-8"))
            found = settings.pop("format")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.file} cannot be read as a record ({error}); {self.remedy}") from error
        if found != self.format:
            raise ValueError(f"{self.file} has the format {found!r}, expected {self.format!r}; {self.remedy}")
        return settings

    def write(self, settings: Mapping[str, Any]) -> None:
        """Replaces the record.

        Raises:
            OSError: the file cannot be written.
        """
        content = {"format": self.format, **settings}
        write_whole(self.file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[ChangedSetting]:
    """The settings of `now` that have another value in `before`, or none; keys of `before` alone do not count."""
    return list(_changes(_plain(before), _plain(now), ""))


def require_same_settings(results: Path | str, before: Mapping[str, Any], now: Mapping[str, Any], remedy: str) -> None:
    """Refuses to add to results that were made with other settings.

    Args:
        results: what was made, for the message: a folder or a file.
        before: the settings it was made with.
        now: the settings of this command.
        remedy: what the user can do, for the message.

    Raises:
        SettingsChanged: a setting of `now` has another value in `before`, or none.
    """
    changes = changed_settings(before, now)
    if changes:
        raise SettingsChanged(f"{results} was made with other settings: {'; '.join(map(str, changes))}; {remedy}")


def _changes(before: Any, now: Any, key: str) -> Iterator[ChangedSetting]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name, value in now.items():
            yield from _changes(before.get(name, _ABSENT), value, f"{key}.{name}" if key else name)
    elif before is _ABSENT:
        yield ChangedSetting(key, None, now)
    elif before != now:
        yield ChangedSetting(key, before, now)


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from a file."""
    return json.loads(json.dumps(dict(settings)))
