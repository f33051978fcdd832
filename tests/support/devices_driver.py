"""A training on several devices whose processes report what they did; run by tests/test_devices.py.

    python tests/support/devices_driver.py REPORTS DEED [key=value ...]

Every process writes REPORTS/rank-R.pt: the batches, times, noise and losses of its training steps, the gradients of the
first step, the average at the end, and the files below `out` that it opened for writing. DEED is what rank 1 does in
its third step: "none"; "die", raise an exception; "kill", send itself SIGKILL; "signal", send itself SIGUSR1; "nan",
return a loss that is not finite. "SIGTERM-01" means that ranks 0 and 1 send themselves SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from sdedit_pl.cli.train import run
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging

REPORT: dict[str, Any] = {"steps": [], "written": []}


class Reporter(lightning.Callback):
    """Records the gradients of the first step, and writes the report at the end."""

    def __init__(self, reports: Path) -> None:
        self.reports = reports

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if "gradients" not in REPORT:
            REPORT["weights"] = {name: weight.clone() for name, weight in pl_module.state_dict().items()}
            REPORT["gradients"] = {name: weight.grad.clone() for name, weight in pl_module.named_parameters()}

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        (averaging,) = (part for part in trainer.callbacks if isinstance(part, ImageHalfLifeAveraging))
        REPORT["average"] = averaging.averaged(pl_module).state_dict()
        REPORT["world_size"] = trainer.world_size
        torch.save(REPORT, self.reports / f"rank-{trainer.global_rank}.pt")


def main(reports: Path, deed: str, *arguments: str) -> None:
    """Trains with the reports and the deed in place."""
    out = next(argument for argument in arguments if argument.startswith("out=")).removeprefix("out=")
    sys.addaudithook(lambda event, given: _note_writing(out, event, given))
    losses, step, trainer = ScoreModule.losses, ScoreModule.training_step, lightning.Trainer

    def noting(self: ScoreModule, denoiser: Any, images: Tensor, t: Tensor, noise: Tensor, *rest: Any) -> Tensor:
        found = losses(self, denoiser, images, t, noise, *rest)
        if self.training:
            REPORT["steps"].append({"images": images, "t": t, "noise": noise, "losses": found.detach()})
        return found

    def doing(self: ScoreModule, batch: Tensor, batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        name, _, ranks = deed.partition("-")
        if str(self.global_rank) not in (ranks or "1") or batch_idx != 2 or deed == "none":
            return loss
        if deed == "die":
            raise RuntimeError("rank 1 fails")
        if deed == "nan":
            self.batch_loss = self.batch_loss * float("nan")
            return loss * float("nan")
        os.kill(os.getpid(), getattr(signal, {"kill": "SIGKILL", "signal": "SIGUSR1"}.get(name, name)))
        return loss

    def reporting(*positional: Any, callbacks: list[Any], **options: Any) -> lightning.Trainer:
        return trainer(*positional, callbacks=[Reporter(reports), *callbacks], **options)

    ScoreModule.losses, ScoreModule.training_step = noting, doing  # type: ignore[method-assign]
    lightning.Trainer = reporting  # type: ignore[misc, assignment]
    run(list(arguments))


def _note_writing(out: str, event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(given[0], str) and given[0].startswith(out) and given[2] & os.O_ACCMODE:
        REPORT["written"].append(given[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
