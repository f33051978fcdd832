"""Networks without weights: real shapes, no memory, and a bound on configurations that overstate."""

from __future__ import annotations

import resource
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from support.damage import contents
from torch import nn

from sdedit_pl.checkpoints import CheckpointError, describe, load_denoiser
from sdedit_pl.checkpoints.expected_tensors import state_shapes, without_weights
from sdedit_pl.checkpoints.native import save_weights
from sdedit_pl.configuration.model_config import ModelConfig


def test_a_module_built_without_weights_has_shapes_and_buffers() -> None:
    with without_weights():
        layer = nn.BatchNorm2d(3)
    assert layer.weight.is_meta and layer.weight.shape == (3,) and layer.weight.requires_grad
    assert torch.equal(layer.get_buffer("running_var"), torch.ones(3))
    assert not nn.Linear(2, 2).weight.is_meta


def test_other_threads_build_as_usual() -> None:
    built: list[nn.Linear] = []
    with without_weights():
        thread = threading.Thread(target=lambda: built.append(nn.Linear(2, 3)))
        thread.start()
        thread.join()
    assert not built[0].weight.is_meta


def test_an_overstated_width_takes_no_memory(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = describe(tiny_checkpoint).model.as_data()
    data["network"]["channels"] = 20_000
    save_weights(tmp_path / "wide.safetensors", contents(tiny_checkpoint)[0], ModelConfig.from_data(data))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="do not fit its own configuration"):
        load_denoiser(tmp_path / "wide.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "ddpm", "channels": 8, "blocks_per_level": 5000}, "more than 5,000 tensors"),
        ({"name": "ddpm", "channels": 8, "blocks_per_level": 10**6}, "more than 5,000 tensors"),
        ({"channels": 10**6, "channel_multipliers": [10**6], "attention_levels": []}, "impossible size"),
        (
            {"channels": 64, "channel_multipliers": [1, *[2**14] * 3], "attention_levels": [], "fir": True},
            "more than 67,108,864 numbers besides its parameters",
        ),
    ],
)
def test_overstated_networks_are_refused(network: dict[str, Any], message: str) -> None:
    sections = {"image": {"size": 32, "channels": 3}, "sde": "vp", "parameterisation": "edm", "network": network}
    with pytest.raises(CheckpointError, match=message):
        state_shapes(ModelConfig.from_data(sections))
