"""Trainings that are killed at chosen moments and resumed, and their comparison with one that was never killed.

Each training is a process that kills itself with SIGKILL, which cannot be caught. It uses worker processes, an average
of the weights, accumulated gradients, dropout, flips and a falling learning rate.
"""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import os
import pkgutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from support.finished_runs import different_parts
from support.tiny import tiny_config

from sdedit_pl.training_runs.training_run import fit

STEPS = 6
ARGUMENTS = (
    "data.batch_size=2", "data.workers=1", "data.cache=false", "data.flip=true", "schedule=cosine", "preview.count=1",
    f"trainer.max_steps={STEPS}", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=2",
    "checkpoint.every_steps=3", "checkpoint.keep=2",
)  # fmt: skip
"""A run of seconds with checkpoints after steps 2, 3, 4 and 6 and validations after steps 2, 4 and 6."""
NOT_COMPARED = {"train/images_per_second", "sdedit_config", "loops"}
"""The speed, the run's folder, and Lightning's counts of restarts."""


@dataclass(frozen=True)
class Kill:
    """Kills the process in the `call`-th call of a function.

    Args:
        function: "module:Class.method".
        call: number of the call, from 1.
        about: only calls whose first argument contains this text count.
        half: first truncate the file named by the first argument to half its size.
    """

    function: str
    call: int
    about: str = ""
    half: bool = False

    def arm(self) -> None:
        """Replaces the function by one that kills the process in the chosen call."""
        module, _, path = self.function.partition(":")
        *owner, name = path.split(".")
        target = pkgutil.resolve_name(f"{module}:{'.'.join(owner)}" if owner else module)
        original: Callable[..., Any] = getattr(target, name)
        count = itertools.count(1)

        def killing(*arguments: Any, **options: Any) -> Any:
            if self.about in str(arguments[0]) and next(count) == self.call:
                if self.half:
                    os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(target, name, killing)


_CHECKPOINT = "sdedit_pl.training.resumable_checkpoints:ResumableCheckpoint"
_SYNC = "sdedit_pl.files:_sync"
_STEP = "sdedit_pl.training.module:ScoreModule.training_step"
_VALIDATION = "sdedit_pl.training.module:ScoreModule.validation_step"

KILLS: dict[str, tuple[Kill, ...]] = {
    "right after the start": (Kill(f"{_CHECKPOINT}.on_train_start", 1),),
    "between two batches of step 4": (Kill(_STEP, 8),),
    "after step 4, before its log entry": (Kill("sdedit_pl.training.loss_logging:TrainingLog.on_train_batch_end", 8),),
    "between log entry and checkpoint of step 4": (Kill(f"{_CHECKPOINT}.on_train_batch_end", 8),),
    "halfway through the checkpoint of step 4": (Kill(_SYNC, 1, "step=00000004.ckpt", half=True),),
    "halfway through the very first checkpoint": (Kill(_SYNC, 1, "step=00000002.ckpt", half=True),),
    "before old checkpoints are removed, step 4": (Kill("pathlib:Path.unlink", 1, "/step=00000002.ckpt"),),
    "between checkpoint and validation of step 4": (
        Kill("sdedit_pl.training.loss_logging:TrainingLog.on_validation_start", 2),
    ),
    "in the validation after step 4": (Kill(_VALIDATION, 4),),
    "halfway through a preview": (Kill(_SYNC, 1, "step-00000004.png", half=True),),
    "halfway through the editing checkpoint": (Kill(_SYNC, 2, "model.safetensors", half=True),),
    "before the best checkpoint has its name": (Kill(_SYNC, 2, "best.ckpt"),),
    "right after the validation of step 4": (Kill(_STEP, 9),),
    "in the validation after the last step": (Kill(_VALIDATION, 6),),
    "at the very end": (Kill("sdedit_pl.training.editing_checkpoint:EditingCheckpoint.on_fit_end", 1),),
    "in step 4, and again in step 4": (Kill(_STEP, 7), Kill(_STEP, 2)),
    "in step 6, and again in the validation that was due": (Kill(_STEP, 11), Kill(_VALIDATION, 2)),
}
"""Moment -> the kill of each training before the last one."""


def train(images: Path, folder: Path, kill: Kill | None = None) -> int | None:
    """Trains in a new process and returns its exit code; a negative one is the signal that killed it."""
    process = _SERVER.Process(target=_child, args=(images, folder, kill))
    process.start()
    process.join()
    return process.exitcode


def _child(images: Path, folder: Path, kill: Kill | None) -> None:
    multiprocessing.set_start_method("fork", force=True)  # for data workers, as on the command line
    torch.set_num_threads(1)
    if kill is not None:
        kill.arm()
    fit(tiny_config(*ARGUMENTS, f"out={folder}", f"data.path={images}"))


# Forks each training off a process that has imported everything and never trained.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["sdedit_pl.training_runs.training_run"])


def trainings_until_done(images: Path, folder: Path, kills: tuple[Kill, ...]) -> None:
    """Trains once for each kill and then once more to the end.

    Raises:
        RuntimeError: a training ended with an unexpected exit code.
    """
    for kill in (*kills, None):
        expected = 0 if kill is None else -signal.SIGKILL
        code = train(images, folder, kill)
        if code != expected:
            raise RuntimeError(f"a training ended with {code} instead of {expected} ({kill})")


def first_difference(expected: Path, found: Path) -> str | None:
    """The first difference between two runs' folders, or None."""
    return next(differences(expected, found), None)


def differences(expected: Path, found: Path) -> Iterator[str]:
    """The differences between two runs' folders: rows of the log, files, states, previews."""
    rows, found_rows = ([row for row in history(folder)] for folder in (expected, found))
    for row, other in itertools.zip_longest(rows, found_rows):
        if row != other:
            yield f"log: {row} became {other}"
    names, found_names = (
        sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        for folder in (expected, found)
    )
    if names != found_names:
        yield f"files: {sorted(set(names) ^ set(found_names))}"
    for name in ("checkpoints/best.ckpt", f"checkpoints/step={STEPS:08d}.ckpt"):
        first, second = (torch.load(folder / name, weights_only=True) for folder in (expected, found))
        yield from different_parts(first, second, name, NOT_COMPARED)
    models = (load_file(folder / "model.safetensors") for folder in (expected, found))
    yield from different_parts(*models, path="model")
    for sheet in sorted(expected.glob("previews/*.png")):
        if sheet.read_bytes() != (found / "previews" / sheet.name).read_bytes():
            yield str(sheet.name)


def history(folder: Path) -> Iterator[dict[str, str]]:
    """The rows of a run's log, without the columns that differ between any two runs."""
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield {name: value for name, value in row.items() if name not in NOT_COMPARED}
