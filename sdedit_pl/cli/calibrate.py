"""`sdedit calibrate`: find the t0 of a checkpoint from a user's images."""

from __future__ import annotations

from sdedit_pl.calibration.calibration_run import calibrate
from sdedit_pl.calibration.calibration_settings import CalibrationSettings
from sdedit_pl.cli import say
from sdedit_pl.configuration.schema import Command

USAGE = """sdedit calibrate ckpt=FILE data=FOLDER|SHARDS [key=value ...]

Edits simulated strokes of images that the model has not seen, from several t0, and finds the knee of KID (realism)
against L2 (faithfulness). Writes NAME.t0.yaml and NAME.t0.png beside the checkpoint, where sdedit edit finds the t0.
Run the same command to resume after an interruption."""
COMMAND = Command(
    USAGE,
    CalibrationSettings,
    first=("ckpt", "data", "out", "t0", "images", "split", "steps", "device", "overwrite"),
    examples=("sdedit calibrate ckpt=runs/mine data=photos/",),
)


def run(words: list[str]) -> None:
    settings = COMMAND.parse(words)
    calibration = calibrate(settings)
    if calibration.t0 is None:
        use = ": sdedit edit uses its own default t0"
    elif settings.out is None:
        use = ": sdedit edit takes t0 from there"
    else:
        use = f": give sdedit edit t0={calibration.t0}"
    say(f"{calibration.text}\n{calibration.file}, {calibration.plot}{use}")
