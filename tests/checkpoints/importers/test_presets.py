"""The presets: whole published sizes, without memory, against the published numbers of parameters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdedit_pl.build.component import build_component
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import CheckpointError
from sdedit_pl.checkpoints.expected_tensors import state_shapes, without_weights
from sdedit_pl.checkpoints.importers import CHECKPOINT_FORMATS, from_ddim, from_score_sde
from sdedit_pl.checkpoints.importers.noise_conventions import continuous_ve
from sdedit_pl.checkpoints.importers.presets import PRESETS, UNIT, Preset
from sdedit_pl.checkpoints.importers.state_dict_import import ONLY, StoredTensors, import_network
from sdedit_pl.checkpoints.importers.tensor_mapping import TensorSource
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.parameterisations import Score

COUNTS = {
    "celeba_hq": 113_673_219,
    "bedroom": 113_673_219,
    "church_outdoor": 113_673_219,
    "ve/cifar10_ncsnpp_continuous": 62_758_915,
    "ve/cifar10_ncsnpp_deep_continuous": 107_587_075,
    "ve/church_ncsnpp_continuous": 65_574_549,
    "ve/bedroom_ncsnpp_continuous": 65_574_549,
    "ve/ffhq_256_ncsnpp_continuous": 65_574_549,
    "ve/celebahq_256_ncsnpp_continuous": 65_574_549,
    "ve/ffhq_ncsnpp_continuous": 105_785_896,
    "vp/cifar10_ddpmpp_continuous": 61_804_419,
    "vp/ddpm/cifar10": 35_218_947,
    "vp/ddpm/church": 111_569_923,
    "ddim/cifar10": 35_746_307,
    "ddpm-church-256": 113_673_219,
    "ddpm-cifar10-32": 35_746_307,
    "ncsnpp-church-256": 65_574_549,
    "ncsnpp-ffhq-1024": 105_785_896,
    "lsun_bedroom": 552_814_086,
}
"""Numbers that the authors' own code counts, the fixed Fourier frequencies among them; ADM's is rounded to 552.8 M."""
SIGMAS = {"church": 380, "bedroom": 378, "ffhq_256": 348, "celebahq_256": 348, "ffhq": 1348, "celebahq": 1348}
SOURCES = {
    "score_sde": from_score_sde.network_sources,
    "ddim": from_ddim.network_sources,
}


def meta_network(preset: Preset) -> Mapping[str, Tensor]:
    """The state dict of a preset's network, without memory."""
    return state_shapes(ModelConfig.from_data(preset.model))


def published(preset: Preset) -> dict[str, Tensor]:
    """The state dict that the authors' code has of a preset, without memory."""
    sources = SOURCES[preset.format](ModelConfig.from_data(preset.model).network)
    return {
        name: torch.empty(shape, device="meta")
        for ours, tensor in meta_network(preset).items()
        for name, shape in published_shapes(sources[ours], tensor.shape)
    }


def published_shapes(source: TensorSource, shape: torch.Size) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that one of ours is made of."""
    parts = len(source.names)
    part = (shape[0] // parts, *shape[1:])
    turned = source.make([torch.empty(2, 5, device="meta") for _ in source.names]).shape[1] == 2
    return [(name, (part[1], part[0]) if turned else part) for name in source.names]


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_number_of_parameters(name: str) -> None:
    assert sum(tensor.numel() for tensor in meta_network(PRESETS[name]).values()) == COUNTS[name]


def test_presets_are_models_of_known_formats() -> None:
    networks = {}
    for preset in PRESETS.values():
        assert preset.format in CHECKPOINT_FORMATS
        model = ModelConfig.from_data(preset.model)
        assert build_component(model.sde) and build_component(model.parameterisation)
        networks[json.dumps([preset.model["network"], preset.model["image"]])] = model
    for model in networks.values():
        with without_weights():
            build_denoiser(model)  # which checks that the network can divide the image


@pytest.mark.parametrize("domain", SIGMAS)
def test_a_published_sigma_is_doubled_on_images_in_twice_the_range(domain: str) -> None:
    preset = PRESETS[f"ve/{domain}_ncsnpp_continuous"]
    assert preset.model["sde"] == {"name": "ve", "sigma_min": 0.02, "sigma_max": 2 * SIGMAS[domain]}
    assert preset.sampling["steps"] == 2000 and preset.data_range == UNIT
    assert preset.model["parameterisation"]["label_offset"] == -math.log(2)


def read(of: Preset, file: Path, tensors: Mapping[str, Tensor] | None = None, **arguments: Any) -> str | None:
    """Names the preset that a file of a preset's tensors, or of others, is read as."""
    stored = StoredTensors(published(of) if tensors is None else tensors, ONLY)
    arguments = {"preset": None, "configured": None, **arguments}
    return import_network(file, of.format, stored, SOURCES[of.format], **arguments).origin["preset"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("church_outdoor", "celeba_hq or bedroom or church_outdoor"),
        ("ddim/cifar10", "ddim/cifar10"),
        ("ve/cifar10_ncsnpp_continuous", "ve/cifar10_ncsnpp_continuous"),
        ("ve/ffhq_ncsnpp_continuous", "ve/ffhq_ncsnpp_continuous or ve/celebahq_ncsnpp_continuous"),
        ("vp/ddpm/church", "vp/ddpm/bedroom or vp/ddpm/celebahq or vp/ddpm/church"),
    ],
)
def test_unique_shapes_identify_a_model(name: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read(PRESETS[name], tmp_path / "file") == expected


def test_a_table_of_noise_levels_identifies_a_ve_model(tmp_path: Path) -> None:
    """The four models of 256 px have the same network; the file's table of noise levels identifies the model."""
    (tmp_path / "file").touch()
    preset = PRESETS["ve/church_ncsnpp_continuous"]
    with pytest.raises(CheckpointError, match=r"differ in their SDE.*preset=NAME"):
        read(preset, tmp_path / "file")
    for sigma_max, expected in ((380.0, "ve/church_ncsnpp_continuous"), (378.0, "ve/bedroom_ncsnpp_continuous")):
        table = torch.tensor([sigma_max, 0.01])
        assert (
            read(preset, tmp_path / "file", refine=partial(from_score_sde.with_sigmas_compared, table=table))
            == expected
        )


def test_models_that_differ_in_their_sde_alone_need_a_preset(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    preset = PRESETS["vp/cifar10_ddpmpp_continuous"]
    with pytest.raises(CheckpointError, match=r"fits the presets vp/cifar10_ddpmpp, .*, subvp/cifar10_ddpmpp_cont"):
        read(preset, tmp_path / "file")
    named = "subvp/cifar10_ddpmpp_continuous"
    assert read(preset, tmp_path / "file", preset=named) == named


def test_a_wrong_preset_is_refused_with_the_likeliest(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    preset, tensors = PRESETS["ve/cifar10_ncsnpp_continuous"], published(PRESETS["ve/cifar10_ncsnpp_continuous"])
    with pytest.raises(CheckpointError) as refusal:
        read(preset, tmp_path / "file", tensors, preset="vp/ddpm/church")
    for words in ("are not those of preset=vp/ddpm/church: missing all_modules.", "; not expected all_modules."):
        assert words in str(refusal.value)
    assert str(refusal.value).endswith("; the likeliest preset is ve/cifar10_ncsnpp_continuous")
    tensors.pop("all_modules.4.Conv_1.bias")
    with pytest.raises(CheckpointError) as refusal:
        read(preset, tmp_path / "file", tensors)
    words = r"likeliest preset is ve/cifar10_ncsnpp_continuous \(1 of its \d+ tensors differ\)"
    assert refusal.match(words) and refusal.match("fits no preset") and refusal.match("give config=FILE.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"preset": "ve/church_ncsnpp"},
            r"ve/church_ncsnpp is not known; did you mean ve/church_ncsnpp_continuous\?",
        ),
        ({"preset": "church_outdoor"}, "preset=church_outdoor .* format ddim.*score_sde"),
        ({"preset": "vp/ddpm/church", "configured": {}}, "a preset or a config, not both"),
    ],
)
def test_presets_that_do_not_fit_the_file_are_refused(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(PRESETS["vp/ddpm/church"], tmp_path / "file", {}, **arguments)


def test_the_label_of_ve_models_is_the_default_of_the_score_parameterisation() -> None:
    assert continuous_ve(50.0)["parameterisation"]["label_offset"] == Score().label_offset
