"""Finds checkpoints: files, run folders, bundled ones by name, published ones by address."""

from __future__ import annotations

from pathlib import Path

from sdedit_pl.checkpoints.importers import CHECKPOINT_FORMATS, importer
from sdedit_pl.checkpoints.native import is_native
from sdedit_pl.checkpoints.remote import local_checkpoint
from sdedit_pl.checkpoints.safe_reading import CheckpointError

RUN_FILE = "model.safetensors"

_PACKAGE = Path(__file__).resolve().parents[1]
BUNDLES = (_PACKAGE / "bundled_checkpoints", _PACKAGE.parent / "checkpoints")
"""Folders of the bundled checkpoints: in an installed package, and in a checkout."""


def early_average(checkpoint: Path) -> Path:
    """model-early.safetensors beside model.safetensors, or in the run's folder for one of its training checkpoints."""
    if checkpoint.suffix == ".ckpt" and checkpoint.parent.name == "checkpoints":
        checkpoint = checkpoint.parents[1] / RUN_FILE
    return checkpoint.with_name(f"{checkpoint.stem}-early{checkpoint.suffix}")


def find_checkpoint(path: str | Path) -> Path:
    """The file of a checkpoint, or the folder of another program's; raises CheckpointError if there is none.

    `path` is a file, a bundled checkpoint ("portraits64" or "checkpoints/portraits64.safetensors"), a published one
    (see `remote.py`) or a run's folder, which gives its editing checkpoint, or else its newest training checkpoint.
    """
    path = local_checkpoint(path)
    if not path.exists():
        path = _bundled_checkpoint(path)
    if path.is_file():
        return path
    if (path / RUN_FILE).is_file():
        return path / RUN_FILE
    if resumable := resumable_checkpoints(path):
        return resumable[-1]
    if foreign_format(path) is not None:
        return path
    raise CheckpointError(
        f"the folder {path} holds neither {RUN_FILE} nor checkpoints/*.ckpt: not a run's folder? A diffusers folder "
        "needs its config.json"
    )


def _bundled_checkpoint(name: str | Path) -> Path:
    bundled = {file.stem: file for folder in reversed(BUNDLES) for file in sorted(folder.glob("*.safetensors"))}
    for stem, file in bundled.items():
        if Path(name) in (Path(stem), Path("checkpoints") / file.name):
            return file
    raise CheckpointError(
        f"there is no checkpoint at {name}; give a .safetensors or .ckpt file, a run's folder, or the name of a "
        f"bundled one: {', '.join(bundled)}"
    )


def files_of(checkpoint: Path) -> list[Path]:
    return [checkpoint] if checkpoint.is_file() else sorted(file for file in checkpoint.rglob("*") if file.is_file())


def resumable_checkpoints(run: Path) -> list[Path]:
    """The training checkpoints in a run's folder, in the order of their steps."""
    return sorted((run / "checkpoints").glob("step=*.ckpt"))


def foreign_format(path: Path) -> str | None:
    """The format in `CHECKPOINT_FORMATS` of a file or folder; None for this project's own and for unknown ones."""
    if is_native(path):
        return None
    return next((name for name in CHECKPOINT_FORMATS if importer(name).recognises(path)), None)
