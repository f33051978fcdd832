"""The average of the weights: its half-life in images, and what becomes of the two sets of weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
import torch
from support.tiny import tiny_config, write_images
from torch import Tensor, nn

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_run import build_averaging, build_data, build_module
from sdedit_pl.denoiser import Denoiser, Epsilon
from sdedit_pl.losses import DataWeighting, UniformTimes
from sdedit_pl.sde import VPSDE
from sdedit_pl.training.average import ImageHalfLifeAveraging
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training.optimizers import Adam, Constant


class OneNumber(nn.Module):
    """A network with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))


class Averaged:
    """A weight under averaging: each step gives it a value, and `value` is the average."""

    def __init__(self, averaging: ImageHalfLifeAveraging, batch_size: int, devices: int = 1, batches: int = 1) -> None:
        self.network = OneNumber()
        self.module = ScoreModule(
            Denoiser(self.network, Epsilon(), VPSDE()), DataWeighting(), UniformTimes(), Adam(), Constant()
        )
        self.averaging = averaging
        self.batch = torch.zeros(batch_size, 3, 2, 2)
        self.per_step = batch_size * devices * batches
        self.trainer = Mock(spec=lightning.Trainer, datamodule=SimpleNamespace(), global_step=0)
        self.trainer.world_size, self.trainer.accumulate_grad_batches = devices, batches
        averaging.setup(self.trainer, self.module, "fit")

    def step(self, weight: float) -> None:
        nn.init.constant_(self.network.weight, weight)
        self.trainer.global_step += 1
        self.trainer.datamodule.consumed_samples = self.trainer.global_step * self.per_step
        self.averaging.on_train_batch_end(self.trainer, self.module, None, self.batch, 0)

    @property
    def value(self) -> float:
        network: Any = self.averaging.averaged(self.module).network
        return network.weight.item()


@pytest.mark.parametrize(("batch_size", "devices", "batches"), [(10, 1, 1), (5, 4, 1), (5, 2, 2), (50, 1, 2)])
def test_a_weights_share_halves_every_half_life(batch_size: int, devices: int, batches: int) -> None:
    run = Averaged(ImageHalfLifeAveraging(100, ramp=0.0), batch_size, devices, batches)
    run.step(1.0)  # the first update is taken as it is
    values = []
    for _ in range(400 // run.per_step):
        run.step(0.0)
        values.append(run.value)
    every = 100 // run.per_step
    assert values[every - 1 :: every] == pytest.approx([0.5, 0.25, 0.125, 0.0625], rel=1e-12)


def test_early_on_the_half_life_is_a_share_of_the_images_seen() -> None:
    averaging = ImageHalfLifeAveraging(1000, ramp=0.1)
    assert averaging.decay(400, 40) == pytest.approx(0.5)
    assert averaging.decay(200, 40) == pytest.approx(0.25)
    assert averaging.decay(10_000, 1000) == averaging.decay(10**9, 1000) == pytest.approx(0.5)
    assert averaging.decay(0, 16) == 0
    run = Averaged(ImageHalfLifeAveraging(10**9, ramp=0.1), 20)
    run.step(1.0)
    run.step(0.0)
    assert run.value == pytest.approx(0.5 ** (20 / (0.1 * 40)))


@pytest.mark.parametrize(("ramp", "tolerance"), [(0.0, 1e-12), (0.5, 0.01)])
def test_the_average_does_not_depend_on_how_images_are_cut_into_batches(ramp: float, tolerance: float) -> None:
    averages = []
    for batch_size, devices, batches in [(8, 1, 1), (16, 1, 1), (4, 2, 2)]:
        run = Averaged(ImageHalfLifeAveraging(2000, ramp=ramp), batch_size, devices, batches)
        for images in range(run.per_step, 8001, run.per_step):
            run.step(float(images > 4000))  # the weight jumps after 4000 images
        averages.append(run.value)
    assert averages == pytest.approx([averages[0]] * 3, rel=tolerance)
    assert 0.5 < averages[0] < 0.9999


def test_weights_that_are_an_average_already_are_not_forgotten() -> None:
    run = Averaged(ImageHalfLifeAveraging(100, ramp=0.05, continues=True), 50)
    run.step(1.0)  # the weight was 0 before
    assert run.value == pytest.approx(1 - 0.5**0.5)
    run.step(1.0)
    assert run.value == pytest.approx(0.5)


def test_every_half_life_has_an_average_of_its_own() -> None:
    several = Averaged(ImageHalfLifeAveraging([100, 400, 25], ramp=0.5), 20)
    alone = [Averaged(ImageHalfLifeAveraging(half_life, ramp=0.5), 20) for half_life in (100, 400, 25)]
    for step in range(40):
        for run in (several, *alone):
            run.step(float(step % 7))
        found = several.averaging.averages(several.module)
        assert list(found) == [100, 400, 25] and several.module.averages == {400: found[400], 25: found[25]}
        values = [next(denoiser.parameters()).item() for denoiser in found.values()]
        assert values == pytest.approx([run.value for run in alone], rel=1e-12)
    assert len(set(values)) == 3


def test_every_average_is_kept_in_checkpoints_and_a_new_one_begins_as_the_first() -> None:
    run, checkpoint = Averaged(ImageHalfLifeAveraging([100, 400], ramp=0.0), 20), {}
    for step in range(9):
        run.step(float(step))
    checkpoint["state_dict"] = run.module.state_dict()
    run.averaging.on_save_checkpoint(run.trainer, run.module, checkpoint)
    for half_lives in ([100, 400], [100, 900]):
        resumed = Averaged(ImageHalfLifeAveraging(half_lives), 20)
        resumed.averaging.on_load_checkpoint(resumed.trainer, resumed.module, deepcopy(checkpoint))
        found = [next(denoiser.parameters()) for denoiser in resumed.averaging.averages(resumed.module).values()]
        kept = [next(denoiser.parameters()) for denoiser in run.averaging.averages(run.module).values()]
        assert torch.equal(found[0], kept[0]) and not torch.equal(kept[0], kept[1])
        assert torch.equal(found[1], kept[1] if 400 in half_lives else kept[0])


def test_batches_without_an_optimiser_step_do_not_count() -> None:
    run = Averaged(ImageHalfLifeAveraging(100, ramp=0.0), 10, batches=2)
    run.step(1.0)
    run.step(0.0)
    before = run.value
    run.averaging.on_train_batch_end(run.trainer, run.module, None, run.batch, 1)
    assert run.value == before == pytest.approx(0.5 ** (20 / 100))


def test_the_average_is_on_the_device_and_its_count_of_updates_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # The count is read at every update, which would wait for the device.
    module = Averaged(ImageHalfLifeAveraging(100), 10).module
    count = Mock(cpu=Mock(return_value="on the CPU"))
    model = Mock(n_averaged=count)
    made = Mock(return_value=model)
    monkeypatch.setattr("lightning.pytorch.callbacks.weight_averaging.AveragedModel", made)
    module._device = torch.device("meta")  # as the trainer does before it calls `setup`
    ImageHalfLifeAveraging(100).setup(Mock(spec=lightning.Trainer), module, "fit")
    assert made.call_args.kwargs["device"] == torch.device("meta")
    assert model.n_averaged == "on the CPU"


@pytest.mark.parametrize(("half_life", "ramp"), [(0, 0.05), (-5, 0.05), (100, -0.1)])
def test_settings_that_mean_nothing_are_refused(half_life: int, ramp: float) -> None:
    with pytest.raises(ValueError, match=f"half_life_images >= 1 and ramp >= 0, got {half_life} and {ramp}"):
        ImageHalfLifeAveraging(half_life, ramp)


def test_several_half_lives_must_differ() -> None:
    with pytest.raises(ValueError, match=r"must differ from each other, got \[5, 9, 5\]"):
        ImageHalfLifeAveraging([5, 9, 5])
    with pytest.raises(ValueError, match=r"half_life_images >= 1 and ramp >= 0, got \[\] and 0.05"):
        ImageHalfLifeAveraging([])


class Failing(ScoreModule):
    """Stops in its second validation, and remembers the weights that were trained until then."""

    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        self.trained = {name: weight.clone() for name, weight in self.state_dict().items()}

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.global_step > 2:
            self.met = {name: weight.clone() for name, weight in self.state_dict().items()}
            raise RuntimeError("stopped in validation")


def test_an_exception_in_validation_leaves_the_trained_weights_in_the_module(tmp_path: Path) -> None:
    config = tiny_config(f"data.path={write_images(tmp_path / 'images')}", "trainer.val_check_interval=2")
    module = build_module(config, build_denoiser(config.model))
    module.__class__ = Failing
    averaging = build_averaging(config)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=8,
        callbacks=[averaging],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=2,
    )
    with pytest.raises(RuntimeError, match="stopped in validation"):
        trainer.fit(module, datamodule=build_data(config))
    assert isinstance(module, Failing)
    averaged = averaging.averaged(module).state_dict()
    for name, weight in module.denoiser.state_dict().items():
        assert torch.equal(weight, module.trained[f"denoiser.{name}"])
        assert torch.equal(averaged[name], module.met[f"denoiser.{name}"])
    assert any(not torch.equal(module.trained[name], weight) for name, weight in module.met.items())
