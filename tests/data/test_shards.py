"""Local shards, read by number, and shards behind URLs, streamed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdedit_pl.data import ImageDataModule, UnreadableImage, WebDatasetSource
from sdedit_pl.data.shards import find_shards, split_key
from sdedit_pl.data.source import ImageSet

WriteShard = Callable[..., Path]
PORTRAITS = Path(__file__).parents[2] / "data" / "portraits64"


def numbers(images: ImageSet) -> list[int]:
    return [int(images.read(index)[0, 0, 0]) for index in range(len(images))]


def values(batch: Tensor) -> list[int]:
    """The numbers of a batch's images, mirrored or not."""
    return batch[:, 0, 0].amin(-1).tolist()


@pytest.fixture
def folder(write_shard: WriteShard) -> Path:
    """Two training shards of five images and a validation shard of three."""
    write_shard("set/train-000000.tar", range(5)), write_shard("set/train-000001.tar", range(5, 10))
    return write_shard("set/val-000000.tar", range(10, 13)).parent


def test_a_folder_is_split_by_the_names_of_its_shards(folder: Path) -> None:
    source = WebDatasetSource(str(folder), 8)
    assert numbers(source.images("train")) == list(range(10)) and numbers(source.images("val")) == [10, 11, 12]
    assert source.images("train").name(7) == f"{folder}/train-000001.tar:007"


@pytest.mark.parametrize(
    "pattern", ["train-{000000..000001}.tar", "train-*.tar", ["train-000000.tar", "train-000001.tar"]]
)
def test_patterns_and_lists_hold_out_a_share(folder: Path, pattern: str | list[str]) -> None:
    path = str(folder / pattern) if isinstance(pattern, str) else [str(folder / name) for name in pattern]
    source = WebDatasetSource(path, 8, val_fraction=0.3)
    train, val = numbers(source.images("train")), numbers(source.images("val"))
    assert sorted(train + val) == list(range(10)) and val


def test_val_path_is_left_out_of_training(folder: Path) -> None:
    source = WebDatasetSource(str(folder / "*.tar"), 8, val_path=str(folder / "train-000001.tar"))
    assert numbers(source.images("train")) == [0, 1, 2, 3, 4, 10, 11, 12]
    assert numbers(source.images("val")) == [5, 6, 7, 8, 9]
    assert numbers(WebDatasetSource(str(folder), 8, val_path=str(folder)).images("val")) == [10, 11, 12]
    with pytest.raises(
        ValueError, match=r"every shard of .* is also one of val_path; training needs shards of its own"
    ):
        same = str(folder / "val-000000.tar")
        WebDatasetSource(same, 8, val_path=same).images("train")


def test_a_sample_is_the_first_image_of_its_key(write_shard: WriteShard, encoded: Callable[[int], bytes]) -> None:
    members = {"a/1.json": b"{}", "a/1.PNG": encoded(1), "a/1.jpg": b"?", "b.c/2.png": encoded(2), "3.seg.png": b"?"}
    source = WebDatasetSource(str(write_shard("x.tar", members)), 8, val_fraction=0.0)
    assert numbers(source.images("train")) == [1, 2]
    assert split_key("b.c/3.seg.PNG") == ("b.c/3", ".seg.png")


def test_broken_images_and_shards_are_counted_and_named(
    folder: Path, write_shard: WriteShard, encoded: Callable[[int], bytes]
) -> None:
    write_shard("set/train-000002.tar", {"20.png": encoded(20), "21.png": b"no image"})
    (folder / "train-000003.tar").write_bytes(b"no tar file" * 100)
    whole = (folder / "train-000000.tar").read_bytes()
    (folder / "train-000000.tar").write_bytes(whole[: len(whole) // 4])
    data = ImageDataModule(WebDatasetSource(str(folder), 8), batch_size=6, workers=0)
    data.setup()
    seen = {value for batch in islice(data.training_loader(), 6) for value in values(batch)}
    assert {5, 6, 7, 8, 9, 20} <= seen and 21 not in seen
    broken = {name.removeprefix(f"{folder}/") for name in data.source.broken}
    assert {"train-000000.tar", "train-000002.tar:21", "train-000003.tar"} <= broken
    assert any("cannot read shard" in reason for reason in data.source.broken.values())


def test_places_without_shards_are_named(tmp_path: Path, folder: Path, write_shard: WriteShard) -> None:
    def error(path: str | list[str]) -> str:
        with pytest.raises(ValueError) as caught:
            WebDatasetSource(path, 8).images("train")
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "1 of 1 shards do not exist, the first: " in error(str(tmp_path / "nowhere"))
    assert "1 of 3 shards do not exist, the first: " in error(str(folder / "train-{000000..000002}.tar"))
    assert "no shard matches " in error(str(folder / "other-*.tar"))
    assert "empty; expected files that end in .tar; images: the folder source" in error(str(tmp_path / "empty"))
    assert "path names no shards" in error([])
    text = write_shard("text.tar", {"a.txt": b"text"})
    assert "no images in 1 shards, the first " in error(str(text)) and "expected members named KEY.png" in error(
        str(text)
    )
    text.write_bytes(b"")
    assert "cannot read shard" in error(str(text))
    with pytest.raises(ValueError, match="shuffle_buffer must be at least 1, got 0"):
        WebDatasetSource(str(folder), 8, shuffle_buffer=0)


def test_find_shards_leaves_urls_and_commands_alone() -> None:
    assert find_shards("https://host/a-{0..2}.tar")[0] == [f"https://host/a-{i}.tar" for i in range(3)]
    assert find_shards("pipe:cat *.tar")[0] == ["pipe:cat *.tar"]


def test_the_bundled_portraits_split_into_disjoint_halves() -> None:
    source = WebDatasetSource(str(PORTRAITS), 64)
    train, val = source.images("train"), source.images("val")
    assert (len(train), len(val)) == (838, 96)
    pixels = [
        torch.stack([images.read(index) for index in range(len(images))]).flatten(1) / 255 for images in (train, val)
    ]
    # the nearest pair shows a face with and without a beard; what is nearer is one picture under two names
    assert torch.cdist(*pixels).square().min() > 30
    assert not source.broken


class TestStream:
    """The same shards, named by URL."""

    def data(self, folder: Path, workers: int = 0, seed: int = 0, **options: int) -> ImageDataModule:
        urls = f"file://{folder}/train-{{000000..000001}}.tar"
        source = WebDatasetSource(urls, 8, val_path=f"file://{folder}/val-000000.tar", shuffle_buffer=4, **options)
        return ImageDataModule(source, batch_size=3, workers=workers, seed=seed, flip=True)

    def first(self, data: ImageDataModule, rank: int = 0, world_size: int = 1, start: int = 0) -> list[int]:
        return [v for batch in islice(data.training_loader(rank, world_size, start), 8) for v in values(batch)]

    def test_it_brings_all_images_and_validates_on_its_shards(self, folder: Path) -> None:
        data = self.data(folder)
        batches = list(islice(data.training_loader(), 40))
        assert {v for batch in batches for v in values(batch)} == set(range(10))
        assert batches[0].shape == (3, 3, 8, 8) and batches[0].dtype == torch.uint8
        mirrored = torch.cat(batches)[:, 0, 0, 0] == 255
        assert 0.3 < mirrored.float().mean() < 0.7
        assert [v for batch in data.val_dataloader() for v in values(batch)] == [10, 11, 12]

    def test_it_is_deterministic_and_moves_on_with_seed_device_and_start(self, folder: Path) -> None:
        data = self.data(folder)
        assert self.first(data) == self.first(self.data(folder))
        others = [self.first(data, 1, 2), self.first(data, 0, 1, start=24), self.first(self.data(folder, seed=1))]
        assert all(self.first(data) != other for other in others)

    @pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
    def test_workers_beyond_the_number_of_shards_are_fed(self, folder: Path) -> None:
        data = self.data(folder, workers=3)
        assert self.first(data) == self.first(data)
        assert len(self.first(data)) == 24

    def test_broken_samples_are_counted_and_an_endless_failure_ends(
        self, folder: Path, write_shard: WriteShard, encoded: Callable[[int], bytes]
    ) -> None:
        write_shard("set/train-000001.tar", {"20.png": encoded(20), "21.png": b"no image", "22.txt": b"text"})
        data = self.data(folder)
        assert set(self.first(data)) <= {0, 1, 2, 3, 4, 20}
        assert {name.split(":")[-1] for name in data.source.broken} == {"21", "22"}
        with pytest.raises(UnreadableImage, match="2 unreadable images exceed broken_limit = 1; the last: "):
            self.first(self.data(folder, broken_limit=1))
        for number in (0, 1):
            (folder / f"train-00000{number}.tar").unlink()
        with pytest.raises(UnreadableImage, match="none of 1000 images in a row can be read; the first: cannot read"):
            self.first(data)

    def test_without_shards_for_it_there_is_no_validation(self, folder: Path) -> None:
        data = ImageDataModule(WebDatasetSource(f"file://{folder}/train-000000.tar", 8))
        assert data.val_dataloader() == [] and data.val_images(4).shape == (0, 3, 8, 8)
        with pytest.raises(ValueError, match="cache=true needs shards that are local files"):
            ImageDataModule(data.source, cache=True)
