"""When a run ends because its validation loss no longer decreases."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.one_weight import Batches, OneWeight, quiet_trainer

from sdedit_pl.training.early_stopping import Patience
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging

LOSSES = [(0.5, 0.6), (0.6, 0.4), (0.45, 0.5), (0.39, 0.7), (0.4, 0.5), (0.41, float("nan")), (0.1, 0.1)]


@pytest.mark.parametrize("interrupted", [None, 3, 5])
def test_a_run_ends_after_two_validations_without_a_lower_loss(interrupted: int | None, tmp_path: Path) -> None:
    losses = dict(enumerate(LOSSES, start=1))
    checkpoint = None
    for steps in filter(None, (interrupted, 20)):
        averaging = ImageHalfLifeAveraging([100, 400])
        trainer = quiet_trainer(steps, [averaging, Patience(averaging, 2)], validate_every=1)
        trainer.fit(OneWeight(losses=losses), datamodule=Batches(), ckpt_path=checkpoint, weights_only=True)
        checkpoint = tmp_path / "resume.ckpt"
        trainer.save_checkpoint(checkpoint)
    assert trainer.global_step == 6
