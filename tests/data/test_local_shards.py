"""Images in local tar files: listing, reading by position, and files that change during a run."""

from __future__ import annotations

import multiprocessing
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from sdedit_pl.data.archives import open_archive
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat
from sdedit_pl.data.local_shards import ShardFile, list_members, split_key
from sdedit_pl.data.source import UnreadableShard
from sdedit_pl.data.webdataset_source import WebDatasetSource

WriteShard = Callable[..., Path]


def header(size: int, kind: bytes = tarfile.REGTYPE, format: Literal[1, 2] = tarfile.GNU_FORMAT) -> bytes:
    entry = tarfile.TarInfo("b.png")
    entry.size, entry.type = size, kind
    return entry.tobuf(format)


HOSTILE = {
    "1 TB": header(10**12),
    "8 EB": header(8 * 10**18),
    "beyond 64 bits": header(2**63),
    "99 GB in PAX": header(99 * 10**9, format=tarfile.PAX_FORMAT),
    "negative": header(-512),
    "negative, no image": header(-1024, tarfile.CONTTYPE),
    "99 GB of name": header(99 * 10**9, tarfile.GNUTYPE_LONGNAME),
    "negative name": header(-512, tarfile.GNUTYPE_LONGNAME),
    "99 GB of PAX": header(99 * 10**9, tarfile.XHDTYPE),
    "digits in PAX": header(2**17, tarfile.XHDTYPE) + b"1" * 2**17,
    "names of names": (header(4, tarfile.GNUTYPE_LONGNAME) + b"abc".ljust(512, b"\0")) * 2000,
    "sparse": header(2**70, tarfile.GNUTYPE_SPARSE),
    "a damaged header": header(0).replace(b"b", b"c"),
}


def test_a_key_ends_at_the_first_dot_of_the_last_part() -> None:
    assert split_key("b.c/3.seg.PNG") == ("b.c/3", ".seg.png")
    assert split_key("plain") == ("plain", "")


def test_listed_places_hold_the_files(write_shard: WriteShard, encoded: Callable[[int], bytes]) -> None:
    path = write_shard("a.tar", {"1.png": encoded(1), "t.txt": b"text", "2.PNG": encoded(2), "2.jpg": b"?"})
    members, stamp = list_members(path)
    file = ShardFile(path, "a", stamp)
    assert members.keys.tolist() == [b"1", b"2"] and members.problem == ""
    assert [file.read(*place) for place in members.places.tolist()] == [encoded(1), encoded(2)]


def test_a_cut_shard_is_listed_up_to_the_damage(write_shard: WriteShard) -> None:
    path = write_shard("a.tar", range(4))
    path.write_bytes(path.read_bytes()[:1700])
    members, _ = list_members(path)
    assert members.keys.tolist() == [b"000", b"001"]
    assert members.damage("a.tar")[0].reason == "cannot read shard a.tar to its end: unexpected end of data"
    path.write_bytes(b"no tar file" * 100)
    assert list_members(path)[0].damage("a.tar")[0].reason.startswith("cannot read shard a.tar: ")


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=list(HOSTILE))
def test_a_shard_is_listed_up_to_a_hostile_member(hostile: bytes, write_shard: WriteShard, tmp_path: Path) -> None:
    path = write_shard("a.tar", range(2))
    content = path.read_bytes()
    path.write_bytes(content[:1024] + hostile + content[1024:])
    members, _ = list_members(path)
    assert members.keys.tolist() == [b"000"] and members.problem
    with pytest.raises(ValueError, match=r"cannot read archive .*a\.tar to its end: \w"):
        open_archive(path, ImageFormat(8), tmp_path)


def test_a_sparse_image_is_no_longer_than_what_is_stored(write_shard: WriteShard) -> None:
    entry = tarfile.TarInfo("000.png")
    entry.pax_headers = {"GNU.sparse.map": "0,5", "GNU.sparse.size": str(10**12)}
    path = write_shard("a.tar", range(1))
    path.write_bytes(entry.tobuf(tarfile.PAX_FORMAT)[:1024] + path.read_bytes())
    assert list_members(path)[0].places[:, 1].tolist() == [512]


def test_forked_processes_read_at_places_of_their_own(write_shard: WriteShard) -> None:
    images = WebDatasetSource(str(write_shard("a.tar", range(40))), 8, val_fraction=0.0).images("train")
    images.read(0)  # opens the shard before the fork
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_number, [(images, index) for index in range(40)] * 5) == list(range(40)) * 5


def _number(place: tuple) -> int:
    images, index = place
    return int(images.read(index)[0, 0, 0])


class TestChange:
    """Two shards of four images, of which the first changes or vanishes."""

    @pytest.fixture
    def shards(self, write_shard: WriteShard) -> list[Path]:
        return [write_shard("a.tar", range(4)), write_shard("b.tar", range(4, 8))]

    def read(self, images: object, index: int) -> int:
        return int(images.read(index)[0, 0, 0])  # type: ignore[attr-defined]

    def test_a_changed_shard_is_named_and_all_of_it_skipped(self, shards: list[Path]) -> None:
        images = WebDatasetSource([str(shard) for shard in shards], 8, val_fraction=0.0).images("train")
        assert self.read(images, 1) == 1 and images.after(1) == 2
        shards[0].write_bytes(shards[0].read_bytes()[:-512] + b"\1" * 512)
        os.utime(shards[0], ns=(0, 0))
        for index in (1, 3):
            with pytest.raises(UnreadableShard, match=r"a\.tar has changed since its images were listed"):
                images.read(index)
        assert images.after(1) == 4 and self.read(images, 4) == 4

    def test_a_removed_shard_is_readable_while_open(self, shards: list[Path]) -> None:
        source = WebDatasetSource([str(shard) for shard in shards], 8, val_fraction=0.0)
        images, late = source.images("train"), source.images("train")
        images.read(0)
        shards[0].unlink()
        assert [self.read(images, index) for index in range(8)] == list(range(8))
        with pytest.raises(UnreadableImage, match=r"a\.tar has vanished; put it back"):
            late.read(0)
