"""Training on rectangles and on data that are not 8-bit photographs, and edits by the trained models."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from support.tiny import tiny_config

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_data, with_format
from sdedit_pl.checkpoints import describe
from sdedit_pl.checkpoints.native import save_denoiser
from sdedit_pl.cli import main
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.resolving import resolve
from sdedit_pl.data.image_format import ImageFormat, ImageShape, PixelFormat, Size
from sdedit_pl.data.pack_settings import PackSettings
from sdedit_pl.data.shard_packing import pack
from sdedit_pl.data.source import ImageSet, Source
from sdedit_pl.data.source_table import DATA_SOURCES
from sdedit_pl.data.value_decoding import read_values
from sdedit_pl.data.webdataset_source import WebDatasetSource
from sdedit_pl.edit_runs.augment_run import AugmentSettings, run_augmentation
from sdedit_pl.edit_runs.edit_run import run_edit
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.guides.guide_files import read_guide
from sdedit_pl.losses import EDMWeighting, denoising_loss
from sdedit_pl.training.weight_averaging import ImageHalfLifeAveraging
from sdedit_pl.training_runs.run_callbacks import previews
from sdedit_pl.training_runs.training_run import fit
from sdedit_pl.typing import Examples, Pixels

QUICK = ("preview.samples=0", "preview.count=1")
STATED = PixelFormat("uint16", range=(500.0, 1000.0))


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
    assert describe(model).image.tensor_shape == (3, 16, 8) and describe(model).fit == "pad"
    Image.new("L", (20, 12), 255).save(tmp_path / "mask.png")
    edit(ckpt=str(model), guide=f"{tmp_path}/images/0.png", mask=f"{tmp_path}/mask.png", out=f"{tmp_path}/edit")
    with Image.open(tmp_path / "edit/0_seed0.png") as result:
        assert result.size == (8, 16)
    edit(ckpt=str(model), guide=f"{tmp_path}/images/0.png", windows=True, out=f"{tmp_path}/windows")
    with Image.open(tmp_path / "windows/0_seed0.png") as result:
        assert result.size == (27, 16)
    (tmp_path / "tree").mkdir()
    (tmp_path / "images").rename(tmp_path / "tree/one")
    keys = {"ckpt": str(model), "data": f"{tmp_path}/tree", "out": f"{tmp_path}/more", "n": 1, "steps": 1}
    run_augmentation(resolve(AugmentSettings, {**keys, "device": "cpu"}))
    with Image.open(tmp_path / "more/one/0_seed0.png") as result:
        assert result.size == (8, 5)


def test_guides_of_previews_are_fitted_as_the_training_images_are(tmp_path: Path) -> None:
    Image.radial_gradient("L").resize((16, 8)).convert("RGB").save(tmp_path / "wide.png")
    paths = (f"data.path={tmp_path}", f"preview.guides={tmp_path}", f"out={tmp_path}/run")
    config = tiny_config(*paths, "data.fit=pad", "data.size=16", "data.val_fraction=0", "preview.count=1")
    shown = previews(config, build_data(config), ImageHalfLifeAveraging(), build_denoiser(config.model))
    assert torch.equal(shown.guides, read_guide(tmp_path / "wide.png", config.image, "pad").image)


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


def phantoms(folder: Path, count: int, write: str, dtype: str = "uint16", bands: int = 1, scale: int = 1) -> Path:
    """Synthetic phantoms of 24 x 16 times `scale`: a body with an organ, in arbitrary units up to 4000."""
    folder.mkdir()
    rows, columns = np.mgrid[: 24 * scale, : 16 * scale] // scale
    for number in range(count):
        random = np.random.default_rng(number)
        body = ((rows - 11.5) / 11) ** 2 + ((columns - 7.5) / 6) ** 2 < 1
        organ = (rows - random.integers(8, 16)) ** 2 + (columns - random.integers(5, 10)) ** 2 < 9
        weights = np.arange(1, bands + 1) / bands
        values = ((1000 * body + 2500 * organ + random.integers(0, 200, rows.shape))[..., None] * weights).astype(dtype)
        if write == ".npy":
            np.save(folder / f"{number}.npy", values[..., 0] if bands == 1 else values)
        else:
            values = values[..., 0] if bands == 1 else values
            options = {"photometric": "minisblack", "description": f"phantom {number}", "resolution": (30, 20)}
            options |= {"planarconfig": "contig"} if bands > 1 else {}
            tifffile.imwrite(folder / f"{number}.tif", values, metadata=None, **options)
    return folder


@pytest.mark.parametrize(
    ("suffix", "dtype", "bands", "keys"),
    [
        (".tif", "uint16", 1, ()),
        (".tif", "float32", 4, ("data.format.bands=[red,green,blue,infrared]", "data.format.shown=[3]")),
        (".npy", "uint16", 1, ("data.format.range=[0,4000]",)),
    ],
)
def test_other_data_keep_type_bands_and_metadata(
    suffix: str, dtype: str, bands: int, keys: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = phantoms(tmp_path / "data", 8, suffix, dtype, bands, scale=4)
    run = (f"data.path={data}", f"out={tmp_path}/run", "data.size=[96,64]", f"data.channels={bands}", *keys, *QUICK)
    run += ("network.channel_multipliers=[1,1,1]",)  # so that attention sees 24 x 16 positions, not 96 x 64
    fit(tiny_config(*run, f"data.format.dtype={dtype}"))
    model = tmp_path / "run/model.safetensors"
    pixels = describe(model).image.format
    assert pixels is not None and pixels.range is not None and pixels.limits[1] > 3000
    fit(tiny_config(*run, f"data.format.dtype={dtype}", "trainer.max_steps=6"))  # with the range of the run
    assert describe(model).image.format == pixels
    mask = np.zeros((96, 64), np.uint8)
    mask[:, 32:] = 1
    np.save(tmp_path / "mask.npy", mask)
    edit(ckpt=str(model), guide=f"{data}/0{suffix}", mask=f"{tmp_path}/mask.npy", out=f"{tmp_path}/edit")
    files = tmp_path / f"edit/0_seed0{suffix}", data / f"0{suffix}"
    result, guide = (read_values(file, "a").values for file in files)
    assert result.dtype == guide.dtype and result.shape == guide.shape
    assert np.array_equal(result[:, :32], guide[:, :32]) and not np.array_equal(result[:, 32:], guide[:, 32:])
    if suffix == ".tif":
        with tifffile.TiffFile(tmp_path / "edit/0_seed0.tif") as file:
            assert file.pages[0].description == "phantom 0"
            assert file.pages[0].tags["XResolution"].value == (30, 1)
    with Image.open(tmp_path / "edit/sheet.png") as sheet:
        assert sheet.mode == "RGB"
    with pytest.MonkeyPatch.context() as here:
        here.chdir(tmp_path)
        use_in_other_verbs(suffix)


def use_in_other_verbs(suffix: str) -> None:
    """Inspects and multiplies images with the model in run, whose mask is an array too."""
    quick = ("ckpt=run", "device=cpu", "steps=2", "overwrite=true")
    Path("truth").mkdir()
    Path("mask.npy").rename("truth/0_mask.npy")
    detect = ("data=data", "truth=truth", "t0=[0.3]", "samples=1", "out=detected")
    assert main(["detect", *quick, *detect]) == 0 and "AUROC" in Path("detected/report.md").read_text()
    Path("tree/class").mkdir(parents=True)
    Path(f"data/0{suffix}").rename(f"tree/class/0{suffix}")
    assert main(["augment", *quick[:3], "data=tree", "n=1", "out=augmented"]) == 0
    assert read_values(Path(f"augmented/class/0_seed0{suffix}"), "a").values.shape[:2] == (96, 64)


def test_a_new_source_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noise(ImageSet):
        """Images that are made as they are read."""

        in_memory = True

        def __init__(self, count: int, image_format: ImageFormat) -> None:
            self.count, self.format = count, image_format

        def __len__(self) -> int:
            return self.count

        def name(self, index: int) -> str:
            return f"noise {index}"

        def read(self, index: int) -> Pixels:
            values = np.random.default_rng(index).integers(0, 4000, self.format.tensor_shape)
            return torch.from_numpy(values.astype(self.format.format.dtype))

    class NoiseSource(Source):
        def __init__(self, size: Size, count: int, channels: int = 1, format: PixelFormat | None = None) -> None:
            super().__init__(ImageFormat(size, channels, format=format))
            self.count = count

        def images(self, split: str) -> ImageSet:
            return Noise(self.count, self.format)

    monkeypatch.setitem(DATA_SOURCES, "noise", NoiseSource)
    keys = ("data.name=noise", "data.count=5", "data.size=[12,8]", "data.format.dtype=uint16")
    config = tiny_config(*keys, "data.format.range=[0,4000]")
    data = build_data(config)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch.shape == (4, 1, 12, 8) and -1 <= batch.min() < -0.9 and 0.9 < batch.max() <= 1


@pytest.mark.parametrize("bands", [1, 4])
def test_parts_and_pasted_objects_keep_the_values_of_other_data(bands: int, tmp_path: Path) -> None:
    """All that the edit may not change is equal to the guide, values beyond the model's range included."""
    pixels, shape = PixelFormat("uint16", range=(0.0, 4000.0)), ImageShape((24, 16), bands)
    model = tiny_config("data.path=a", "data.size=[24,16]", "data.channels=1").model
    model = replace(model, image=replace(shape, format=pixels))
    save_denoiser(tmp_path / "model.safetensors", build_denoiser(model), model)
    guide = np.random.default_rng(0).integers(0, 9000, (72, 64, bands)).astype(np.uint16)
    options = {"photometric": "minisblack", "planarconfig": "contig" if bands > 1 else None, "description": "a place"}
    tifffile.imwrite(tmp_path / "a.tif", guide.squeeze(), **options)
    pasted = np.full((10, 8, bands), 3001, np.uint16)
    np.save(tmp_path / "object.npy", pasted)
    for name, (size, box) in {"mask": ((64, 72), (20, 30, 28, 42)), "of": ((8, 10), (0, 0, 4, 10))}.items():
        picture = Image.new("L", size)
        picture.paste(255, box)
        picture.save(tmp_path / f"{name}.png")
    common = {"ckpt": f"{tmp_path}/model.safetensors", "guide": f"{tmp_path}/a.tif", "samples": 2, "t0": 0.4}
    edit(**common, mask=f"{tmp_path}/mask.png", focus=True, reduce="std", out=f"{tmp_path}/part")
    result, deviation = (read_values(tmp_path / f"part/a_{name}.tif", "a") for name in ("seed0", "std"))
    assert result.values.dtype == np.uint16 and result.metadata["ImageDescription"] == "a place"
    changed = (result.values != guide).any(-1)
    rows, columns = changed.nonzero()
    assert 25 <= rows.min() < 30 and 42 < rows.max() < 47 and 15 <= columns.min() < 20 and 28 < columns.max() < 33
    assert not deviation.values[~changed].any() and deviation.values[36, 24].all()
    paste = {"paste": f"{tmp_path}/object.npy", "paste_mask": f"{tmp_path}/of.png", "at": (40, 10), "grow": 1}
    edit(**common, **paste, windows=True, out=f"{tmp_path}/paste")
    changed = (read_values(tmp_path / "paste/a_seed0.tif", "a").values != guide).any(-1)
    assert not changed[:, :39].any() and not changed[:, 45:].any() and changed[10:20, 40:44].mean() > 0.9
    edit(**{**common, "t0": 1e-5}, **paste, windows=True, steps=1, out=f"{tmp_path}/little")
    little = read_values(tmp_path / "little/a_seed0.tif", "a").values[10:20, 40:44]
    assert abs(little.astype(int) - 3001).max() < 10


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"paste": "a.npy", "paste_mask": "small.png", "at": (0, 0)}, "a.npy is 16x24, small.png is 8x8"),
        ({"paste": "bands.npy", "at": (0, 0)}, "bands.npy has 4 bands, expected 1"),
        ({"focus": (0, 0, 16, 9), "guide": "wide.npy"}, "exceeds the largest part of 16:24 within a picture of 40x12"),
        ({"guide": "bands.npy"}, "has 4 bands, expected 1"),
        ({"guide": "nan.npy"}, "nan.npy has 1 pixel with NaN"),
    ],
)
def test_edits_that_other_data_do_not_allow_are_refused(
    keys: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = PixelFormat("float32", range=(0.0, 4000.0))
    config = tiny_config("data.path=a", "data.size=[24,16]", "data.channels=1")
    model = replace(config.model, image=ImageShape((24, 16), 1, format=pixels))
    save_denoiser(tmp_path / "model.safetensors", build_denoiser(model), model)
    values = np.full((24, 16), 2000, np.float32)
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "bands.npy", np.stack([values] * 4, axis=-1))
    np.save(tmp_path / "wide.npy", np.zeros((12, 40), np.float32))
    Image.new("L", (8, 8), 255).save(tmp_path / "small.png")
    values[3, 4] = np.nan
    np.save(tmp_path / "nan.npy", values)
    with pytest.raises(ValueError, match=message):
        edit(ckpt="model.safetensors", out="out", **{"guide": "a.npy", **keys})
    assert not list(tmp_path.glob("out/*"))


def test_a_range_that_clips_is_warned_of_with_the_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = phantoms(tmp_path / "data", 3, ".npy")
    config = tiny_config(f"data.path={data}", "data.size=[24,16]", "data.channels=1", "data.format.dtype=uint16")
    measured = with_format(config).image.format
    assert measured is not None and measured.limits[0] < 20 and 3400 < measured.limits[1] <= 3700
    np.save(data / "9.npy", np.indices((64, 64)).sum(0).astype(np.uint16) // 16 % 2 * 500 + 500)
    read_guide(data / "9.npy", ImageShape(40, 1, format=STATED))  # overshoots at its edges
    assert "clipped" not in caplog.text
    read_guide(data / "0.npy", ImageShape((24, 16), 1, format=replace(measured, range=(0.0, 1000.0))))
    with_format(replace(config, data=replace(config.data, values={**config.data.values, "format": STATED})))
    first, second = caplog.messages[-2:]
    assert re.search(
        r"0.npy: [\d.]+ % of its values, from \d+ to \d+, lie outside of the model's range, 0 to 1000", first
    )
    assert re.search(r"[\d.]+ % of the training images' values, .* outside of data.format.range, 500 to 1000", second)


def test_shards_hold_the_values_of_other_data(tmp_path: Path) -> None:
    pixels, data = PixelFormat("uint16", range=(0.0, 4000.0)), phantoms(tmp_path / "data", 3, ".npy")
    pack(
        PackSettings(str(data), str(tmp_path / "shards"), (24, 16), channels=1, val_fraction=0.0, format=pixels),
        lambda *_: None,
    )
    images = WebDatasetSource(str(tmp_path / "shards"), (24, 16), 1, val_fraction=0.0, format=pixels).images("train")
    packed = {images.read(index).numpy().tobytes() for index in range(len(images))}
    assert packed == {np.load(data / f"{number}.npy").tobytes() for number in range(3)}
