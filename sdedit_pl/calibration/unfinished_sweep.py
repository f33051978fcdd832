"""What a sweep has measured so far, in a file: the next run goes on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sdedit_pl.calibration.sweep import Sweep
from sdedit_pl.configuration import ConfigError
from sdedit_pl.files import whole_file

_SETTINGS = "settings"


@dataclass(frozen=True)
class UnfinishedSweep:
    """A sweep over the first images of those that are chosen.

    Args:
        file: where it stands, if anything has been measured.
        settings: what its numbers depend on, as plain data.
    """

    file: Path
    settings: Mapping[str, Any]

    def read(self) -> Sweep | None:
        """The sweep so far; None where there is none.

        Raises:
            ConfigError: the file is of a sweep with other settings, or no sweep's.
        """
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as opened:
                settings = json.loads((opened.metadata() or {}).get(_SETTINGS, "null"))
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise ConfigError(f"{self.file} cannot be read ({error}); delete it, and all is measured anew") from error
        if settings != self._as_json() or set(tensors) != {field.name for field in fields(Sweep)}:
            raise ConfigError(
                f"{self.file} is of a sweep that was interrupted and had another {self._changed(settings)}; go on with "
                "that one, give another out=, or overwrite=true"
            )
        return Sweep(**tensors)

    def write(self, sweep: Sweep) -> None:
        """Puts the sweep in the place of the one before, whole."""
        tensors = {field.name: getattr(sweep, field.name).contiguous() for field in fields(Sweep)}
        with whole_file(self.file) as unfinished:
            save_file(tensors, unfinished, {_SETTINGS: json.dumps(self._as_json())})

    def discard(self) -> None:
        """Removes the file."""
        self.file.unlink(missing_ok=True)

    def _as_json(self) -> Any:
        return json.loads(json.dumps(dict(self.settings)))

    def _changed(self, settings: Any) -> str:
        before, now = settings if isinstance(settings, dict) else {}, self._as_json()
        return ", ".join(key for key in now if before.get(key) != now[key]) or "form"
