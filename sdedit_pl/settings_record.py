"""Settings that results depend on, recorded beside them as plain data, to refuse commands with other settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdedit_pl.files import read_json, write_whole

LOCK = "lock"


class SettingsChanged(ValueError):
    """Results were made with other settings; the message names each changed key with both of its values."""


@dataclass(frozen=True)
class SettingsRecord:
    """A record in a JSON file; `remedy` is the advice in messages about a record that does not fit."""

    file: Path
    format: str
    remedy: str

    def read(self) -> dict[str, Any] | None:
        """The recorded settings, None without a file; raises ValueError if it is not a record of this format."""
        if not self.file.is_file():
            return None
        try:
            settings = read_json(self.file)
            found = settings.pop("format")
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{self.file} cannot be read as a record ({error}); {self.remedy}") from error
        if found != self.format:
            raise ValueError(f"{self.file} has the format {found!r}, expected {self.format!r}; {self.remedy}")
        return settings

    def write(self, settings: Mapping[str, Any]) -> None:
        content = {"format": self.format, **settings}
        write_whole(self.file, json.dumps(content, indent=1) + "\n")

    def begin(self, results: Path, settings: Mapping[str, Any], overwrite: bool) -> None:
        """Resumes unfinished results with the same settings; without a record, empties its folder and writes one.

        Other settings raise SettingsChanged, which names `results`, or with `overwrite` begin anew. `LOCK` stays.
        """
        before = self.read()
        try:
            require_same_settings(results, settings if before is None else before, settings, self.remedy)
        except SettingsChanged:
            if not overwrite:
                raise
            before = None
        if before is None:
            for file in self.file.parent.iterdir():
                if file.is_dir():
                    shutil.rmtree(file)
                elif file.name != LOCK:
                    file.unlink()
            self.write(settings)


def require_same_settings(results: Path | str, before: Mapping[str, Any], now: Mapping[str, Any], remedy: str) -> None:
    """Raises SettingsChanged, ending in `remedy`, if a setting of `now` differs in `before`; missing ones are None."""
    changes = "; ".join(_changes(_plain(before), _plain(now), ""))
    if changes:
        raise SettingsChanged(f"{results} was made with other settings: {changes}; {remedy}")


def _changes(before: Any, now: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name, value in now.items():
            yield from _changes(before.get(name), value, f"{key}.{name}" if key else name)
    elif before != now:
        yield f"{key} was {before}, and is {now} now"


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(settings)))
