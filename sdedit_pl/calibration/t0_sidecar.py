"""The YAML file beside a checkpoint that holds its calibrated t0 and hash; editing ignores it if the hash differs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.configuration.yaml_reading import read_file, yaml_text
from sdedit_pl.files import result_name
from sdedit_pl.grids import start_number

logger = logging.getLogger(__name__)

SUFFIX = ".t0.yaml"
_HEADER = """\
# Written by `sdedit calibrate`. Without t0=, `sdedit edit` uses the t0 in this file, as long as it lies beside the
# checkpoint that it was made for.
"""


def sidecar_of(checkpoint: Path) -> Path:
    return checkpoint.with_name(result_name(checkpoint.name, SUFFIX))


def write_calibration(file: Path, checkpoint: Path, t0: float | str | None, found: Mapping[str, Any]) -> None:
    """Writes the t0 file of a checkpoint: `t0`, None if the sweep has no knee, and the plain data `found`."""
    facts = {"t0": t0, "checkpoint": checkpoint.name, "sha256": fingerprint(checkpoint), **found}
    text = yaml_text(facts, default_flow_style=None, width=120)
    file.write_text(_HEADER + text, encoding="utf-8")


def calibrated_t0(checkpoint: Path) -> float | str | None:
    """The calibrated t0 of a checkpoint from `find_checkpoint`; raises CheckpointError or ConfigError.

    None without a t0 file beside it, if the file is for other weights (which is logged), or if the sweep had no knee.
    """
    file = sidecar_of(checkpoint)
    if not file.is_file():
        return None
    found = read_file(file)
    t0 = found.get("t0")
    if "t0" not in found or not isinstance(found.get("sha256"), str) or not isinstance(t0, float | int | str | None):
        raise CheckpointError(f"{file} was not written by `sdedit calibrate`; delete it, or calibrate again")
    if found["sha256"] != fingerprint(checkpoint):
        logger.warning("%s is ignored: it was made for weights other than those of %s", file, checkpoint)
        return None
    if t0 is None:
        return None
    try:
        start_number(t0)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; delete the file, or calibrate again") from error
    return t0
