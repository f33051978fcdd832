"""Published weights: found, downloaded once, and refused if their hash differs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sdedit_pl.metrics.checked_weights import PublishedWeights, WeightsUnavailable

CONTENT = b"numbers"
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of torch.hub in this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def published(folder: Path, content: bytes = CONTENT) -> PublishedWeights:
    folder.mkdir()
    (folder / "net.pth").write_bytes(content)
    return PublishedWeights((folder / "net.pth").as_uri(), HASH, ("same.pth",))


def test_they_are_downloaded_once(tmp_path: Path, hub: Path) -> None:
    weights = published(tmp_path / "site")
    assert weights.file() == hub / "net.pth"
    (tmp_path / "site" / "net.pth").unlink()
    assert weights.file().read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["net.pth", "same.pth"])
def test_they_are_found_in_the_cache_under_each_publishers_name(tmp_path: Path, hub: Path, name: str) -> None:
    hub.mkdir(parents=True)
    (hub / name).write_bytes(CONTENT)
    assert PublishedWeights("http://127.0.0.1:9/net.pth", HASH[:8], ("same.pth",)).file() == hub / name


def test_a_given_file_is_used_if_its_hash_matches(tmp_path: Path, hub: Path) -> None:
    weights = published(tmp_path / "site")
    assert weights.file(str(tmp_path / "site" / "net.pth")) == tmp_path / "site" / "net.pth"
    assert not hub.exists()
    with pytest.raises(WeightsUnavailable, match=r"missing.pth cannot be read \(No such file.* path of net.pth"):
        weights.file(str(tmp_path / "missing.pth"))


@pytest.mark.usefixtures("without_pauses")
def test_without_a_connection_the_error_says_where_to_put_them(hub: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"net.pth are missing, .* cannot be downloaded .* put it into"):
        PublishedWeights("http://127.0.0.1:9/net.pth", HASH).file()
    assert not (hub / "net.pth").exists()


def test_another_hash_is_refused(tmp_path: Path, hub: Path) -> None:
    weights = published(tmp_path / "site", b"other numbers")
    with pytest.raises(WeightsUnavailable, match=r"its sha256 is .*, expected"):
        weights.file()
    assert not (hub / "net.pth").exists()
    with pytest.raises(WeightsUnavailable, match=f"net.pth begins with {HASH}"):
        weights.file(str(tmp_path / "site" / "net.pth"))
