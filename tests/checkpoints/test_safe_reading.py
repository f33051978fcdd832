"""Reading foreign files: names are found without unpickling, and code is refused."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.damage import Bomb

from sdedit_pl.checkpoints import CheckpointError
from sdedit_pl.checkpoints.importers.checkpoint_format import origin_of
from sdedit_pl.checkpoints.importers.tensor_mapping import named_tensors
from sdedit_pl.checkpoints.safe_reading import read_plain, tensor_names_in

STATE = {"conv.weight": torch.ones(2, 3), "conv.bias": torch.zeros(2)}
EDM_PICKLE = b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n(tR."


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_the_names_of_tensors_are_found(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(STATE, file)
    else:
        torch.save({"step": 3, "model": STATE}, file, _use_new_zipfile_serialization=kind == "zip")
    assert STATE.keys() <= tensor_names_in(file)
    found = read_plain(file)
    found = found if kind == "safetensors" else found["model"]
    assert all(torch.equal(found[name], tensor) for name, tensor in STATE.items())


def test_looking_at_names_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "trap.pth"
    torch.save({"conv.weight": torch.ones(1), "extra": Bomb(tmp_path)}, file)
    assert "conv.weight" in tensor_names_in(file)
    file.write_bytes(pickle.dumps({"conv.weight": Bomb(tmp_path)}))
    assert "conv.weight" in tensor_names_in(file)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no archive", b"\x80\x02X\xff\xff\xff\xffa", b"text\n" * 9])
def test_a_file_that_is_no_checkpoint_has_no_names(content: bytes, tmp_path: Path) -> None:
    for name in ("file.pth", "file.safetensors"):
        (tmp_path / name).write_bytes(content)
        assert tensor_names_in(tmp_path / name) == set()
    assert tensor_names_in(tmp_path) == set()


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked"))
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps("a" * 10**6))
    assert tensor_names_in(tmp_path / "bomb.pth") == set()
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        read_plain(tmp_path / "bomb.pth")


def test_a_pickle_of_edm_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "edm.pkl").write_bytes(EDM_PICKLE)
    with pytest.raises(CheckpointError, match=r"EDM and StyleGAN.*Convert it"):
        read_plain(tmp_path / "edm.pkl")


@pytest.mark.parametrize("value", [Bomb(Path("nowhere")), Path, pytest.raises])
def test_a_pickle_of_objects_is_refused_with_the_remedy(value: Any, tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(1), "extra": value}, tmp_path / "objects.pth")
    with pytest.raises(CheckpointError, match=r"it was not loaded.*torch\.save\(network\."):
        read_plain(tmp_path / "objects.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_changed_byte_is_read_or_refused(zipped: bool, tmp_path: Path) -> None:
    """A changed byte in the description of the tensors never raises another error than CheckpointError."""
    torch.save({"step": 3, "model": STATE}, tmp_path / "good.pth", _use_new_zipfile_serialization=zipped)
    good, changed = (tmp_path / "good.pth").read_bytes(), tmp_path / "changed.pth"
    refused = 0
    for position in range(0, min(len(good), 1000), 3):
        changed.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        tensor_names_in(changed)
        try:
            read_plain(changed)
        except CheckpointError:
            refused += 1
    assert refused > 50


def test_the_origin_names_the_file_by_its_hash(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"abc")
    assert origin_of(tmp_path / "a.pth", "ddim", preset=None, weights="ema") == {
        "format": "ddim",
        "file": "a.pth",
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "weights": "ema",
    }


def test_a_tensor_of_more_numbers_than_are_stored_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(1).expand(10**9)}, tmp_path / "expanded.pth")
    with pytest.raises(CheckpointError, match=r"the network has tensors with more numbers than the file stores"):
        named_tensors(read_plain(tmp_path / "expanded.pth"), "the network")
