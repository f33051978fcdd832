"""Packing: the content of the shards, its dependence on originals and settings alone, and kills at any moment."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import webdataset
from PIL import Image

from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.pack_settings import PackSettings
from sdedit_pl.data.shard_manifest import UNFINISHED_FOLDER
from sdedit_pl.data.shard_packing import pack
from sdedit_pl.data.torchvision_source import TorchvisionSource
from sdedit_pl.data.webdataset_source import WebDatasetSource
from sdedit_pl.files import sha256_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 24x16 px, of which three equal another one, and two files that are not images; not to be changed."""
    folder = tmp_path_factory.mktemp("originals") / "photos"
    (folder / "more").mkdir(parents=True)
    for number in range(40):
        place = folder / ("more" if number % 3 else "") / f"im.{number:02d}.png"
        pixels = np.random.default_rng(number % 37).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    (folder / "text.png").write_text("text")
    (folder / "more" / "empty.jpg").touch()
    return folder


Whole = Callable[..., dict[str, bytes]]


def settings(photos: Path, folder: Path, **options: Any) -> PackSettings:
    usual = {"data": str(photos), "out": str(folder), "size": 16, "samples": 7, "processes": 1}
    return PackSettings(**{**usual, **options})


def packed(*arguments: Any, **options: Any) -> dict[str, Any]:
    return pack(settings(*arguments, **options), lambda done, total: None)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The files of a pack of `photos` with some options, packed once."""

    @cache
    def packed_once(**options: Any) -> dict[str, bytes]:
        folder = tmp_path_factory.mktemp("whole") / "out"
        packed(photos, folder, **options)
        return contents(folder)

    return packed_once


def contents(folder: Path) -> dict[str, bytes]:
    """The files in a folder, without the claim that a killed process has left."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if path.suffix != ".lock"}


def first_image(folder: Path) -> Image.Image:
    with tarfile.open(folder / "train-000000.tar") as archive:
        return Image.open(io.BytesIO(archive.extractfile(archive.getmembers()[0]).read()))  # type: ignore[union-attr]


def write_flat(folder: Path, *names: str) -> Path:
    """Writes images of 16x16 px, of which image number i has the red level i."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{name}.png")
    return folder


class TestResult:
    def test_shards_are_full_and_their_manifest_is_right(self, photos: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        manifest = packed(photos, out, val_fraction=0.2)
        assert json.loads((out / "manifest.json").read_text()) == manifest
        assert sorted(path.name for path in out.iterdir()) == sorted(
            ["manifest.json", *(shard["file"] for split in manifest["splits"].values() for shard in split["shards"])]
        )
        for facts in manifest["splits"].values():
            counts = [shard["images"] for shard in facts["shards"]]
            assert set(counts[:-1]) <= {7} and 1 <= counts[-1] <= 7 and sum(counts) == facts["images"]
            for shard in facts["shards"]:
                with tarfile.open(out / shard["file"]) as archive:
                    assert len(archive.getnames()) == shard["images"]
                    assert {(m.mtime, m.uid, m.uname) for m in archive} == {(0, 0, "")}
                assert (out / shard["file"]).stat().st_size == shard["bytes"]
                assert sha256_of(out / shard["file"]) == shard["sha256"]
        assert sum(facts["images"] for facts in manifest["splits"].values()) == 40
        assert manifest["splits"]["val"]["images"] >= 2

    def test_training_sees_the_pixels_that_the_folder_gives(self, photos: Path, tmp_path: Path) -> None:
        packed(photos, tmp_path / "out", val_fraction=0.0)
        images = WebDatasetSource(str(tmp_path / "out"), 16, val_fraction=0.0).images("train")
        originals = [np.asarray(Image.open(path)) for path in photos.rglob("im*.png")]
        assert {images.read(number).permute(1, 2, 0).numpy().tobytes() for number in range(len(images))} == {
            pixels[:, 4:20].tobytes() for pixels in originals
        }

    def test_other_programs_read_the_shards(self, photos: Path, tmp_path: Path) -> None:
        packed(photos, tmp_path / "out", val_fraction=0.0)
        shards = sorted(str(shard) for shard in (tmp_path / "out").glob("train-*.tar"))
        samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("png"))
        assert len(samples) == 40 and samples[0][0].shape == (16, 16, 3)

    def test_neighbours_in_a_shard_are_not_neighbours_by_name(self, photos: Path, tmp_path: Path) -> None:
        packed(photos, tmp_path / "out", samples=100)
        with tarfile.open(tmp_path / "out" / "train-000000.tar") as archive:
            names = [name.partition("-")[2] for name in archive.getnames()]
        assert names != sorted(names) and len(set(names)) == len(names)

    def test_broken_and_equal_images_are_listed(self, photos: Path, tmp_path: Path) -> None:
        manifest = packed(photos, tmp_path / "out")
        assert {Path(entry["name"]).name for entry in manifest["broken"]} == {"text.png", "empty.jpg"}
        assert {entry["reason"].rpartition(": ")[2] for entry in manifest["broken"]} == {
            "it is not an image", "it is empty"
        }  # fmt: skip
        pairs = {frozenset(Path(entry[key]).name for key in ("name", "equals")) for entry in manifest["duplicates"]}
        assert pairs == {frozenset({f"im.{n:02d}.png", f"im.{n + 37}.png"}) for n in range(3)}

    def test_equal_images_can_be_dropped(self, photos: Path, tmp_path: Path) -> None:
        manifest = packed(photos, tmp_path / "out", duplicates="drop")
        assert sum(facts["images"] for facts in manifest["splits"].values()) == 37
        assert len(manifest["duplicates"]) == 3

    @pytest.mark.parametrize(
        ("encoding", "quality", "exact"), [("jpeg", 90, False), ("webp", 80, False), ("webp", 100, True)]
    )
    def test_encodings(self, photos: Path, tmp_path: Path, encoding: str, quality: int, exact: bool) -> None:
        results = []
        for options in ({}, {"encoding": encoding, "quality": quality}):
            out = tmp_path / options.get("encoding", "png")
            packed(photos, out, **options)
            images = WebDatasetSource(str(out), 16).images("train")
            results.append(torch.stack([images.read(number) for number in range(len(images))]))
        assert first_image(out).format == encoding.upper()
        assert len(results[1]) > 30 and torch.equal(*results) == exact

    def test_grey_and_colour(self, photos: Path, tmp_path: Path) -> None:
        packed(photos, tmp_path / "grey", channels=1)
        assert first_image(tmp_path / "grey").mode == "L"
        packed(tmp_path / "grey" / "train-000000.tar", tmp_path / "colour")
        images = WebDatasetSource(str(tmp_path / "colour"), 16).images("train")
        assert torch.equal(images.read(0)[0], images.read(0)[2])


class TestFit:
    """An image of 32x16 px, red on the left, blue on the right."""

    @pytest.fixture
    def wide(self, tmp_path: Path) -> Path:
        image = Image.new("RGB", (32, 16), "red")
        image.paste("blue", (16, 0, 32, 16))
        (tmp_path / "wide").mkdir()
        image.save(tmp_path / "wide" / "a.png")
        return tmp_path / "wide"

    def read(self, folder: Path, **options: Any) -> torch.Tensor:
        return WebDatasetSource(str(folder), 16, **options).images("train").read(0)

    def test_crop_and_resize(self, wide: Path, tmp_path: Path) -> None:
        packed(wide, tmp_path / "crop")
        packed(wide, tmp_path / "resize", fit="resize")
        crop, resize = self.read(tmp_path / "crop"), self.read(tmp_path / "resize")
        assert crop[0, 0].tolist() == [255] * 8 + [0] * 8
        assert resize[0, 0, :5].tolist() == [255] * 5 and resize[2, 0, 11:].tolist() == [255] * 5
        assert resize[0, 0, 11:].tolist() == [0] * 5

    def test_random_crop_keeps_a_margin_that_training_uses(self, tmp_path: Path) -> None:
        pixels = np.arange(20 * 20 * 3, dtype=np.uint8).reshape(20, 20, 3)
        (tmp_path / "square").mkdir()
        Image.fromarray(pixels).save(tmp_path / "square" / "a.png")
        packed(tmp_path / "square", tmp_path / "out", fit="random_crop", margin=4)
        source = WebDatasetSource(str(tmp_path / "out"), 16, random_crop=4)
        assert torch.equal(source.images("train").read(0), torch.from_numpy(pixels).permute(2, 0, 1))
        batch = next(iter(ImageDataModule(source, batch_size=200, workers=0).training_loader()))
        windows = torch.from_numpy(pixels).permute(2, 0, 1).unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4)
        expected = {window.contiguous().numpy().tobytes() for window in windows.flatten(0, 1)}
        assert {image.contiguous().numpy().tobytes() for image in batch} == expected and len(expected) == 25

    def test_the_margin_is_an_eighth_by_default(self, wide: Path, tmp_path: Path) -> None:
        assert settings(wide, tmp_path, fit="random_crop", size=64).margin_pixels == 8


class TestDivision:
    def test_folders_train_and_val_are_kept(self, tmp_path: Path) -> None:
        manifest = packed(write_flat(tmp_path / "set", "train/a", "train/x/b", "val/c", "d"), tmp_path / "out")
        assert [manifest["splits"][split]["images"] for split in ("train", "val")] == [2, 1]
        source = WebDatasetSource(str(tmp_path / "out"), 16)
        assert source.images("val").read(0)[0, 0, 0] == 2

    @pytest.mark.parametrize("above", ["./photos/", ""])
    def test_folders_train_and_val_of_an_archive_below_shared_folders(
        self, above: str, write_shard: Callable[..., Path], encoded: Callable[[int], bytes], tmp_path: Path
    ) -> None:
        names = [f"{above}{name}.png" for name in ("train/a", "train/b", "val/c")]
        path = write_shard("set.tar", {name: encoded(number) for number, name in enumerate(names)})
        manifest = packed(path, tmp_path / "out", size=8)
        assert [manifest["splits"][split]["images"] for split in ("train", "val")] == [2, 1]
        assert manifest["source"]["place"] == str(path)

    def test_a_torchvision_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Small(torchvision.datasets.FakeData):
            def __init__(self) -> None:
                super().__init__(size=30, image_size=(3, 16, 16))

        monkeypatch.setattr(torchvision.datasets, "FakeData", Small)
        manifest = packed(tmp_path, tmp_path / "out", data="torchvision:FakeData", val_fraction=0.1)
        source = TorchvisionSource("FakeData", 16, val_fraction=0.1)
        assert [manifest["splits"][split]["images"] for split in ("train", "val")] == [
            len(source.images(split)) for split in ("train", "val")
        ]

    def test_names_that_are_not_text(self, tmp_path: Path) -> None:
        write_flat(tmp_path / "set", "0", "1", "2")
        os.rename(tmp_path / "set" / "0.png", os.fsencode(tmp_path / "set") + b"/\xff\xe9.png")
        (tmp_path / "set" / os.fsdecode(b"\xfe.png")).touch()
        manifest = packed(tmp_path / "set", tmp_path / "out", val_fraction=0.3)
        assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")) == manifest
        assert sum(manifest["splits"][split]["images"] for split in ("train", "val")) == 3
        assert os.fsencode(manifest["broken"][0]["name"]).endswith(b"/\xfe.png")

    def test_one_image_is_for_training(self, tmp_path: Path) -> None:
        assert packed(write_flat(tmp_path / "one", "a"), tmp_path / "out")["splits"]["val"] == {
            "images": 0,
            "shards": [],
        }


def require_refused_by_training(folder: Path) -> None:
    with pytest.raises(ValueError, match="are not complete; run the same `sdedit pack` again"):
        WebDatasetSource(str(folder), 16).images("train")


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
class TestExactness:
    def test_the_number_of_processes_changes_nothing(self, photos: Path, whole: Whole, tmp_path: Path) -> None:
        packed(photos, tmp_path / "out", processes=3)
        assert contents(tmp_path / "out") == whole()

    def test_the_same_command_again_changes_nothing(
        self, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        first = packed(photos, tmp_path / "out")
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        assert "already there" not in caplog.text
        assert packed(photos, tmp_path / "out") == first and "the shards were already there" in caplog.text
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before

    @pytest.mark.parametrize(("images", "processes"), [(3, 2), (8, 1), (20, 2), (39, 2), (42, 1)])
    def test_a_killed_pack_resumes_to_the_same_bytes(
        self, photos: Path, whole: Whole, tmp_path: Path, images: int, processes: int
    ) -> None:
        out, options = tmp_path / "out", {"duplicates": "drop", "val_fraction": 0.2}
        killed_in(_kill_after_images, images, settings(photos, out, processes=processes, **options))
        assert not list(out.glob("*.tar")) and not (out / "manifest.json").exists()
        require_refused_by_training(out)
        kept = len(list((out / UNFINISHED_FOLDER).glob("*-*.json")))
        assert kept >= (images - 4) // 7 - 1
        seen: list[int] = []
        pack(settings(photos, out, **options), lambda done, total: seen.append(done))
        assert contents(out) == whole(**options)
        assert kept < 2 or max(seen) > 1, "noted shards are not packed again"

    @pytest.mark.parametrize("replacement", range(1, 16))
    def test_a_kill_at_any_replacement_of_a_file_does_no_harm(
        self, photos: Path, whole: Whole, tmp_path: Path, replacement: int
    ) -> None:
        killed_in(_kill_at_replacement, replacement, settings(photos, tmp_path / "out", samples=15))
        if not (tmp_path / "out" / "manifest.json").exists():
            require_refused_by_training(tmp_path / "out")
        packed(photos, tmp_path / "out", samples=15)
        assert contents(tmp_path / "out") == whole(samples=15)


def killed_in(act: Callable[[int, PackSettings], None], moment: int, work: PackSettings) -> None:
    process = multiprocessing.get_context("fork").Process(target=act, args=(moment, work))
    process.start()
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 0)


def _kill_after_images(images: int, work: PackSettings) -> None:
    count = 0

    def advance(done: int, total: int) -> None:
        nonlocal count
        count += done
        if count >= images:
            os.kill(os.getpid(), signal.SIGKILL)

    pack(work, advance)


def _kill_at_replacement(replacement: int, work: PackSettings) -> None:
    replace, count = Path.replace, 0

    def counted(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == replacement:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign] - in this process only
    pack(work, lambda done, total: None)


class TestRefusals:
    def refusal(self, tmp_path: Path, work: Callable[[], object]) -> str:
        before = contents(tmp_path)
        with pytest.raises(ValueError) as caught:
            work()
        assert contents(tmp_path) == before and "\n" not in str(caught.value)
        return str(caught.value)

    def test_other_originals_or_settings_in_the_same_folder(self, photos: Path, tmp_path: Path) -> None:
        out, photos = tmp_path / "out", Path(shutil.copytree(photos, tmp_path / "photos"))
        packed(photos, out)
        refusal = self.refusal(tmp_path, lambda: packed(photos, out, size=8, samples=8))
        assert "settings.size was 16, and is 8 now; settings.samples was 7, and is 8 now" in refusal
        Image.new("RGB", (8, 8)).save(photos / "new.png")
        assert "source.images was 42, and is 43 now" in self.refusal(tmp_path, lambda: packed(photos, out))
        (out / "manifest.json").unlink()
        assert "holds .tar files that this pack has not written" in self.refusal(tmp_path, lambda: packed(photos, out))
        (out / "manifest.json").write_text("{}")
        assert "manifest.json is not a manifest of `sdedit pack`" in self.refusal(tmp_path, lambda: packed(photos, out))

    def test_an_unfinished_result_of_another_pack(self, photos: Path, tmp_path: Path) -> None:
        killed_in(_kill_after_images, 30, settings(photos, tmp_path / "out"))
        assert "settings.size was 16, and is 8 now" in self.refusal(
            tmp_path, lambda: packed(photos, tmp_path / "out", size=8)
        )

    def test_places(self, photos: Path, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").touch()
        cases = [
            ({"data": str(tmp_path / "no")}, "no does not exist; give a folder, an archive or torchvision:NAME"),
            ({"data": str(tmp_path / "empty")}, "no images under"),
            ({"data": str(tmp_path / "file")}, "file is not an archive: its name must end in .zip, .tar"),
            ({"data": "torchvision:CIFAR11"}, "torchvision.datasets has no 'CIFAR11'"),
            ({"out": str(tmp_path / "file")}, "file is a file; name a folder"),
            ({"out": str(tmp_path / "file" / "out")}, "out cannot be written: Not a directory; name another folder"),
        ]
        for options, message in cases:
            assert message in self.refusal(
                tmp_path, lambda options=options: packed(photos, tmp_path / "out", **options)
            )
            assert not (tmp_path / "out").exists()

    def test_originals_without_a_readable_image(self, tmp_path: Path) -> None:
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "a.png").write_text("text")
        message = self.refusal(tmp_path, lambda: packed(tmp_path / "set", tmp_path / "new" / "out"))
        assert "no image of" in message and "a.png: it is not an image" in message
        assert not (tmp_path / "new").exists()

    def test_a_second_process(self, photos: Path, tmp_path: Path) -> None:
        def in_the_middle(done: int, total: int) -> None:
            with pytest.raises(ValueError, match=f"is writing {tmp_path / 'out'}"):
                packed(photos, tmp_path / "out")

        pack(settings(photos, tmp_path / "out", samples=100), in_the_middle)
        assert (tmp_path / "out" / "manifest.json").exists()

    def test_a_full_disk_keeps_complete_shards(
        self, photos: Path, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected, calls = whole(), iter(range(100))

        def sync(descriptor: int) -> None:
            # The record of the job takes two, a shard one and its note two: this is the third shard.
            if next(calls) == 8:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", sync)
        with pytest.raises(ValueError, match=r": No space left .* the disk is full.*Complete shards are kept; run the"):
            packed(photos, tmp_path / "out")
        assert len(list((tmp_path / "out" / UNFINISHED_FOLDER).glob("*-*.json"))) == 2
        packed(photos, tmp_path / "out")
        assert contents(tmp_path / "out") == expected

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"margin": 4}, "margin needs fit=random_crop, got fit=crop"),
            ({"quality": 0}, r"quality must lie in 1\.\.100, got 0"),
            ({"samples": 0}, "samples must be at least 1, got 0"),
            ({"processes": 0}, "processes must be at least 1, got 0"),
            ({"val_fraction": 1.0}, r"val_fraction must lie in \[0, 1\), got 1\.0"),
            ({"val_fraction": -0.1}, r"val_fraction must lie in \[0, 1\), got -0\.1"),
            ({"fit": "random_crop", "margin": -1}, "random_crop is a margin in pixels, at least 0, got -1"),
        ],
    )
    def test_settings(self, photos: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            packed(photos, tmp_path / "out", **options)

    def test_the_death_of_a_worker_is_reported(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(self: object, pixels: object) -> bytes:
            os._exit(9)

        monkeypatch.setattr("sdedit_pl.data.image_encoding.ImageEncoding.encode", die)
        with pytest.raises(ValueError, match=r"DataLoader worker .*use fewer processes=\. Complete shards are kept"):
            packed(photos, tmp_path / "out", processes=2)


def test_the_margin_is_part_of_the_images_format() -> None:
    image = torch.arange(3 * 100, dtype=torch.uint8).reshape(3, 10, 10)
    image_format = ImageFormat(8, margin=2)
    assert torch.equal(image_format.part(image, None), image[:, 1:9, 1:9])
    assert torch.equal(image_format.part(image, (0, 2)), image[:, :8, 2:])
    assert image_format.before_cutting() == ImageFormat(10)
