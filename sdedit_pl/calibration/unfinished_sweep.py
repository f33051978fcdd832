"""The file that holds the measurements of an interrupted sweep, so that the same command can resume it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sdedit_pl.calibration.sweep import Sweep
from sdedit_pl.files import whole_file
from sdedit_pl.settings_record import require_same_settings

_SETTINGS = "settings"


@dataclass(frozen=True)
class UnfinishedSweep:
    """Measurements so far, in `file`, which the first batch creates; `settings` are plain data that they depend on."""

    file: Path
    settings: Mapping[str, Any]

    def read(self) -> Sweep | None:
        """The sweep so far, or None; raises ValueError if the file is unreadable or has other settings."""
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as opened:
                settings = json.loads((opened.metadata() or {}).get(_SETTINGS, "null"))
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{self.file} cannot be read ({error}); delete it to measure everything again") from error
        if not isinstance(settings, dict) or set(tensors) != {field.name for field in fields(Sweep)}:
            raise ValueError(f"{self.file} is not an interrupted sweep of this version; delete it to start again")
        require_same_settings(
            self.file, settings, self.settings, "resume it with its own settings, give another out=, or overwrite=true"
        )
        return Sweep(**tensors)

    def write(self, sweep: Sweep) -> None:
        tensors = {field.name: getattr(sweep, field.name).contiguous() for field in fields(Sweep)}
        with whole_file(self.file) as unfinished:
            unfinished.write_bytes(save(tensors, {_SETTINGS: json.dumps(dict(self.settings))}))

    def discard(self) -> None:
        self.file.unlink(missing_ok=True)
