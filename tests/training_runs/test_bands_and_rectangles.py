"""Training on rectangles and on data that are not 8-bit photographs, and edits by the trained models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny import tiny_config

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_data
from sdedit_pl.checkpoints import describe
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.resolving import resolve
from sdedit_pl.edit_runs.edit_run import run_edit
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.losses import EDMWeighting, denoising_loss
from sdedit_pl.training_runs.training_run import fit
from sdedit_pl.typing import Examples


def edit(**keys: object) -> None:
    run_edit(resolve(EditSettings, {"samples": 1, "steps": 2, "device": "cpu", **keys}))


def test_a_rectangular_model_trains_resumes_and_edits(tmp_path: Path) -> None:
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 20, 3), dtype=np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"images/{number}.png")
    run = (f"data.path={tmp_path}/images", "data.size=[16,8]", "data.fit=pad", "augment.probability=0.5")
    for steps in (4, 6):
        fit(tiny_config(*run, f"out={tmp_path}/run", f"trainer.max_steps={steps}"))
    model = tmp_path / "run/model.safetensors"
    assert describe(model).image.tensor_shape == (3, 16, 8)
    Image.new("L", (20, 12), 255).save(tmp_path / "mask.png")
    edit(ckpt=str(model), guide=f"{tmp_path}/images/0.png", mask=f"{tmp_path}/mask.png", out=f"{tmp_path}/edit")
    with Image.open(tmp_path / "edit/0_seed0.png") as result:
        assert result.size == (8, 16)
    edit(ckpt=str(model), guide=f"{tmp_path}/images/0.png", windows=True, out=f"{tmp_path}/windows")
    with Image.open(tmp_path / "windows/0_seed0.png") as result:
        assert result.size == (27, 16)


def test_padding_does_not_enter_the_loss(tmp_path: Path) -> None:
    Image.new("RGB", (16, 8), "red").save(tmp_path / "wide.png")
    config = tiny_config(f"data.path={tmp_path}", "data.fit=pad", "data.size=16", "data.val_fraction=0")
    data = build_data(config)
    examples = data.on_after_batch_transfer(next(iter(data.training_loader())), 0)
    assert isinstance(examples, Examples) and examples.valid is not None
    assert examples.valid[0, 0].any(1).tolist() == [False] * 4 + [True] * 8 + [False] * 4
    denoiser = build_denoiser(config.model).eval()
    torch.nn.init.normal_(denoiser.network.head.convolution.weight)
    t, noise = torch.full((4,), 0.5), torch.randn(4, 3, 16, 16)
    inside, outside, everywhere = (
        denoising_loss(denoiser, examples.images, t, noise, EDMWeighting(), valid=valid)
        for valid in (examples.valid, ~examples.valid, None)
    )
    assert torch.allclose((inside + outside) / 2, everywhere) and not torch.allclose(inside, everywhere)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["data.size=[9,8]", "network.channel_multipliers=[1,1]"], "multiple of 2 .*, got 9; the nearest are 8 and 10"),
        (["data.size=[8,0]"], "size must be at least 1 pixel"),
        (["data.channels=4"], "channels must be 3 .RGB. or 1 .grey., got 4; describe other bands"),
        (["data.flip=true", "augment.symmetries=[shift]"], "does not state that mirror images belong"),
        (["data.flip=true", "data.format.dtype=uint16"], "does not state that mirror images belong"),
        (["augment.probability=0.1", "data.format.dtype=uint16"], "augment.symmetries=.mirror,shift"),
        (["data.format.dtpye=uint16"], "unknown key data.format.dtpye; did you mean data.format.dtype"),
        (["data.format.range=[3,1]"], "data.format: range is low,high"),
        (["data.format.bands=[a,b]"], "names 2 bands .a, b., and channels is 3"),
        (["data.format.shown=[3]"], "bands from 0 to 2"),
        (["data.format.shown=[0,1]"], "one band or three"),
        (["data.format.alpha=true"], "needs channels=4"),
    ],
)
def test_shapes_and_formats_that_mean_nothing_are_refused(keys: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        config = tiny_config(f"data.path={tmp_path}", *keys)
        build_denoiser(config.model)
        build_data(config)
