"""`sdedit detect`: find what is unlike a model's domain."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.cli import say
from sdedit_pl.configuration.schema import Command
from sdedit_pl.evaluation.detection_report import DETECTION_MEASURES
from sdedit_pl.evaluation.report_document import REPORT_HTML
from sdedit_pl.evaluation.run_detection import DetectionSettings, run_detection

USAGE = """sdedit detect ckpt=FILE data=FOLDER|SHARDS [truth=FOLDER] [key=value ...]

Reconstructs images with a model of normal ones and maps where image and reconstruction differ. Writes to `out` a map,
and the spread of the reconstructions, for each image (16-bit PNG, white is 1), scores.csv, report.html, report.md and
metrics.json; with masks of the defects, also AUROC, AUPRC, best Dice and PRO. The same command resumes an interrupted
run."""
COMMAND = Command(
    USAGE,
    DetectionSettings,
    first=(
        *("ckpt", "data", "truth", "out", "t0", "samples"),
        *("steps", "residual", "blur", "relative", "device", "overwrite"),
    ),
    examples=("sdedit detect ckpt=runs/good data=parts/test truth=parts/ground_truth out=outputs/parts",),
)


def run(words: list[str]) -> None:
    settings = COMMAND.parse(words)
    numbers = run_detection(settings)
    for name, row in numbers["measures"].items():
        say(f"{name}: {', '.join(f'{DETECTION_MEASURES[measure]} {found[0]:.3f}' for measure, found in row.items())}")
    say(f"{numbers['images']} images; the report: {Path(settings.out) / REPORT_HTML}")
