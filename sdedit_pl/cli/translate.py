"""`sdedit translate`: turn images of one model's domain into images of another's."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.cli import counted, say
from sdedit_pl.configuration.schema import Command
from sdedit_pl.evaluation.report_document import REPORT_HTML
from sdedit_pl.evaluation.run_translation import TranslationSettings, run_translation
from sdedit_pl.evaluation.translation_report import DISTANCES

USAGE = """sdedit translate source_ckpt=FILE ckpt=FILE guide=FILE|FOLDER|GLOB [key=value ...]

Translates images from the domain of source_ckpt into that of ckpt. The methods are ddib; sdedit; energy, which is
sdedit guided by the low frequencies of the guide; and two_energies, which also guides away from the source's domain
(after EGSDE). Writes to `out` a file for each guide and method, report.html, report.md and metrics.json: L2 and SSIM
to the guide; with pairs= also L2, SSIM and PSNR to the true translations, and with target= KID. The same command
resumes an interrupted run."""
SHOWN = ("kid", *(f"{prefix}{name}" for prefix in ("", "pair_") for name in DISTANCES))
COMMAND = Command(
    USAGE,
    TranslationSettings,
    first=("source_ckpt", "ckpt", "guide", "pairs", "target", "out", "methods", "t0", "steps", "device", "overwrite"),
    examples=("sdedit translate source_ckpt=runs/cats ckpt=runs/dogs guide=cats/val target=dogs/val",),
)


def run(words: list[str]) -> None:
    settings = COMMAND.parse(words)
    numbers = run_translation(settings)
    for name, row in numbers["measures"].items():
        shown = {key: value for key, value in row.items() if value is not None and key in SHOWN}
        say(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in shown.items())}")
    made = f"{counted(numbers['images'], 'image')} by {counted(len(settings.methods), 'method')}"
    say(f"{made}; see {Path(settings.out) / REPORT_HTML}")
