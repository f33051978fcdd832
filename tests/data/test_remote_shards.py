"""Training on remote shards: order, resuming, damaged shards and the cache."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from support.shard_server import ShardServer
from torch import Tensor

from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import images_from_bytes
from sdedit_pl.data.shard_cache import StreamInterrupted
from sdedit_pl.data.shard_manifest import MANIFEST_FILE, manifest_text
from sdedit_pl.data.webdataset_source import WebDatasetSource
from sdedit_pl.files import sha256_of

WriteShard = Callable[..., Path]
SIZES = (5, 3, 7, 4)
ALL = range(sum(SIZES))

pytestmark = [
    pytest.mark.usefixtures("without_pauses"),
    pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def values(batch: Tensor) -> list[int]:
    """The numbers of a batch's images, mirrored or not."""
    return batch[:, 0, 0].amin(-1).tolist()


class Web:
    """Four training shards of 19 images in all, and one of 3 for validation, behind a server."""

    def __init__(self, server: ShardServer, caches: Path) -> None:
        self.server = server
        self.caches = caches

    def source(self, manifest: bool = False, **options: Any) -> WebDatasetSource:
        train = f"{self.server.url}/{MANIFEST_FILE}" if manifest else f"{self.server.url}/train-{{0..3}}.tar"
        settings = {"cache_folder": str(self.caches / "a"), "shuffle_shards": 2, **options}
        if not manifest:
            settings.setdefault("val_path", f"{self.server.url}/val-0.tar")
        return WebDatasetSource(settings.pop("path", train), 8, **settings)

    def data(self, manifest: bool = False, **options: Any) -> ImageDataModule:
        arguments = {"batch_size": 3, "workers": 0, "flip": True}
        for key in {"batch_size", "val_batch_size", "workers", "seed", "cache"} & options.keys():
            arguments[key] = options.pop(key)
        return ImageDataModule(self.source(manifest, **options), **arguments)

    def write_manifest(self) -> None:
        folder = self.server.folder
        splits: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
        for name, count in [*((f"train-{i}.tar", size) for i, size in enumerate(SIZES)), ("val-0.tar", 3)]:
            file = folder / name
            facts = {"file": name, "images": count, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
            splits[name.partition("-")[0]].append(facts)
        (folder / MANIFEST_FILE).write_text(manifest_text(splits))

    def copies(self, cache: str = "a") -> int:
        return len(list((self.caches / cache).glob("*.tar")))

    def remove_copies(self) -> None:
        for copy in (self.caches / "a").glob("*.tar"):
            copy.unlink()


@pytest.fixture
def web(shard_server: ShardServer, write_shard: WriteShard, tmp_path: Path) -> Web:
    first = 0
    for number, size in enumerate(SIZES):
        write_shard(f"served/train-{number}.tar", range(first, first + size))
        first += size
    write_shard("served/val-0.tar", range(100, 103))
    web = Web(shard_server, tmp_path / "caches")
    web.write_manifest()
    return web


def steps(data: ImageDataModule, count: int, world_size: int = 1, start: int = 0) -> list[Tensor]:
    """The images of all devices in each step."""
    try:
        ranks = [list(islice(data.training_loader(rank, world_size, start), count)) for rank in range(world_size)]
    finally:
        data.teardown()  # left to the garbage collector, a worker takes seconds to end
    return [torch.stack(step, dim=1).flatten(0, 1) for step in zip(*ranks, strict=True)]


def images(data: ImageDataModule, count: int, world_size: int = 1, start: int = 0) -> Tensor:
    per_step = data.batch_size * world_size
    return torch.cat(steps(data, -(-count // per_step), world_size, start))[:count]


class TestOrder:
    def test_every_epoch_has_every_image_once(self, web: Web) -> None:
        seen = values(images(web.data(), 3 * len(ALL)))
        epochs = [seen[first : first + len(ALL)] for first in range(0, len(seen), len(ALL))]
        assert [sorted(epoch) for epoch in epochs] == [list(ALL)] * 3
        assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(ALL)

    @pytest.mark.parametrize(("batch_size", "world_size", "workers"), [(2, 3, 0), (1, 2, 2), (24, 1, 0)])
    def test_it_does_not_depend_on_devices_workers_or_batch_size(
        self, web: Web, batch_size: int, world_size: int, workers: int
    ) -> None:
        expected = images(web.data(), 48)
        other = web.data(batch_size=batch_size, workers=workers, cache_folder=str(web.caches / "b"))
        assert torch.equal(images(other, 48, world_size), expected)

    @pytest.mark.parametrize("manifest", [False, True])
    @pytest.mark.parametrize("start", [12, 40])
    def test_a_run_resumes_it_with_other_devices_and_an_empty_cache(self, web: Web, manifest: bool, start: int) -> None:
        expected = images(web.data(manifest), start + 24)[start:]
        assert torch.equal(images(web.data(manifest, workers=2), 24, start=start), expected)
        elsewhere = web.data(manifest, batch_size=2, cache_folder=str(web.caches / "b"))
        assert torch.equal(images(elsewhere, 24, world_size=2, start=start), expected)

    def test_it_changes_with_the_seed_but_not_with_a_manifest(self, web: Web) -> None:
        expected = images(web.data(), 40)
        assert torch.equal(images(web.data(True), 40), expected)
        assert values(images(web.data(seed=1), 40)) != values(expected)


def test_images_are_shuffled_among_the_shards_of_a_window_and_not_beyond(web: Web) -> None:
    of_shard = [number for number, size in enumerate(SIZES) for _ in range(size)]
    whole = [of_shard[value] for value in values(images(web.data(shuffle_shards=1), 19))]
    assert sum(a != b for a, b in pairwise(whole)) == 3
    mixed = [of_shard[value] for value in values(images(web.data(shuffle_shards=4), 19))]
    assert sum(a != b for a, b in pairwise(mixed)) > 6


def test_a_random_crop_is_part_of_the_order(web: Web) -> None:
    def cropped(**options: int) -> Tensor:
        return images(web.data(random_crop=4, **options), 24)

    assert torch.equal(cropped(), cropped(workers=2)) and cropped().shape == (24, 3, 8, 8)
    assert not torch.equal(cropped(), images(web.data(), 24))


def test_shards_of_all_kinds_can_be_mixed(web: Web) -> None:
    folder = web.server.folder
    with fsspec.open("memory://bucket/train-3.tar", "wb") as file:
        file.write((folder / "train-3.tar").read_bytes())
    path = [
        f"{web.server.url}/train-0.tar",
        f"pipe:cat {folder}/train-1.tar",
        str(folder / "train-2.tar"),
        "memory://bucket/train-3.tar",
    ]
    data = web.data(path=path)
    assert sorted(values(images(data, 19))) == list(ALL)
    assert torch.equal(images(web.data(path=path, workers=2), 40), images(data, 40))
    assert web.copies() == 3


def test_validation_images_come_from_their_shards(web: Web) -> None:
    for manifest in (False, True):
        data = web.data(manifest)
        assert [value for batch in data.val_dataloader() for value in values(batch)] == [100, 101, 102]
        assert data.val_images(2).shape == (2, 3, 8, 8)
        val = data.source.images("val")
        assert val.name(1).endswith("val-0.tar:image 1")
        val.read(0)
        assert val.name(1).endswith("val-0.tar:101")


def test_validation_in_workers_survives_the_removal_of_copies(web: Web) -> None:
    data = web.data(workers=1, cache=False, val_batch_size=3)
    data.setup()
    before = data.val_images(3)
    web.remove_copies()
    (batch,) = data.validation_loader()
    data.teardown()
    assert torch.equal(images_from_bytes(batch), before) and data.source.broken == {}


def test_without_shards_for_it_there_is_no_validation(web: Web) -> None:
    data = web.data(val_path=None)
    assert data.val_dataloader() == [] and data.val_images(4).shape == (0, 3, 8, 8)
    with pytest.raises(ValueError, match=r"cache=true needs .*local"):
        ImageDataModule(data.source, cache=True)


def test_a_stream_can_be_sent_to_workers_that_do_not_fork(web: Web) -> None:
    data = web.data()
    stream = data.training_loader()._arguments["dataset"]
    before = stream[0].images
    assert torch.equal(pickle.loads(pickle.dumps(stream))[0].images, before)
    val = data.source.images("val")
    assert torch.equal(val.read(0), pickle.loads(pickle.dumps(val)).read(0))


class TestCache:
    def test_a_node_fetches_each_shard_once(self, web: Web) -> None:
        data = web.data(workers=4)
        images(data, 60)
        images(web.data(workers=2), 60, world_size=2)
        assert sorted(web.server.fetched()) == [f"/train-{number}.tar" for number in range(4)]

    def test_it_stays_below_its_limit_and_the_order_stays(self, web: Web) -> None:
        size = (web.server.folder / "train-0.tar").stat().st_size  # all have the same: tar files come in blocks
        for shards in (1, 4):
            options = {"shuffle_shards": shards, "cache_gigabytes": 2.5 * size / 1e9}
            small = web.data(cache_folder=str(web.caches / f"b{shards}"), **options)
            assert torch.equal(images(small, 57), images(web.data(shuffle_shards=shards), 57))
            assert 1 <= web.copies(f"b{shards}") <= 3 and web.copies() == 4

    def test_records_are_read_in_many_threads_without_parsing_python(
        self, web: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CPython 3.11 cannot run `ast.parse` in two threads at once."""
        parse, threads = ast.parse, []

        def noticed(*arguments: Any, **options: Any) -> ast.AST:
            threads.append(threading.current_thread().name)
            return parse(*arguments, **options)

        monkeypatch.setattr("ast.parse", noticed)
        cache, shards = web.source().cache, web.source()._find_shards()[0]
        with ThreadPoolExecutor(8) as readers:
            read = list(readers.map(cache.members, shards * 50))
        assert [members.keys.tolist() for members in read] == [
            cache.members(shard).keys.tolist() for shard in shards
        ] * 50
        assert threads == []

    def test_training_begins_with_the_first_window_and_fetches_the_next_in_the_background(self, web: Web) -> None:
        stream = web.data(True, shuffle_shards=1).training_loader()._arguments["dataset"]
        stream._prefetched = 0  # nothing in the background
        assert stream[0].images is not None and len(web.server.fetched()) == 2  # the manifest and a shard
        stream._prefetched = -1
        assert stream[0].images is not None
        stream._prefetching.join()
        assert web.copies() == 2

    def test_a_run_continues_without_the_server_if_all_shards_are_cached(self, web: Web) -> None:
        expected = images(web.data(), 38)
        web.server.status = 503
        assert torch.equal(images(web.data(val_path=None), 38), expected)

    def test_a_shard_that_arrives_cut_is_downloaded_until_it_is_whole(self, web: Web) -> None:
        expected = images(web.data(), 19)
        web.server.breaks, web.server.lengths = 2, False
        data = web.data(cache_folder=str(web.caches / "b"))
        assert torch.equal(images(data, 19), expected) and not data.source.broken

    def test_a_cache_too_small_for_its_windows_is_refused(self, web: Web) -> None:
        with pytest.raises(ValueError, match=r"cache_gigabytes = 1e-05 is too small .*lower shuffle_shards"):
            web.data(True, cache_gigabytes=1e-5).training_loader()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_folder_that_cannot_be_written_is_named(self, web: Web, workers: int) -> None:
        web.caches.write_text("a file")
        with pytest.raises(ValueError, match=r"cache_folder=.*/a cannot be written.*another folder") as caught:
            images(web.data(True, val_path=None, workers=workers), 3)
        assert "\n" not in str(caught.value)

    def test_a_full_disk_is_named(self, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_room(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("fsspec.implementations.http.open", no_room, raising=False)
        with pytest.raises(ValueError, match=r"no room left in cache_folder=.*lower cache_gigabytes"):
            images(web.data(val_path=None), 3)
        assert not list(web.caches.glob("a/*.part"))


class TestBroken:
    @pytest.fixture
    def damaged(self, web: Web, write_shard: WriteShard, encoded: Callable[[int], bytes]) -> Web:
        """Shard 0 holds text in place of an image, shard 1 is cut, shard 2 is absent."""
        folder = web.server.folder
        write_shard("served/train-0.tar", {"000.png": encoded(0), "001.png": b"none", "002.txt": b"text"})
        (folder / "train-1.tar").write_bytes((folder / "train-1.tar").read_bytes()[:1700])
        (folder / "train-2.tar").unlink()
        return web

    @pytest.mark.parametrize("workers", [0, 2])
    def test_damage_is_counted_named_and_skipped(self, damaged: Web, workers: int) -> None:
        data = damaged.data(workers=workers)
        seen = values(images(data, 24))
        assert set(seen) == {0, 5, 6, 15, 16, 17, 18}
        reasons = {name.removeprefix(f"{damaged.server.url}/"): reason for name, reason in data.source.broken.items()}
        assert set(reasons) == {"train-0.tar:001", "train-1.tar", "train-2.tar"}
        assert reasons["train-1.tar"].endswith("train-1.tar to its end: unexpected end of data")
        assert "train-2.tar: there is no such file (noted in " in reasons["train-2.tar"]
        again = damaged.data(workers=2)
        assert torch.equal(images(again, 24, start=5), images(data, 29)[5:])

    def test_exceeding_the_limit_ends_the_run(self, damaged: Web) -> None:
        with pytest.raises(UnreadableImage, match="3 unreadable images exceed broken_limit = 2"):
            images(damaged.data(broken_limit=2), 40)
        images(damaged.data(broken_limit=3), 40)

    def test_others_replace_the_images_of_an_absent_shard(self, web: Web) -> None:
        whole = values(images(web.data(True), 38))
        (web.server.folder / "train-2.tar").unlink()
        data = web.data(True, cache_folder=str(web.caches / "b"), shuffle_shards=2)
        seen = values(images(data, 38))
        missing = set(range(8, 15))
        assert not missing & set(seen)
        assert [a for a, b in zip(whole, seen, strict=True) if a != b] == [a for a in whole if a in missing]
        assert [name.rpartition("/")[2] for name in data.source.broken] == ["train-2.tar"]

    def test_a_shard_that_differs_from_its_manifest_is_named(self, web: Web, write_shard: WriteShard) -> None:
        write_shard("served/train-2.tar", range(50, 57))
        data = web.data(True)
        assert not set(values(images(data, 38))) & set(range(50, 57))
        (reason,) = data.source.broken.values()
        assert "train-2.tar is not the one in its manifest" in reason

    def test_a_shard_that_changes_during_a_run_is_named(self, web: Web, write_shard: WriteShard) -> None:
        stream = web.data(workers=0).training_loader()
        batches = iter(stream)
        [next(batches) for _ in range(8)]  # all shards were seen
        write_shard("served/train-2.tar", range(50, 57))
        web.remove_copies()
        seen = [value for batch in islice(batches, 14) for value in values(batch)]
        assert not set(seen) & set(range(50, 57))
        (reason,) = stream.source.broken.values()
        assert "train-2.tar has changed since it was first read" in reason

    def test_a_shard_that_changed_after_it_was_copied_is_named(self, web: Web, write_shard: WriteShard) -> None:
        images(web.data(), 24)
        write_shard("served/train-2.tar", range(50, 57))
        data = web.data()
        assert not set(values(images(data, 24))) & set(range(50, 57))
        (reason,) = data.source.broken.values()
        record = Path(reason.rpartition("remove ")[2])
        record.unlink()
        assert set(range(50, 57)) <= set(values(images(web.data(), 38)))

    def test_a_new_manifest_replaces_old_copies(self, web: Web, write_shard: WriteShard) -> None:
        images(web.data(True), 24)
        write_shard("served/train-2.tar", range(50, 57))
        web.write_manifest()
        assert sorted(values(images(web.data(True), 19))) == sorted({*ALL, *range(50, 57)} - set(range(8, 15)))

    def test_a_run_without_readable_shards_ends(self, web: Web) -> None:
        for shard in web.server.folder.glob("train-*.tar"):
            shard.unlink()
        with pytest.raises(UnreadableImage, match=r"no images in 4 shards.*train-0\.tar"):
            images(web.data(), 3)
        with pytest.raises(UnreadableImage, match="none of 2 images in a row can be read"):
            images(web.data(True), 3)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_a_silent_server_ends_the_run_and_the_next_one_continues(self, web: Web, workers: int) -> None:
        expected = images(web.data(cache_folder=str(web.caches / "b")), 24)
        data = web.data(workers=workers, val_path=None)
        web.server.status = 503
        with pytest.raises(ValueError, match=r"cannot fetch http.*: the server answers 503 .*run the same command"):
            images(data, 3)
        assert not data.source.broken
        web.server.status = None
        assert torch.equal(images(web.data(workers=workers), 24), expected)

    def test_a_silent_server_is_named_at_the_start_too(self, web: Web) -> None:
        web.server.status = 503
        with pytest.raises(StreamInterrupted, match="cannot fetch http"):
            web.data().setup()
        with pytest.raises(ValueError, match="cannot fetch the manifest http"):
            web.data(manifest=True).setup()


def test_processes_of_a_node_can_be_killed_while_they_fetch(web: Web) -> None:
    """The lock file and partial shard of a killed process do not disturb the next."""
    expected = images(web.data(), 19)
    cache = web.caches / "b"
    cache.mkdir()
    for copy in (web.caches / "a").glob("*.json"):
        (cache / copy.with_suffix(".new.part").name).write_bytes(b"a part")
        (cache / copy.with_suffix(".lock").name).touch()
        (cache / f".{copy.name}.tmp").write_bytes(b"a part")
    assert torch.equal(images(web.data(cache_folder=str(cache)), 19), expected)
    assert os.listdir(cache) and not [name for name in os.listdir(cache) if name.endswith((".new", ".part", ".tmp"))]
