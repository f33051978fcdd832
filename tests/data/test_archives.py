"""Images in archives of all kinds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sdedit_pl.data.archives import open_archive
from sdedit_pl.data.image_files import UnreadableImage
from sdedit_pl.data.image_format import ImageFormat

FORMAT = ImageFormat(8)
PACKED = {".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}


@pytest.fixture
def archive(tmp_path: Path, write_shard: Callable[..., Path], encoded: Callable[[int], bytes]) -> Callable[..., Path]:
    """Writes an archive of images 2 and 1, a text that is named like an image, and other files."""
    members = {"b/2.v1.PNG": encoded(2), "a/1.png": encoded(1), "c.png": b"text", "t.txt": b"", "a/.h.png": b""}

    def write(suffix: str) -> Path:
        path = tmp_path / f"photos{suffix}"
        if suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                for name, content in members.items():
                    file.writestr(name, content)
        else:
            plain = write_shard("photos.tar", members)
            path.write_bytes(PACKED.get(suffix, bytes)(plain.read_bytes()))
        return path

    return write


@pytest.mark.parametrize("suffix", [".zip", ".tar", *PACKED])
def test_images_are_listed_by_name_and_read_by_number(
    archive: Callable[..., Path], suffix: str, tmp_path: Path
) -> None:
    path, scratch = archive(suffix), tmp_path / "scratch"
    scratch.mkdir()
    images = open_archive(path, FORMAT, scratch)
    assert images.members == ["a/1.png", "b/2.v1.PNG", "c.png"] and len(images) == 3
    assert [int(images.read(number)[0, 0, 0]) for number in (1, 0, 1)] == [2, 1, 2]
    assert images.name(1) == f"{path}:b/2.v1.PNG"
    with pytest.raises(UnreadableImage, match=r"photos.*:c\.png: it is not an image"):
        images.read(2)
    assert int(pickle.loads(pickle.dumps(images)).read(1)[0, 0, 0]) == 2
    assert any(scratch.iterdir()) == (suffix in PACKED)


@pytest.mark.parametrize("suffix", [".zip", ".tar", *PACKED])
def test_a_cut_archive_is_refused(archive: Callable[..., Path], suffix: str, tmp_path: Path) -> None:
    path = archive(suffix)
    path.write_bytes(path.read_bytes()[: 1700 if suffix == ".tar" else 200])
    with pytest.raises(ValueError, match=r"cannot read archive .*photos"):
        open_archive(path, FORMAT, tmp_path)
    assert not any(tmp_path.glob("unpacked*.tar"))


def test_a_copy_of_another_archive_or_an_earlier_version_is_not_used(
    archive: Callable[..., Path], encoded: Callable[[int], bytes], tmp_path: Path
) -> None:
    path, scratch = archive(".tar.gz"), tmp_path / "scratch"
    scratch.mkdir()
    other = path.with_name("other.tar.gz")
    open_archive(path, FORMAT, scratch)
    with tarfile.open(other, "w:gz") as file:
        member = tarfile.TarInfo("a/1.png")
        member.size = len(encoded(7))
        file.addfile(member, io.BytesIO(encoded(7)))
    assert int(open_archive(other, FORMAT, scratch).read(0)[0, 0, 0]) == 7
    other.replace(path)
    assert int(open_archive(path, FORMAT, scratch).read(0)[0, 0, 0]) == 7


def test_a_zip_bomb_is_an_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_MAX_PIXELS", "1000")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(10**6))
    with pytest.raises(UnreadableImage, match=r"a\.zip:a\.png: it declares 1,000,000 bytes"):
        open_archive(tmp_path / "a.zip", FORMAT, tmp_path).read(0)


@pytest.mark.parametrize("suffix", PACKED)
def test_a_compressed_bomb_is_named_and_leaves_nothing(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdedit_pl.data.archives.LEAST_LIMIT", 10**6)
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes(PACKED[suffix](bytes(10**7)))
    with pytest.raises(ValueError, match=r"cannot read archive .*bomb.*: it expands to more than 1,000,000 bytes"):
        open_archive(path, FORMAT, tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("offset", "byte"), [(6, 255), (10, 14)], ids=["version", "compression"])
def test_a_damaged_zip_is_named(archive: Callable[..., Path], offset: int, byte: int, tmp_path: Path) -> None:
    content = bytearray((path := archive(".zip")).read_bytes())
    content[content.index(b"PK\1\2") + offset] = byte
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read (archive|image) .*photos\.zip"):
        open_archive(path, FORMAT, tmp_path).read(1)
