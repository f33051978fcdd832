"""The cache of features: keyed by content, complete or absent, checked by a hash of its numbers."""

from __future__ import annotations

import logging
import multiprocessing
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.colour_features import ColourFeatures

from sdedit_pl.metrics.feature_cache import cached_features, content_hash

IMAGES = torch.rand(7, 3, 6, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1


def files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix != ".lock"]


def test_features_are_computed_once_however_images_are_batched(tmp_path: Path) -> None:
    first, second = ColourFeatures(), ColourFeatures()
    found = cached_features(first, IMAGES.split(3), tmp_path / "cache")
    assert found.equal(IMAGES.mean((2, 3))) and first.seen == 7
    assert cached_features(second, IMAGES.split(2), tmp_path / "cache").equal(found) and second.seen == 0
    folders = [tmp_path / name for name in ("cache", *"abcdefg")]
    for folder in folders[1:]:
        cached_features(first, [IMAGES], folder)
    assert len({file.read_bytes() for folder in folders for file in files(folder)}) == 1


def test_the_key_depends_on_images_their_order_and_the_extractor() -> None:
    changed = IMAGES.clone()
    changed[3, 1, 2, 2] += 1e-6
    contents = [IMAGES, changed, IMAGES.flip(0), IMAGES[:6], IMAGES.transpose(2, 3), IMAGES.reshape(7, 3, 5, 6)]
    hashes = [content_hash(ColourFeatures(), [images]) for images in contents] + [
        content_hash(ColourFeatures("other"), [IMAGES])
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("damage", ["cut", "one bit", "empty", "foreign"])
def test_damaged_features_are_computed_again_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = cached_features(ColourFeatures(), [IMAGES], tmp_path)
    (file,) = files(tmp_path)
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[:-5],
            "one bit": content[:-1] + bytes([content[-1] ^ 1]),
            "empty": b"",
            "foreign": b"something else" * 10,
        }[damage]
    )
    extractor = ColourFeatures()
    with caplog.at_level(logging.WARNING):
        assert cached_features(extractor, [IMAGES], tmp_path).equal(found)
    assert extractor.seen == 7
    (message,) = caplog.messages
    assert f"{file} is damaged (" in message and "features are computed again" in message
    assert files(tmp_path) == [file]
    assert cached_features(extractor, [IMAGES], tmp_path).equal(found) and extractor.seen == 7


def test_a_folder_that_cannot_be_written_only_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        assert cached_features(ColourFeatures(), [IMAGES], tmp_path / "file").equal(IMAGES.mean((2, 3)))
    assert "cannot be cached in" in caplog.text


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    class Interrupted(ColourFeatures):
        def vectors(self, prepared: torch.Tensor) -> torch.Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(Interrupted(), [IMAGES], tmp_path)
    assert files(tmp_path) == []
    assert cached_features(ColourFeatures(), [IMAGES], tmp_path).shape == (7, 3)


def test_one_batch_is_held_at_a_time(tmp_path: Path) -> None:
    class Batches:
        def __init__(self) -> None:
            self.alive: list[weakref.ref[torch.Tensor]] = []

        def __iter__(self) -> Iterator[torch.Tensor]:
            for part in range(3):
                assert not [reference for reference in self.alive if reference() is not None]
                batch = IMAGES[part::3].clone()
                self.alive.append(weakref.ref(batch))
                yield batch
                del batch

    batches = Batches()
    cached_features(ColourFeatures(), batches, tmp_path)
    assert len(batches.alive) == 6


def test_refuses_iterators_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a list or a loader instead of an iterator"):
        cached_features(ColourFeatures(), iter([IMAGES]), tmp_path)
    with pytest.raises(ValueError, match="at least 1 image"):
        cached_features(ColourFeatures(), [], tmp_path)


def _features_computed(folder: Path) -> int:
    extractor = ColourFeatures()
    cached_features(extractor, IMAGES.split(1), folder)
    return extractor.seen


@pytest.mark.slow
def test_one_of_several_processes_computes(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert sorted(pool.map(_features_computed, [tmp_path] * 2, chunksize=1)) == [0, 7]
