"""`sdedit augment`: more images of each class, by edits from several t0."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.cli import counted, say
from sdedit_pl.configuration.schema import Command
from sdedit_pl.edit_runs.augment_run import AUGMENT_MANIFEST, AugmentSettings, run_augmentation

USAGE = """sdedit augment ckpt=FILE data=FOLDER [n=100] [t0=0.2,0.5] [key=value ...]

Edits the images in each class's folder from several t0. Writes to `out` a folder of n files for each
class, named after it, and manifest.csv with each file's class, original, t0 and seed. Run the same command to resume
after an interruption."""
COMMAND = Command(
    USAGE,
    AugmentSettings,
    first=("ckpt", "data", "n", "t0", "levels", "out", "seed", "steps", "device"),
    examples=("sdedit augment ckpt=runs/mine data=photos/train n=500 t0=0.2,0.5 out=outputs/augmented",),
)


def run(words: list[str]) -> None:
    settings = COMMAND.parse(words)
    made = run_augmentation(settings)
    classes = len({variation.label for variation in made})
    which = f"{counted(len(made), 'edit')} of {classes} class{'' if classes == 1 else 'es'}"
    say(f"{which} in {settings.out}; see {Path(settings.out) / AUGMENT_MANIFEST}")
