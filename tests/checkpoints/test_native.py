"""Editing checkpoints: they are read as written, and saved whole or not at all; for damaged ones see `test_edit`."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from support.damage import Bomb, contents, lightning_checkpoint
from support.denoisers import same_model
from support.full_disk import full_disk

from sdedit_pl.checkpoints import CheckpointError, describe, load_denoiser, save_denoiser
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.data.image_format import ImageShape
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.networks import NETWORKS
from sdedit_pl.networks.ncsnpp import NCSNpp
from sdedit_pl.sde import VESDE, VPSDE

X = torch.linspace(-2, 2, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
T = torch.tensor([0.2, 0.7])


def written_again(good: Path, path: Path, dtype: torch.dtype) -> Denoiser:
    """Saves a checkpoint's denoiser in a precision, and returns the denoiser."""
    denoiser = load_denoiser(good)
    save_denoiser(path, denoiser, describe(good).model, {"steps": 3}, dtype=dtype)
    return denoiser


def test_float32_comes_back_bit_for_bit(tiny_checkpoint: Path, tmp_path: Path) -> None:
    before = written_again(tiny_checkpoint, tmp_path / "a.safetensors", torch.float32)
    after = load_denoiser(tmp_path / "a.safetensors")
    assert same_model(before, after)
    for _ in range(4):
        written_again(tiny_checkpoint, tmp_path / "b.safetensors", torch.float32)
        assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    torch.testing.assert_close(after(X, T), before(X, T), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_precision_is_rounded_in_the_file_and_float32_in_memory(
    tiny_checkpoint: Path, tmp_path: Path, dtype: torch.dtype, rounding: float
) -> None:
    path = tmp_path / "half.safetensors"
    before = written_again(tiny_checkpoint, path, dtype)
    assert path.stat().st_size < 0.75 * tiny_checkpoint.stat().st_size
    assert describe(path).dtypes == (str(dtype).removeprefix("torch."),)
    after = load_denoiser(path).network.state_dict()
    for name, tensor in before.network.state_dict().items():
        assert after[name].dtype == torch.float32
        # Below float16's smallest normal number, 2^-14, the spacing is fixed.
        torch.testing.assert_close(after[name], tensor, rtol=rounding, atol=2**-25)


def test_a_loaded_denoiser_is_ready_to_edit(tiny_checkpoint: Path) -> None:
    denoiser = load_denoiser(tiny_checkpoint)
    assert not any(module.training for module in denoiser.modules())
    assert not any(parameter.requires_grad for parameter in denoiser.parameters())
    assert not any(tensor.is_meta for tensor in [*denoiser.parameters(), *denoiser.buffers()])


def test_loading_leaves_the_global_generator_alone(tiny_checkpoint: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_denoiser(tiny_checkpoint)
    assert torch.equal(torch.rand(4), expected)


def test_a_description_has_the_model_and_its_training(tiny_checkpoint: Path) -> None:
    description = describe(tiny_checkpoint)
    assert description.format == "sdedit_pl"
    assert description.model.network.values["channels"] == 8
    assert description.model.image == ImageShape(size=16, channels=3)
    assert description.training == {"steps": 7000, "images_seen": 28}
    assert description.parameters == sum(tensor.numel() for tensor in contents(tiny_checkpoint)[0].values())


def test_a_training_checkpoint_gives_the_same_denoiser(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "step=00000007.ckpt"
    torch.save(lightning_checkpoint(tiny_checkpoint), path)
    assert same_model(load_denoiser(path), load_denoiser(tiny_checkpoint))
    description = describe(path)
    assert description.format == "lightning" and description.training["steps"] == 7
    assert description.model == describe(tiny_checkpoint).model


def test_the_booby_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path)))
    assert (tmp_path / "executed").exists()


def test_a_failed_save_keeps_the_earlier_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(tiny_checkpoint.read_bytes())
    with full_disk(1000), pytest.raises(OSError, match=r"File too large: .*model\.safetensors"):
        written_again(tiny_checkpoint, path, torch.float32)
    assert path.read_bytes() == tiny_checkpoint.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_a_registered_network_names_the_module_to_import_first(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(NCSNpp):
        __module__ = "my_nets"

    model, path = describe(tiny_checkpoint).model, tmp_path / "a.safetensors"
    network = dict(model.as_data()["network"], name="mine")
    monkeypatch.setitem(NETWORKS, "mine", Mine)
    mine = ModelConfig.from_data({**model.as_data(), "network": network})
    save_denoiser(path, load_denoiser(tiny_checkpoint), mine)
    assert type(load_denoiser(path).network) is Mine
    monkeypatch.delitem(NETWORKS, "mine")
    with pytest.raises(
        CheckpointError, match=r"network\.name must be one of .*registers network.name=mine .my_nets\..*Mine"
    ):
        load_denoiser(path)
    assert "my_nets" not in sys.modules


def test_a_denoiser_that_could_not_be_loaded_is_not_saved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", describe(tiny_checkpoint).model
    denoiser = load_denoiser(tiny_checkpoint, train=True)
    denoiser.sde = VESDE()
    with pytest.raises(ValueError, match=r"model does not describe this denoiser.* sde is VESDE"):
        save_denoiser(path, denoiser, model)
    denoiser = Denoiser(torch.nn.Conv2d(3, 3, 1), denoiser.parameterisation, VPSDE())
    with pytest.raises(ValueError, match=r"model does not describe this denoiser.* not expected"):
        save_denoiser(path, denoiser, model)
    denoiser = load_denoiser(tiny_checkpoint, train=True)
    next(denoiser.parameters()).data[0] = 1e6
    with pytest.raises(ValueError, match="NaN or infinite in float16"):
        save_denoiser(path, denoiser, model, dtype=torch.float16)
    assert not path.exists()
