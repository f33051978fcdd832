"""From files to denoisers: no second copy, and what no file holds is still right."""

from __future__ import annotations

import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import Description, describe, loading, native, save_denoiser
from sdedit_pl.checkpoints.loading import load_denoiser, load_described, without_weights
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.networks import NETWORKS

X = torch.linspace(-2, 2, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
SMALL = {"channels": 32, "channel_multipliers": [1, 2], "blocks_per_level": 1, "attention_levels": [1]}


def model_of(network: dict[str, Any]) -> dict[str, Any]:
    """A model with a network, on 16 px."""
    return {"image": {"size": 16, "channels": 3}, "sde": {"name": "vp"}, "parameterisation": {"name": "epsilon"}} | {
        "network": {**SMALL, **network}
    }


@pytest.mark.parametrize(
    "network",
    [*({"name": name} for name in NETWORKS), {"name": "ncsnpp", "label_embedding": "positional"}],
    ids=str,
)
def test_a_loaded_network_computes_what_the_saved_one_did(network: dict[str, Any], tmp_path: Path) -> None:
    """Also where it needs what the file does not hold: FIR kernels, sinusoids' frequencies."""
    model = ModelConfig.from_data(model_of(network))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        saved = build_denoiser(model).eval()
        for parameter in saved.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_denoiser(tmp_path / "model.safetensors", saved, model)
    loaded = load_denoiser(tmp_path / "model.safetensors")
    saved.at_once = loaded.at_once
    for name, buffer in saved.named_buffers():
        assert torch.equal(buffer, loaded.get_buffer(name)), name
    t = torch.tensor([0.1, 0.9])
    with torch.no_grad():
        # Copies, because rounding depends on the alignment of weights in memory.
        assert torch.equal(deepcopy(saved)(X, t), deepcopy(loaded)(X, t))


def test_weights_are_not_copied(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's own memory is that which the file was read into."""
    reads: list[dict[str, torch.Tensor]] = []

    def read(file: Path) -> tuple[Description, dict[str, torch.Tensor]]:
        description, tensors = native.read_weights(file)
        reads.append(tensors)
        return description, tensors

    monkeypatch.setattr(loading, "read_weights", read)
    denoiser, description = load_described(tiny_checkpoint)
    assert description == describe(tiny_checkpoint) and len(reads) == 2
    for name, tensor in denoiser.network.state_dict().items():
        assert tensor.data_ptr() == reads[0][name].data_ptr(), name


def test_a_module_built_without_weights_has_shapes_and_buffers() -> None:
    with without_weights():
        layer = nn.BatchNorm2d(3)
    assert layer.weight.is_meta and layer.weight.shape == (3,) and layer.weight.requires_grad
    assert torch.equal(layer.get_buffer("running_var"), torch.ones(3))
    assert not nn.Linear(2, 2).weight.is_meta


def test_other_threads_build_as_ever() -> None:
    built: list[nn.Linear] = []
    with without_weights():
        thread = threading.Thread(target=lambda: built.append(nn.Linear(2, 3)))
        thread.start()
        thread.join()
    assert not built[0].weight.is_meta
