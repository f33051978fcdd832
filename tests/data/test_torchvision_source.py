"""torchvision's data sets as a source."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from sdedit_pl.data.source import ImageSet
from sdedit_pl.data.torchvision_source import TorchvisionSource


def as_set(images: ImageSet, count: int) -> set[bytes]:
    return {images.read(index).numpy().tobytes() for index in range(count)}


def test_a_class_without_splits_is_held_out_from() -> None:
    source = TorchvisionSource("FakeData", 16, val_fraction=0.1)
    train, val = source.images("train"), source.images("val")
    assert len(train) + len(val) == 1000 and 60 < len(val) < 140
    assert train.read(0).shape == (3, 16, 16) and train.read(0).dtype == torch.uint8
    assert not as_set(train, 20) & as_set(val, 20)
    assert train.name(0).startswith("FakeData image ")


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Tensor]:
    """CIFAR-10's layout with two images for training and one for testing."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    files = {"data_batch_1": {"data": pixels[:2], "labels": [0, 1]}, "test_batch": {"data": pixels[2:], "labels": [2]}}
    files["batches.meta"] = {"label_names": ["a", "b", "c"]}
    sums = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cls = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cls, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(cls, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cls, "meta", {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]})
    return tmp_path, torch.from_numpy(pixels).reshape(3, 3, 32, 32)


def test_a_class_with_a_train_flag_has_its_own_validation_images(cifar: tuple[Path, Tensor]) -> None:
    root, pixels = cifar
    source = TorchvisionSource("CIFAR10", 32, root=str(root))
    train, val = source.images("train"), source.images("val")
    assert (len(train), len(val)) == (2, 1)
    assert torch.equal(torch.stack([train.read(0), train.read(1), val.read(0)]), pixels)


def test_prepare_downloads_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Recorded(torchvision.datasets.FakeData):
        def __init__(self, root: str, download: bool, split: str = "train") -> None:
            opened.append((root, download, split))
            super().__init__(size=2)

    monkeypatch.setattr(torchvision.datasets, "SVHN", Recorded)
    root = str(tmp_path / "r")
    TorchvisionSource("SVHN", 8, root=root, val_split="test").prepare()
    assert opened == []
    TorchvisionSource("SVHN", 8, root=root, download=True, train_split="extra", val_split="test").prepare()
    assert opened == [(root, False, "extra"), (root, False, "test")]  # they are there already


def _open_in_a_process(root: str, start: Any) -> None:
    class Fetched(torchvision.datasets.FakeData):
        def __init__(self, root: str, download: bool) -> None:
            if not (Path(root) / "whole").exists():
                if not download:
                    raise RuntimeError("not found")
                with open(Path(root) / "downloads", "a") as file:
                    file.write("once\n")
                time.sleep(0.3)
                (Path(root) / "whole").touch()
            super().__init__(size=4)

    setattr(torchvision.datasets, "SVHN", Fetched)  # noqa: B010 - in this process only
    start.wait()
    assert len(TorchvisionSource("SVHN", 8, root=root, download=True, val_fraction=0.0).images("train")) == 4


def test_one_of_several_processes_downloads(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)
    processes = [context.Process(target=_open_in_a_process, args=(str(tmp_path), start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "downloads").read_text() == "once\n"


def test_sets_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"torchvision\.datasets has no 'CIFAR11'; it has .*CIFAR10"):
        TorchvisionSource("CIFAR11", 8)
    with pytest.raises(ValueError, match=r"cannot open torchvision's CIFAR10 in .*not found.*download=true fetches"):
        TorchvisionSource("CIFAR10", 8, root=str(tmp_path)).images("train")
    with pytest.raises(ValueError, match="FakeData has no splits; leave train_split and val_split empty"):
        TorchvisionSource("FakeData", 8, val_split="val").images("val")
    with pytest.raises(ValueError, match=r"cannot open torchvision's SVHN in .*Unknown value 'tset'"):
        TorchvisionSource("SVHN", 8, root=str(tmp_path), train_split="tset").images("train")
