"""`sdedit edit`: turn guides into images of a model's domain."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.cli import counted, say
from sdedit_pl.configuration.schema import Command
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.edit_runs.edit_results import SHEET_FILE, read_settings_file, recorded_samples
from sdedit_pl.edit_runs.edit_run import run_edit
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.edit_runs.processes import on_devices, share_of_environment
from sdedit_pl.edit_runs.unfinished_edits import EDIT_RECORD, RECORD_KEY

USAGE = """sdedit edit ckpt=FILE guide=FILE|FOLDER|GLOB [mask=FILE|FOLDER] [key=value ...]

Noises each guide to t0 and denoises it with the checkpoint's model. Writes to `out` a file for each sample, sheet.png
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
    command = ["edit", *words, "devices=1"]
    with on_devices(command, share_of_environment(), settings.devices, settings.device) as share:
        count = run_edit(settings, share=share)
    sheet, record = (Path(settings.out) / file for file in (SHEET_FILE, EDIT_RECORD))
    if share.count > 1 and record.is_file():  # the last process has finished
        count = recorded_samples(read_file(record)[RECORD_KEY])
    say(f"{counted(count, 'sample')} in {settings.out}" + (f"; see {sheet}" if sheet.is_file() else ""))
