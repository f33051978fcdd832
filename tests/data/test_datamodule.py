"""The data module alone and under Lightning: order over workers, broken files, caching, and resuming."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from unittest.mock import Mock

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.data import DataLoader

from sdedit_pl.data.batch_reading import CachedImages, ReadableImages, gathered
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.folder_source import FolderSource
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.loader import ImageLoader, room_on
from sdedit_pl.data.order import Draw
from sdedit_pl.data.source import ImageSet, Source
from sdedit_pl.data.torchvision_source import TorchvisionSource
from sdedit_pl.data.webdataset_source import WebDatasetSource

NumberedFolder = Callable[..., Path]


def first(loader: object, batches: int = 12) -> list[list[int]]:
    """Corner pixels of the first batches: number of the image, or 255 where it is mirrored and all its pixels."""
    return [batch[:, 0, 0].flatten().tolist() for batch in islice(loader, batches)]  # type: ignore[call-overload]


def module_over(folder: Path, **options: object) -> ImageDataModule:
    source_options = {key: options.pop(key) for key in ("val_fraction", "broken_limit") if key in options}
    settings = {"batch_size": 4, "workers": 0, "flip": True, **options}
    return ImageDataModule(FolderSource(str(folder), 8, **source_options), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("cache", "processes"), [(None, 0), (True, 0), (False, 2)])
def test_a_small_set_is_kept_in_memory_and_needs_no_workers(
    numbered_folder: NumberedFolder, monkeypatch: pytest.MonkeyPatch, cache: bool | None, processes: int
) -> None:
    folder = numbered_folder(range(8))
    data = module_over(folder, workers=2, cache=cache, val_fraction=0.0)
    batches = iter(data.train_dataloader())
    next(batches)
    assert len(multiprocessing.active_children()) == processes
    data.teardown()
    monkeypatch.setattr("sdedit_pl.data.datamodule.CACHE_BYTES", 8 * 3 * 8 * 8 - 1)
    larger = module_over(folder, workers=1, cache=cache, val_fraction=0.0)
    next(iter(larger.train_dataloader()))
    assert len(multiprocessing.active_children()) == (0 if cache else 1)
    larger.teardown()


def test_there_are_at_most_as_many_workers_as_cores(
    numbered_folder: NumberedFolder, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr("sdedit_pl.data.datamodule.available_cores", lambda: 1)
    data = module_over(numbered_folder(range(6)), workers=64, cache=False)
    next(iter(data.training_loader()))
    assert len(multiprocessing.active_children()) == 1
    data.teardown()
    assert not [warning for warning in recwarn if "worker" in str(warning.message)]


@pytest.mark.parametrize("cache", [False, True])
def test_order_and_flips_do_not_depend_on_workers_or_cache(numbered_folder: NumberedFolder, cache: bool) -> None:
    folder = numbered_folder(range(20))
    plain, other = module_over(folder, cache=False), module_over(folder, workers=2, cache=cache)
    assert first(plain.train_dataloader()) == first(other.train_dataloader())
    assert first(plain.training_loader(1, 3, 50)) == first(other.training_loader(1, 3, 50))
    assert first(plain.train_dataloader()) != first(module_over(folder, seed=1).train_dataloader())


@pytest.mark.parametrize(("margin", "flip"), [(0, True), (3, True), (3, False)])
def test_batches_from_a_device_equal_those_of_the_loader(
    numbered_folder: NumberedFolder, margin: int, flip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FolderSource(str(numbered_folder(range(20))), 8 - margin, random_crop=margin, val_fraction=0.3)
    data = ImageDataModule(source, batch_size=4, workers=0, flip=flip)

    def batches() -> list[Tensor]:
        train = data.training_loader(rank=1, world_size=2, start=30)
        return [*islice(train, 20), *data.val_dataloader()]

    expected = batches()
    data.trainer = Mock(global_rank=0, world_size=1, strategy=Mock(root_device=torch.device("cpu")))
    monkeypatch.setattr("sdedit_pl.data.datamodule.room_on", lambda device, images: True)
    monkeypatch.setattr("sdedit_pl.data.datamodule.ImageLoader", None)
    found = batches()
    assert all(map(torch.equal, found, expected)) and len(found) == len(expected)
    assert [batch.stride() for batch in found] == [batch.stride() for batch in expected]
    with FakeTensorMode(allow_non_fake_inputs=True):  # no values, so that waiting for one raises
        pixels = torch.empty(9, 3, 8, 8, dtype=torch.uint8, device="cuda")
        monkeypatch.setattr(FakeTensor, "is_cuda", False, raising=False)  # pinned memory needs a driver
        assert gathered(pixels, [Draw(3, True), Draw(8, False)], source.format).shape == (2, 3, 8 - margin, 8 - margin)


@pytest.mark.parametrize(
    ("device", "free", "fits"), [("cuda", 8 * 192, True), ("cuda", 8 * 191, False), ("cpu", 0, False)]
)
def test_images_stay_on_a_gpu_with_eight_times_their_memory(
    device: str, free: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    assert room_on(torch.device(device), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)) is fits


class Shared(ReadableImages):
    """Whether each batch is in shared memory when it is handed over."""

    def __getitems__(self, draws: Sequence[Draw]) -> list[bool]:  # type: ignore[override]
        images = super().__getitems__(draws).images
        return [images is not None and images.is_shared() and images.stride() == (192, 1, 24, 3)]


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_fill_batches_in_shared_memory(workers: int) -> None:
    images = Shared(CachedImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)), ImageFormat(8))
    batches = [[Draw(1, True), Draw(3, False)]]
    assert list(DataLoader(images, num_workers=workers, batch_sampler=batches, collate_fn=list)) == [[workers > 0]]


def test_image_sets_can_be_sent_to_workers_that_do_not_fork(
    numbered_folder: NumberedFolder, write_shard: Callable[..., Path]
) -> None:
    folder, shard = numbered_folder([5]), write_shard("a.tar", [5])
    for source in (FolderSource(str(folder), 8), WebDatasetSource(str(shard), 8), TorchvisionSource("FakeData", 8)):
        images = source.images("train")
        assert torch.equal(pickle.loads(pickle.dumps(images)).read(0), images.read(0))


def test_training_is_endless_and_validation_is_not(numbered_folder: NumberedFolder) -> None:
    data = module_over(numbered_folder(range(20)), val_fraction=0.5, val_batch_size=3)
    with pytest.raises(TypeError):
        len(data.train_dataloader())
    val = data.val_dataloader()
    batches = list(val)
    assert len(val) == len(batches) and torch.cat(batches).shape[0] == len(data.source.images("val"))
    assert [list(data.val_indices(i)) for i in range(len(batches))] == [
        list(range(end - len(b), end))
        for b, end in zip(batches, torch.tensor([len(b) for b in batches]).cumsum(0), strict=True)
    ]
    preview = data.val_images(5)
    assert torch.equal(preview, data.on_after_batch_transfer(torch.cat(batches), 0)[:5])
    assert preview.dtype == torch.float32 and preview.min() >= -1 and preview.max() == 1


def test_a_closed_loader_ends_its_workers_and_opens_again(numbered_folder: NumberedFolder) -> None:
    data = module_over(numbered_folder(range(6)), workers=2, cache=False)
    loader = data.train_dataloader()
    expected, held = first(loader, 3), iter(loader)
    next(held)
    data.teardown()
    assert multiprocessing.active_children() == [] and list(held) == []
    assert first(loader, 3) == expected and isinstance(loader, ImageLoader)
    loader.close()


def test_loading_leaves_the_global_random_stream_alone(numbered_folder: NumberedFolder) -> None:
    data = module_over(numbered_folder(range(6)), workers=1, cache=False)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    first(data.train_dataloader(), 2)
    assert torch.equal(torch.rand(1), expected)


class TestBroken:
    """Ten images, two of which cannot be read."""

    @pytest.fixture
    def folder(self, numbered_folder: NumberedFolder) -> Path:
        folder = numbered_folder(range(10))
        (folder / "003.png").write_text("a text")
        (folder / "007.png").write_bytes((folder / "007.png").read_bytes()[:50])
        return folder

    @pytest.mark.parametrize(("workers", "cache"), [(0, False), (2, False), (0, True), (2, True)])
    def test_they_are_counted_named_and_replaced(
        self, folder: Path, workers: int, cache: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        data = module_over(folder, workers=workers, cache=cache, val_fraction=0.0, flip=False)
        with caplog.at_level(logging.WARNING):
            batches = first(data.train_dataloader(), 5)
        numbers = sorted(row for batch in batches for row in batch[::8])
        assert numbers == sorted([0, 1, 2, 4, 4, 5, 6, 8, 8, 9] * 2)  # two epochs; 4 for 3 and 8 for 7
        assert set(data.source.broken) == {str(folder / "003.png"), str(folder / "007.png")}
        assert "003.png: it is not an image" in caplog.text and caplog.text.count("007.png") == 1

    def test_the_other_images_keep_their_places(self, folder: Path, numbered_folder: NumberedFolder) -> None:
        whole = numbered_folder(range(10), "whole")
        with_broken, without = (
            first(module_over(f, val_fraction=0.0, flip=False).train_dataloader()) for f in (folder, whole)
        )
        replaced = [[{3: 4, 7: 8}.get(value, value) for value in batch] for batch in without]
        assert with_broken == replaced

    @pytest.mark.parametrize("workers", [0, 2])
    def test_more_than_the_limit_end_the_run(self, folder: Path, workers: int) -> None:
        data = module_over(folder, workers=workers, cache=False, val_fraction=0.0, broken_limit=1)
        with pytest.raises(UnreadableImage, match="2 unreadable images exceed broken_limit = 1; the last: cannot read"):
            first(data.train_dataloader())
        first(module_over(folder, val_fraction=0.0, broken_limit=2).train_dataloader())

    @pytest.mark.parametrize(("workers", "cache"), [(0, False), (2, False), (0, True)])
    def test_a_folder_of_nothing_else_ends_the_run(self, tmp_path: Path, workers: int, cache: bool) -> None:
        for number in range(3):
            (tmp_path / f"{number}.png").write_text("a text")
        data = module_over(tmp_path, workers=workers, cache=cache, val_fraction=0.0)
        with pytest.raises(UnreadableImage, match=r"none of 3 images in a row can be read; the first: .*not an image"):
            first(data.train_dataloader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"val_batch_size": 0}, "val_batch_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1; 0 decodes in the training process"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module_over(tmp_path, **options)


def test_a_new_source_needs_nothing_but_its_images() -> None:
    class Ramp(ImageSet):
        def __len__(self) -> int:
            return 6

        def name(self, index: int) -> str:
            return f"ramp {index}"

        def read(self, index: int) -> Tensor:
            return torch.full((1, 8, 8), index, dtype=torch.uint8)

    class RampSource(Source):
        def images(self, split: str) -> ImageSet:
            return Ramp()

    data = ImageDataModule(RampSource(ImageFormat(8, channels=1)), batch_size=6, workers=2, cache=False)
    assert sorted(next(iter(data.train_dataloader()))[:, 0, 0, 0].tolist()) == list(range(6))


class Recorder(lightning.LightningModule):
    """Keeps what it is trained on; fails in the middle of step `fails_at`."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.fails_at = fails_at
        self.seen: list[list[float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert batch.dtype == torch.float32 and batch.min() >= -1
        if batch_idx == self.fails_at:
            raise RuntimeError("power failure")
        self.seen += batch[:, 0, 0].tolist()
        return self.weight * batch.mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", batch.mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(
    data: ImageDataModule,
    module: Recorder,
    folder: Path,
    steps: int = 10,
    accumulate: int = 1,
    resume: Path | None = None,
) -> list[list[float]]:
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        val_check_interval=3 * accumulate,
        check_val_every_n_epoch=None,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=4, save_top_k=-1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(module, data, ckpt_path=None if resume is None else str(resume), weights_only=True)
    return module.seen


@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning")
class TestResume:
    """Under Lightning, with prefetching workers, across epochs of 19 images."""

    @pytest.fixture
    def folder(self, numbered_folder: NumberedFolder) -> Path:
        return numbered_folder(range(20))

    def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(self, folder: Path, tmp_path: Path) -> None:
        data = module_over(folder, workers=2, cache=False)
        whole = fit(data, Recorder(), tmp_path, accumulate=3)
        assert data.consumed_samples == len(whole) == 120
        resumed = module_over(folder)
        rest = fit(resumed, Recorder(), tmp_path, accumulate=3, resume=tmp_path / "step=4.ckpt")
        assert rest == whole[48:]
        assert resumed.consumed_samples == data.consumed_samples

    def test_another_batch_size_continues_in_the_same_order(self, folder: Path, tmp_path: Path) -> None:
        whole = fit(module_over(folder), Recorder(), tmp_path)
        data = module_over(folder, batch_size=8)
        rest = fit(data, Recorder(), tmp_path, steps=7, resume=tmp_path / "step=4.ckpt")
        assert rest == whole[16:40]
        assert data.consumed_samples == 40
        again = module_over(folder, batch_size=2)
        again.load_state_dict(data.state_dict())
        assert again.consumed_samples == 40

    def test_a_batch_whose_step_failed_was_not_consumed(self, folder: Path, tmp_path: Path) -> None:
        data = module_over(folder, workers=2, cache=False)
        with pytest.raises(RuntimeError, match="power failure"):
            fit(data, Recorder(fails_at=5), tmp_path)
        assert multiprocessing.active_children() == []
        expected = {"consumed_samples": 20, "global_step": 5, "training_images": 18}
        assert data.consumed_samples == 20 and data.state_dict() == expected

    def test_a_set_that_has_shrunk_is_named(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        state = module_over(folder).state_dict()
        module_over(folder).load_state_dict(state)
        module_over(folder).load_state_dict({key: state[key] for key in ("consumed_samples", "global_step")})
        assert "training images, but" not in caplog.text
        (folder / "000.png").unlink()
        module_over(folder).load_state_dict(state)
        assert "there are 17 training images, but there were 18 when the checkpoint was written" in caplog.text

    def test_a_new_run_with_the_same_data_module_starts_at_the_beginning(self, folder: Path, tmp_path: Path) -> None:
        data = module_over(folder)
        whole = fit(data, Recorder(), tmp_path)
        fit(data, Recorder(), tmp_path, resume=tmp_path / "step=8.ckpt")
        assert fit(data, Recorder(), tmp_path, steps=3) == whole[:12]

    @pytest.mark.parametrize(("count", "fraction", "validated"), [(20, 0.0, 0), (2, 0.1, 1)])
    def test_a_run_validates_on_no_image_or_a_single_one(
        self, numbered_folder: NumberedFolder, tmp_path: Path, count: int, fraction: float, validated: int
    ) -> None:
        data = module_over(numbered_folder(range(count), "few"), val_fraction=fraction)
        assert len(data.source.images("val")) == validated
        assert len(fit(data, Recorder(), tmp_path, steps=4)) == 16


@pytest.mark.parametrize("devices", [1, 2, 5])
def test_every_device_gets_one_batch_of_a_small_validation_set(numbered_folder: NumberedFolder, devices: int) -> None:
    numbered_folder(range(9), "set/train")
    data = module_over(numbered_folder(range(100, 103), "set/val").parent, val_batch_size=64)
    batches = [list(data.validation_loader(rank, devices)) for rank in range(devices)]
    assert [len(of_rank) for of_rank in batches] == [1] * devices
    seen = [int(image[0, 0, 0]) for (batch,) in batches for image in batch]
    assert set(seen) == {100, 101, 102} and len(seen) == max(3, devices)
    assert len(data.val_images(64)) == 3


def test_random_crops_are_cut_in_training_and_the_centre_in_validation(tmp_path: Path) -> None:
    pixels = torch.arange(12 * 12, dtype=torch.uint8).reshape(12, 12)
    for split in ("train", "val"):
        (tmp_path / "set" / split).mkdir(parents=True)
        Image.fromarray(pixels.numpy()).save(tmp_path / "set" / split / "a.png")
    batches = []
    for cache in (True, False):
        source = FolderSource(str(tmp_path / "set"), 8, channels=1, random_crop=4)
        data = ImageDataModule(source, batch_size=50, workers=0, cache=cache)
        batches.append(next(iter(data.training_loader())))
        assert torch.equal(next(iter(data.validation_loader()))[0, 0], pixels[2:10, 2:10])
        assert data.val_images(1).shape == (1, 1, 8, 8)
    assert torch.equal(*batches) and len({int(image[0, 0, 0]) for image in batches[0]}) > 10
    for image in batches[0]:
        top, left = divmod(int(image[0, 0, 0]), 12)
        assert torch.equal(image[0], pixels[top : top + 8, left : left + 8])


def test_a_shard_that_vanishes_or_changes_is_counted_once_and_passed_over(write_shard: Callable[..., Path]) -> None:
    shards = [write_shard("a.tar", range(6)), write_shard("b.tar", range(6, 9))]
    data = ImageDataModule(
        WebDatasetSource([str(shard) for shard in shards], 8, val_fraction=0.0), batch_size=9, workers=2, cache=False
    )
    data.setup()
    write_shard("a.tar", range(20, 26))
    values = torch.cat(list(islice(data.training_loader(), 4)))[:, 0, 0].amin(-1)
    data.teardown()
    assert set(values.tolist()) == {6, 7, 8}
    assert list(data.source.broken) == [str(shards[0])]
    assert "has changed since its images were listed" in data.source.broken[str(shards[0])]
