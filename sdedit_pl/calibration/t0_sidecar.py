"""The t0 that was found for a checkpoint, in a YAML file beside it: what `sdedit calibrate` leaves and editing takes.

The file tells by a hash which checkpoint it was made for, so that it does not outlive it: a run that goes on replaces
its weights, and the t0 of the old ones says nothing about the new.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.configuration.yaml_text import read_file
from sdedit_pl.grids import start_number

logger = logging.getLogger(__name__)

SUFFIX = ".t0.yaml"
_HEADER = """\
# What `sdedit calibrate` found. `sdedit edit` takes t0 from here where none is given, as long as this file lies beside
# the checkpoint that it was made for.
"""


def sidecar_of(checkpoint: Path) -> Path:
    """The file beside a checkpoint (a file or a folder) that holds its t0."""
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def write_calibration(file: Path, checkpoint: Path, t0: float | str | None, found: Mapping[str, Any]) -> None:
    """Writes the t0 of a checkpoint.

    Args:
        file: where to.
        checkpoint: what it was found for.
        t0: a time or a noise level, None where the sweep showed none to take.
        found: how it was found, as plain data.
    """
    facts = {"t0": t0, "checkpoint": checkpoint.name, "sha256": fingerprint(checkpoint), **found}
    text = yaml.safe_dump(facts, sort_keys=False, default_flow_style=None, width=120)
    file.write_text(_HEADER + text, encoding="utf-8")


def calibrated_t0(checkpoint: Path) -> float | str | None:
    """The t0 that was found for a checkpoint.

    Args:
        checkpoint: what `find_checkpoint` returns.

    Returns:
        A time or a noise level such as "sigma:1.2"; None where there is no file beside the checkpoint, one that was
        made for other weights (of which a notice tells), or one that says that there is no knee.

    Raises:
        CheckpointError: the file is not one of these.
        ConfigError: nor even a YAML file.
    """
    file = sidecar_of(checkpoint)
    if not file.is_file():
        return None
    found = read_file(file)
    t0 = found.get("t0")
    if "t0" not in found or not isinstance(found.get("sha256"), str) or not isinstance(t0, float | int | str | None):
        raise CheckpointError(f"{file} is not what `sdedit calibrate` writes; delete it, or calibrate again")
    if found["sha256"] != fingerprint(checkpoint):
        logger.warning("%s was made for other weights than those in %s: not used", file, checkpoint)
        return None
    if t0 is None:
        return None
    try:
        start_number(t0)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; delete the file, or calibrate again") from error
    return t0
