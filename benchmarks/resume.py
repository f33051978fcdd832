"""Kills a training at chosen moments, starts it again, and compares it with one that was never killed.

    python benchmarks/resume.py [out=FILE.md]

Each training is a process of its own that ends itself by SIGKILL, which nothing can catch. It has worker processes, an
average of the weights, accumulated gradients, dropout, flips and a falling rate. Started again, it has to find the way
by itself; then every row of its log, every weight, the optimiser's state and the files that it leaves must equal those
of the undisturbed training, bit for bit. Prints a table: the moment, and the first thing that differs.
"""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import os
import pkgutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.utils import save_image

from sdedit_pl.configuration.resolution import merge, resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.fit import fit

STEPS = 6
CONFIG: dict[str, Any] = {
    "data": {"size": 8, "batch_size": 2, "workers": 1, "cache": False, "flip": True, "val_fraction": 0.3},
    "network": {
        "name": "ncsnpp",
        "channels": 8,
        "channel_multipliers": [1],
        "blocks_per_level": 1,
        "attention_levels": [],
        "dropout": 0.1,
    },
    "optimizer": {"rate": 1e-3},
    "schedule": {"name": "cosine"},
    "average": {"half_life_images": 50},
    "trainer": {
        "max_steps": STEPS,
        "accelerator": "cpu",
        "devices": 1,
        "accumulate_grad_batches": 2,
        "val_check_interval": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    },
    "checkpoint": {"every_steps": 3, "keep": 2},
    "preview": {"count": 1, "samples": 1, "steps": 2},
}
"""A run of seconds, whose checkpoints come after the steps 2, 3, 4 and 6 and validations after 2, 4 and 6."""
NOT_COMPARED = {"train/images_per_second"}


@dataclass(frozen=True)
class Kill:
    """The end of a process: in the `call`-th call of a function whose first argument's text contains `about`.

    Args:
        function: "module:Class.method".
        call: which call, from 1.
        about: what the first argument's text has to contain for a call to count.
        half: whether the file that the first argument names is cut to its half before.
    """

    function: str
    call: int
    about: str = ""
    half: bool = False

    def arm(self) -> None:
        """Replaces the function by one that kills the process when its time has come."""
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
_STORE = "sdedit_pl.files:_store"
_STEP = "sdedit_pl.training.module:ScoreModule.training_step"
_VALIDATION = "sdedit_pl.training.module:ScoreModule.validation_step"

KILLS: dict[str, tuple[Kill, ...]] = {
    "right after the start": (Kill(f"{_CHECKPOINT}.on_train_start", 1),),
    "between two batches of step 4": (Kill(_STEP, 8),),
    "after step 4, before its log entry": (Kill("sdedit_pl.training.training_log:TrainingLog.on_train_batch_end", 8),),
    "between log entry and checkpoint of step 4": (Kill(f"{_CHECKPOINT}.on_train_batch_end", 8),),
    "half way through the checkpoint of step 4": (Kill(_STORE, 1, "step=00000004.ckpt", half=True),),
    "half way through the very first checkpoint": (Kill(_STORE, 1, "step=00000002.ckpt", half=True),),
    "before old checkpoints are removed, step 4": (Kill("pathlib:Path.unlink", 1, "/step=00000002.ckpt"),),
    "between checkpoint and validation of step 4": (
        Kill("sdedit_pl.training.training_log:TrainingLog.on_validation_start", 2),
    ),
    "in the validation after step 4": (Kill(_VALIDATION, 4),),
    "half way through a preview": (Kill(_STORE, 1, "step-00000004.png", half=True),),
    "half way through the editing checkpoint": (Kill(_STORE, 2, "model.safetensors", half=True),),
    "before the best checkpoint has its name": (Kill(_STORE, 2, "best.ckpt"),),
    "right after the validation of step 4": (Kill(_STEP, 9),),
    "in the validation after the last step": (Kill(_VALIDATION, 6),),
    "at the very end": (Kill("sdedit_pl.training.editing_checkpoint:EditingCheckpoint.on_fit_end", 1),),
    "in step 4, and again in step 4": (Kill(_STEP, 7), Kill(_STEP, 2)),
    "in step 6, and again in the validation owed": (Kill(_STEP, 11), Kill(_VALIDATION, 2)),
}
"""Moments, and the kills in the trainings up to then, one each."""


def write_images(folder: Path, count: int = 20) -> Path:
    """Images of two colours each, to train on."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        halves = torch.rand(3, 1, 2, generator=generator).repeat_interleave(4, 2)
        save_image(halves.expand(3, 8, 8), folder / f"{number:03d}.png")
    return folder


def train(images: Path, folder: Path, kill: Kill | None = None) -> int | None:
    """Trains in a process of its own, and returns its exit code: negative is the signal that killed it."""
    process = _SERVER.Process(target=_child, args=(images, folder, kill))
    process.start()
    process.join()
    return process.exitcode


def _child(images: Path, folder: Path, kill: Kill | None) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of the data workers, as in a training from the command line
    torch.set_num_threads(1)
    if kill is not None:
        kill.arm()
    own = {"out": str(folder), "data": {"path": str(images)}}
    fit(resolve(TrainingConfig, merge(TrainingConfig, CONFIG, own)))


# Forks processes off one that has imported everything and never trained.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["sdedit_pl.fit"])


def trainings_until_done(images: Path, folder: Path, kills: tuple[Kill, ...]) -> None:
    """Trains as often as there are kills, and once more.

    Raises:
        RuntimeError: a training did not end as it should have.
    """
    for kill in (*kills, None):
        expected = 0 if kill is None else -signal.SIGKILL
        code = train(images, folder, kill)
        if code != expected:
            raise RuntimeError(f"a training ended with {code} instead of {expected} ({kill})")


def first_difference(expected: Path, found: Path) -> str | None:
    """The first thing in which the run `found` differs from the run `expected`, or None."""
    return next(differences(expected, found), None)


def differences(expected: Path, found: Path) -> Iterator[str]:
    """What is different in two runs' folders: log rows in their order, states, files."""
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
        yield from different_parts(first, second, name)
    yield from different_parts(
        load_file(expected / "model.safetensors"), load_file(found / "model.safetensors"), "model"
    )
    for sheet in sorted(expected.glob("previews/*.png")):
        if sheet.read_bytes() != (found / "previews" / sheet.name).read_bytes():
            yield str(sheet.name)


def history(folder: Path) -> Iterator[dict[str, str]]:
    """The rows of a run's log, without what no two runs have in common."""
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield {name: value for name, value in row.items() if name not in NOT_COMPARED}


def different_parts(first: Any, second: Any, path: str) -> Iterator[str]:
    """The places, in nested plain data and tensors, that are not equal to the last bit."""
    if isinstance(first, Tensor):
        if not torch.equal(first, second):
            yield path
    elif isinstance(first, dict) and first.keys() == second.keys():
        for key, value in first.items():
            if key not in ("sdedit_config", "loops"):  # where the run lies, and Lightning's own counts of restarts
                yield from different_parts(value, second[key], f"{path}/{key}")
    elif isinstance(first, list | tuple) and len(first) == len(second):
        for place, values in enumerate(zip(first, second, strict=True)):
            yield from different_parts(*values, path=f"{path}/{place}")
    elif first != second:
        yield path


def main(arguments: list[str]) -> int:
    """Runs all kills and writes the table; the exit code says whether anything differed."""
    options = dict(argument.split("=", 1) for argument in arguments)
    lines = ["| killed | first difference to a training that was never killed |", "|---|---|"]
    different = False
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        images, whole = write_images(place / "images"), place / "whole"
        trainings_until_done(images, whole, ())
        for number, (moment, kills) in enumerate(KILLS.items()):
            folder = place / str(number)
            trainings_until_done(images, folder, kills)
            difference = first_difference(whole, folder)
            different |= difference is not None
            lines.append(f"| {moment} | {difference or 'none'} |")
    table = "\n".join(lines) + "\n"
    sys.stdout.write(table)
    if "out" in options:
        Path(options["out"]).write_text(table)
    return int(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
