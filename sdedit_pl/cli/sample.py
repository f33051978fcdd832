"""`sdedit sample`: draw images of a model's domain from noise alone."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.cli import counted, say
from sdedit_pl.configuration.schema import Command
from sdedit_pl.edit_runs.edit_results import SHEET_FILE, read_settings_file
from sdedit_pl.edit_runs.sample_run import SampleSettings, run_sampling

USAGE = """sdedit sample ckpt=FILE [n=64] [key=value ...]

Draws samples from noise with a model trained up to t = 1 (times.t_max=1). Writes to `out` a file for each one, a grid
of the first ones as sheet.png, and sample.yaml, which repeats them: sdedit sample config=outputs/sample/sample.yaml
out=... A sample depends on its seed, not on `n`."""

COMMAND = Command(
    USAGE,
    SampleSettings,
    "a YAML file of these keys, such as the sample.yaml of earlier samples",
    first=("ckpt", "n", "out", "seed", "steps", "device", "overwrite"),
    examples=("sdedit sample ckpt=portraits64 n=16 out=outputs/portraits",),
)


def run(words: list[str]) -> None:
    settings = COMMAND.parse(words, read=read_settings_file)
    run_sampling(settings)
    say(f"{counted(settings.n, 'sample')} in {settings.out}; see {Path(settings.out) / SHEET_FILE}")
