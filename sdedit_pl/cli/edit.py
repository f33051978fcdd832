"""`sdedit edit`: turn guides into images of a model's domain."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.cli import counted, say
from sdedit_pl.configuration.command_line import Command
from sdedit_pl.edit_runs.edit_results import SHEET_FILE, read_settings_file
from sdedit_pl.edit_runs.edit_run import run_edit
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.edit_runs.processes import share_of_environment

USAGE = """sdedit edit ckpt=FILE guide=FILE|FOLDER|GLOB [mask=FILE|FOLDER] [key=value ...]

Noises each guide to t0 and denoises it with the checkpoint's model. Writes to `out` a PNG for each sample, sheet.png
and edit.yaml, which repeats the edit: sdedit edit config=outputs/edit/edit.yaml out=..."""
COMMAND = Command(
    USAGE,
    EditSettings,
    "a YAML file of these keys, such as the edit.yaml of an edit",
    first=(
        *("ckpt", "guide", "mask", "t0", "samples", "out"),
        *("seed", "steps", "strength", "paste", "windows", "overwrite"),
    ),
    examples=(
        "sdedit edit ckpt=portraits64 guide=painting.png out=outputs/first",
        "sdedit edit ckpt=runs/mine guide=photo.png mask=mask.png t0=[0.3,0.45,0.6] out=outputs/masked",
        "sdedit edit ckpt=runs/mine guide=photo.png paste=hat.png at=40,12 out=outputs/hat",
    ),
)


def run(words: list[str]) -> None:
    settings = COMMAND.parse(words, read=read_settings_file)
    count = run_edit(settings, share=share_of_environment())
    sheet = Path(settings.out) / SHEET_FILE
    say(f"{counted(count, 'sample')} in {settings.out}" + (f"; see {sheet}" if sheet.is_file() else ""))
