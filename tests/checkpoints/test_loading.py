"""From files to denoisers: weights are not copied, and buffers that no file holds are right."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from support.denoisers import random_denoiser

from sdedit_pl.checkpoints import Description, describe, loading, native, save_denoiser
from sdedit_pl.checkpoints.loading import load_denoiser, load_described
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
    """Also if it has buffers that are not in the file: FIR kernels, frequencies."""
    model = ModelConfig.from_data(model_of(network))
    saved = random_denoiser(model)
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
    """The network uses the memory that the file is mapped to."""
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


def test_loading_imports_nothing_of_training_and_no_other_format(tiny_checkpoint: Path) -> None:
    code = f"""
import sys
from sdedit_pl import load_denoiser
load_denoiser({str(tiny_checkpoint)!r})
sys.stdout.write(" ".join(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(run.stdout.split())
    training = {"lightning", "torchvision", "torchmetrics", "scipy", "wandb", "webdataset", "sympy"}
    assert not imported & (training | {"onnx", "diffusers"})
    assert not [name for name in imported if name.startswith("sdedit_pl.checkpoints.importers.")]
