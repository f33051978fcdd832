"""Published weights: they load strictly, every tensor once, and give the published outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.denoisers import relative_error
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import CheckpointError
from sdedit_pl.checkpoints.expected_tensors import state_shapes
from sdedit_pl.checkpoints.importers import CHECKPOINT_FORMATS, from_ddim, from_score_sde, importer
from sdedit_pl.checkpoints.importers.checkpoint_format import Imported
from sdedit_pl.checkpoints.importers.tensor_mapping import difference
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.typing import over_images

TOLERANCE = 1e-5
SCORE_SDE = ["ncsnpp_ve_cifar10", "ncsnpp_ve_lsun", "ncsnpp_vp_ddpmpp", "ddpm_vp"]
FILES = {"sdedit_ddpm": "model.ckpt", "score_sde_checkpoint": "checkpoint_1.pth"}


class Case(NamedTuple):
    """A published checkpoint of the parity data.

    Args:
        format: its name in `FORMATS`.
        file: its file.
        config: the configuration published with it.
        io: inputs and outputs of the published network.
    """

    format: str
    file: Path
    config: dict[str, Any]
    io: dict[str, Tensor]

    def read(self, file: Path | None = None, **arguments: Any) -> Imported:
        """Imports it, or another file, with its configuration."""
        return importer(self.format).read(file or self.file, config=self.config, **arguments)

    def tensors(self) -> dict[str, Tensor]:
        """Its network's state dict as published."""
        if self.file.suffix == ".safetensors":
            return load_file(self.file)
        saved = torch.load(self.file, weights_only=True)
        return saved.get("model", saved)


@pytest.fixture
def case(reference: Path) -> Callable[[str], Case]:
    """Finds a case of the parity data by its folder's name."""

    def find(name: str) -> Case:
        folder = reference / name
        io = {key: torch.from_numpy(array) for key, array in np.load(folder / "io.npz").items()}
        config = json.loads((folder / "config.json").read_text())
        format = "ddim" if name == "sdedit_ddpm" else "score_sde"
        return Case(format, folder / FILES.get(name, "model.safetensors"), config, io)

    return find


def built(imported: Imported) -> Denoiser:
    """The denoiser of an imported checkpoint."""
    denoiser = build_denoiser(imported.model).eval()
    denoiser.network.load_state_dict(imported.weights, strict=True)
    return denoiser


def published_score(case: Case, denoiser: Denoiser, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(x_t, t, score) on images in [-1, 1] of a published network's recorded input and output.

    Times are float64: the rounding of a float32 label becomes an error of 1e-4 in Fourier features of high frequency.
    """
    x, label, output = (part.double() for part in (case.io["x"], case.io["time_cond"], output))
    if case.format == "ddim":
        t = (label + 1) / case.config["diffusion"]["num_diffusion_timesteps"]
    elif case.config["training"]["sde"] == "vesde":
        # On images in [0, 1]: a noise level there is half of ours, a gradient twice.
        return 2 * x - 1, denoiser.sde.time_at_noise_level(2 * label), output / 2
    else:
        t = label / 999
    return x, t, -output / over_images(denoiser.sde.sigma(t))


def relative_errors(case: Case, imported: Imported, output: str = "y") -> tuple[float, float]:
    """The `relative_error` of the score and the x_0 estimate."""
    denoiser = built(imported)
    x_t, t, score = published_score(case, denoiser, case.io[output])
    alpha, sigma = (over_images(part(t)) for part in (denoiser.sde.alpha, denoiser.sde.sigma))
    estimate = (x_t + sigma**2 * score) / alpha
    with torch.no_grad():
        pairs = ((denoiser.score(x_t, t), score), (denoiser(x_t, t), estimate))
    of_score, of_estimate = (relative_error(*pair) for pair in pairs)
    return of_score, of_estimate


@pytest.mark.parametrize("name", [*SCORE_SDE, "sdedit_ddpm"])
def test_published_outputs_are_reproduced(case, name: str) -> None:
    errors = relative_errors(case(name), case(name).read())
    assert max(errors) < TOLERANCE, f"{name}: relative errors {errors}"


def test_raw_and_averaged_weights_of_score_sde(case) -> None:
    published = case("score_sde_checkpoint")
    for weights, output in (("raw", "y_raw"), ("ema", "y_ema")):
        imported = published.read(weights=weights)
        assert imported.origin["weights"] == weights
        assert imported.origin["training"] == {"steps": 1234, "ema_decay": 0.999, "ema_updates": 0}
        assert max(relative_errors(published, imported, output)) < TOLERANCE
    assert min(relative_errors(published, published.read(weights="raw"), "y_ema")) > 100 * TOLERANCE


@pytest.mark.parametrize("kept", [slice(0, -1), slice(0, 0)])
def test_an_average_of_another_length_is_refused(case, kept: slice, tmp_path: Path) -> None:
    published = case("score_sde_checkpoint")
    saved = torch.load(published.file, weights_only=True)
    shadow = saved["ema"]["shadow_params"]
    saved["ema"]["shadow_params"] = shadow[kept]
    torch.save(saved, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=f"{len(shadow[kept])} averaged tensors do not match its 156 trained"):
        published.read(tmp_path / "short.pth")
    assert published.read(tmp_path / "short.pth", weights="raw").origin["weights"] == "raw"


@pytest.mark.parametrize("without", ["ema", "shadow_params"])
def test_a_checkpoint_without_an_average_says_so(case, without: str, tmp_path: Path) -> None:
    published = case("score_sde_checkpoint")
    saved = torch.load(published.file, weights_only=True)
    del (saved if without == "ema" else saved["ema"])[without]
    torch.save(saved, tmp_path / "raw.pth")
    with pytest.raises(CheckpointError, match="no averaged weights; weights=raw"):
        published.read(tmp_path / "raw.pth")


def test_a_trainers_list_of_ddim(case, tmp_path: Path) -> None:
    published = case("sdedit_ddpm")
    averaged = published.tensors()
    raw = {f"module.{name}": tensor + 1 for name, tensor in averaged.items()}
    file = tmp_path / "ckpt.pth"
    torch.save([raw, {"state": {}}, 3, 77, averaged], file)
    imported = published.read(file)
    assert max(relative_errors(published, imported)) < TOLERANCE
    assert imported.origin["training"] == {"epochs": 3, "steps": 77} and imported.origin["weights"] == "ema"
    exact = published.read().weights
    for name, tensor in published.read(file, weights="raw").weights.items():
        assert torch.equal(tensor, exact[name] + 1), name
    torch.save([raw, {}, 3, 77], file)
    with pytest.raises(CheckpointError, match="no averaged weights; weights=raw"):
        published.read(file)
    averaged.pop("conv_in.bias")
    torch.save([raw, {}, 3, 77, averaged], file)
    with pytest.raises(CheckpointError, match=r"143 averaged.*144 trained.*conv_in\.bias"):
        published.read(file)
    torch.save([raw, {}], file)
    with pytest.raises(CheckpointError, match=r"is a list of 2; .* 5 things"):
        published.read(file)


@pytest.mark.parametrize("name", [*SCORE_SDE, "sdedit_ddpm"])
def test_every_number_is_used_once_and_reported(case, name: str) -> None:
    imported, tensors = case(name).read(), case(name).tensors()
    tensors.pop("sigmas", None)
    published = torch.cat([tensor.flatten() for tensor in tensors.values()])
    ours = torch.cat([tensor.flatten() for tensor in imported.weights.values()])
    assert torch.equal(published.sort().values, ours.sort().values)
    used = [theirs for names in imported.used.values() for theirs in names]
    assert sorted(used) == sorted(tensors)
    assert imported.used.keys() == imported.weights.keys()
    assert set(imported.ignored) == set(case(name).tensors()) - set(tensors)


@pytest.mark.parametrize("name", [*SCORE_SDE, "sdedit_ddpm", "score_sde_checkpoint"])
def test_a_format_recognises_its_own_files_and_no_others(case, name: str, tiny_checkpoint: Path) -> None:
    published = case(name)
    assert [format for format in CHECKPOINT_FORMATS if importer(format).recognises(published.file)] == [
        published.format
    ]
    assert not importer(published.format).recognises(tiny_checkpoint)


@pytest.mark.parametrize("name", ["ncsnpp_ve_lsun", "sdedit_ddpm"])
@pytest.mark.parametrize("suffix", ["zip.pth", "legacy.pth", "safetensors"])
def test_data_parallel_names_are_understood_in_every_kind_of_file(case, name: str, suffix: str, tmp_path: Path) -> None:
    published, file = case(name), tmp_path / f"weights.{suffix}"
    wrapped = {f"module.{key}": tensor for key, tensor in published.tensors().items()}
    if suffix == "safetensors":
        save_file(wrapped, file)
    else:
        torch.save(wrapped, file, _use_new_zipfile_serialization=suffix == "zip.pth")
    assert importer(published.format).recognises(file)
    assert max(relative_errors(published, published.read(file))) < TOLERANCE


@pytest.mark.parametrize("name", ["ncsnpp_ve_lsun", "ddpm_vp", "sdedit_ddpm"])
def test_missing_surplus_and_misshapen_tensors_are_named(case, name: str, tmp_path: Path) -> None:
    published, file = case(name), tmp_path / "changed.safetensors"
    tensors = published.tensors()
    key = sorted(key for key in tensors if key.endswith(("Conv_0.weight", "conv1.weight")))[0]
    rest = {other: tensor for other, tensor in tensors.items() if other != key}
    for changed, message in (
        (rest, f"missing {key}; not expected none"),
        ({**tensors, "extra.weight": torch.zeros(1)}, r"missing none; not expected extra\.weight"),
        ({**rest, key: torch.zeros(1, 1, 3, 3)}, rf"{key} should give '.*' of shape .*, got \(1, 1, 3, 3\)"),
    ):
        save_file(changed, file)
        with pytest.raises(CheckpointError, match=f"are not those of the configuration: {message}"):
            published.read(file)


def test_parts_that_cannot_be_joined_are_named(case, tmp_path: Path) -> None:
    published = case("sdedit_ddpm")
    tensors = {**published.tensors(), "mid.attn_1.q.weight": torch.zeros(64, 32, 1, 1)}
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"mid\.attn_1\.q\.weight, .* got \(64, 32, 1, 1\) and \(64, 64, 1, 1\)"):
        published.read(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("odd", [{"conv_in.weight": 3}, {3: torch.zeros(1)}, {}, [torch.zeros(1)] * 5, "text"])
def test_what_is_no_state_dict_is_refused(case, odd: Any, tmp_path: Path) -> None:
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="must be tensors by name, got"):
        case("sdedit_ddpm").read(tmp_path / "odd.pth")


def test_the_configuration_of_another_network_is_refused(case) -> None:
    with pytest.raises(CheckpointError, match=r"are not those of the configuration: missing .* and \d+ more; not exp"):
        case("ncsnpp_ve_lsun")._replace(config=case("ncsnpp_ve_cifar10").config).read()


def test_a_table_of_other_noise_levels_is_refused(case) -> None:
    published = case("ncsnpp_ve_cifar10")
    published.config["model"]["sigma_max"] = 348
    with pytest.raises(CheckpointError, match=r"sigmas begins with 50 .* where the model's sigma_max is 696"):
        published.read()


@pytest.mark.parametrize("block", ["biggan", "ddpm"])
def test_each_tensor_has_a_source_for_all_options(case, block: str) -> None:
    config = case("ncsnpp_ve_lsun").config
    config["model"]["ch_mult"] = [1, 2]
    for progressive, progressive_input, combine, fir, learned in product(
        ("none", "output_skip", "residual"),
        ("none", "input_skip", "residual"),
        ("sum", "cat"),
        (True, False),
        (True, False),
    ):
        if (combine == "cat" and progressive_input != "input_skip") or (not learned and block != "ddpm"):
            continue  # ignored by the published code
        config["training"]["continuous"] = fir  # the kind of label is independent of the rest
        config["model"].update(
            resblock_type=block,
            progressive=progressive,
            progressive_input=progressive_input,
            progressive_combine=combine,
            fir=fir,
            resamp_with_conv=learned,
            embedding_type="fourier" if fir else "positional",
        )
        model = ModelConfig.from_data(from_score_sde.model_of(config))
        found = difference({}, from_score_sde.network_sources(model.network), state_shapes(model))
        assert len(found.missing) == found.wanted > 60
        assert all(re.fullmatch(r"all_modules\.\d+\..+", theirs) for theirs in found.missing)


def test_attention_is_placed_by_resolution(case) -> None:
    config = case("ncsnpp_ve_lsun").config
    config["data"]["image_size"] = 32
    assert from_score_sde.model_of(config)["network"]["attention_levels"] == [2]


def test_a_discrete_ve_model_is_labelled_by_the_index_of_its_sigma(case) -> None:
    config = case("ncsnpp_ve_cifar10").config
    config["training"]["continuous"] = False
    config["model"].update(embedding_type="positional", num_scales=11)
    denoiser = build_denoiser(ModelConfig.from_data(from_score_sde.model_of(config)))
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    label = denoiser.parameterisation.network_label(denoiser.sde, t)
    torch.testing.assert_close(label, torch.arange(10, -1, -1, dtype=torch.float64))
    published = torch.logspace(np.log10(50), -2, 11, dtype=torch.float64)
    torch.testing.assert_close(denoiser.sde.sigma(t).flip(0), 2 * published)


def test_a_discrete_vp_model_has_its_table_of_betas(case) -> None:
    config = case("ncsnpp_vp_ddpmpp").config
    config["training"]["continuous"] = False
    config["model"]["num_scales"] = 500
    denoiser = build_denoiser(ModelConfig.from_data(from_score_sde.model_of(config)))
    betas = torch.linspace(0.1 / 500, 20 / 500, 500, dtype=torch.float64)
    t = torch.arange(1, 501) / 500
    torch.testing.assert_close(denoiser.sde.alpha(t.double()), (1 - betas).cumprod(0).sqrt())
    label = denoiser.parameterisation.network_label(denoiser.sde, t)
    torch.testing.assert_close(label, torch.arange(500.0), atol=1e-4, rtol=0)


def test_sub_vp_is_continuous_whatever_the_configuration_says(case) -> None:
    config = case("ncsnpp_vp_ddpmpp").config
    config["training"].update(sde="subvpsde", continuous=False)
    model = from_score_sde.model_of(config)
    assert model["sde"]["name"] == "subvp" and model["parameterisation"]["label_scale"] == 999


@pytest.mark.parametrize(
    ("name", "section", "option", "value", "message"),
    [
        ("ncsnpp_ve_cifar10", "model", "normalization", "InstanceNorm++", "model.normalization.*'groupnorm'"),
        ("ncsnpp_ve_cifar10", "model", "nonlinearity", "elu", "model.nonlinearity must be 'swish'"),
        ("ncsnpp_ve_cifar10", "model", "conditional", False, "conditional=false is not supported"),
        ("ncsnpp_ve_cifar10", "model", "name", "ncsnv2_64", "model.name must be 'ncsnpp' or 'ddpm'"),
        ("ncsnpp_ve_cifar10", "model", "nf", None, "network.channels must be a valid integer, got None"),
        ("ncsnpp_ve_cifar10", "model", "ch_mult", 3, "has a value of the wrong type"),
        ("ncsnpp_ve_cifar10", "model", "scale_by_sigma", False, "scale_by_sigma=false with a VE SDE is not supp"),
        ("ncsnpp_ve_cifar10", "training", "continuous", False, "continuous=false with model.embedding_type=fourier"),
        ("ncsnpp_ve_cifar10", "training", "sde", "cosine", "training.sde must be vesde, vpsde or subvpsde"),
        ("ncsnpp_vp_ddpmpp", "data", "centered", False, "with model.scale_by_sigma=false and data.centered=true"),
        ("ncsnpp_vp_ddpmpp", "model", "scale_by_sigma", True, "got true and true"),
        ("sdedit_ddpm", "model", "type", "deep", "model.type.*'deep'"),
        ("sdedit_ddpm", "model", "out_ch", 6, "model.out_ch.*in_channels, 3"),
        ("sdedit_ddpm", "model", "ch", "wide", "network.channels must be a valid integer, got 'wide'"),
        ("sdedit_ddpm", "model", "ch_mult", 2, "has a value of the wrong type"),
        ("sdedit_ddpm", "diffusion", "beta_schedule", "jsd", "beta_schedule.*linear, quad.*'jsd'"),
    ],
)
def test_configurations_that_we_cannot_build_are_refused(
    case, name: str, section: str, option: str, value: Any, message: str
) -> None:
    published = case(name)
    published.config[section][option] = value
    with pytest.raises(ValueError, match=message):
        published.read()


@pytest.mark.parametrize("name", ["ncsnpp_ve_cifar10", "sdedit_ddpm"])
@pytest.mark.parametrize("section", ["data", "model"])
def test_an_incomplete_configuration_is_refused(case, name: str, section: str) -> None:
    published = case(name)
    published.config["data"].pop("image_size")
    with pytest.raises(CheckpointError, match="the published configuration lacks 'image_size'"):
        published.read()
    del published.config[section]
    with pytest.raises(CheckpointError, match=f"the published configuration lacks '{section}'"):
        published.read()


def test_the_unused_tensor_of_bayesian_networks_is_ignored(case, tmp_path: Path) -> None:
    published = case("sdedit_ddpm")
    published.config["model"]["type"] = "bayesian"
    torch.save({**published.tensors(), "logvar": torch.zeros(1000)}, tmp_path / "bayesian.ckpt")
    imported = published.read(tmp_path / "bayesian.ckpt")
    assert list(imported.ignored) == ["logvar"]
    assert max(relative_errors(published, imported)) < TOLERANCE


def test_a_quadratic_schedule_of_ddim_is_scaled_linear(case) -> None:
    config = case("sdedit_ddpm").config
    config["diffusion"]["beta_schedule"] = "quad"
    assert from_ddim.model_of(config)["sde"]["schedule"] == "scaled_linear"
