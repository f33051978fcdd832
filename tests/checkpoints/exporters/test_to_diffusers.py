"""Exported folders in the diffusers library: loaded, compared, run, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DiffusionPipeline, ScoreSdeVePipeline
from support.denoisers import relative_error
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints.exporters import exporter
from sdedit_pl.checkpoints.exporters.export_format import ExportError
from sdedit_pl.checkpoints.importers.from_diffusers import DiffusersFormat
from sdedit_pl.checkpoints.importers.noise_conventions import continuous_ve, continuous_vp, discrete_vp
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import SeededNoise
from sdedit_pl.sampling import integrate
from sdedit_pl.solvers import DPMSolver2M

TOLERANCE = 1e-5
PLAIN = {"name": "ddpm", "channels": 32, "channel_multipliers": [1, 2], "blocks_per_level": 1, "attention_levels": [1]}
SKIP = {
    "name": "ncsnpp",
    "channels": 16,
    "channel_multipliers": [1, 2, 8],
    "blocks_per_level": 1,
    "attention_levels": [2],
    "progressive": "output_skip",
    "progressive_input": "input_skip",
}
IMAGE = {"size": 16, "channels": 3}


def of_table(prediction: str = "epsilon", schedule: str = "linear") -> dict[str, Any]:
    """SDE and parameterisation of a network that estimates `prediction`, given the index in a table of 100 betas."""
    sections = discrete_vp(1e-3, 0.2, 100, schedule)
    sections["parameterisation"]["name"] = prediction
    return sections


def random_denoiser(model: ModelConfig) -> Denoiser:
    """A denoiser none of whose weights is zero."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        denoiser = build_denoiser(model)
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return denoiser.eval().requires_grad_(False)


def export(model: dict[str, Any], out: Path) -> Denoiser:
    described = ModelConfig.from_data(model)
    denoiser = random_denoiser(described)
    exporter("diffusers").write(denoiser, described, out)
    return denoiser


def noise(batch: int, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, 16, 16, generator=torch.Generator().manual_seed(1))


def run(pipeline: DiffusionPipeline, steps: int) -> Tensor:
    """A pipeline's images of a fixed seed, of shape (1, H, W, C)."""
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(generator=torch.Generator().manual_seed(0), num_inference_steps=steps, output_type="np")
    return torch.as_tensor(made.images)


NETWORKS: dict[str, dict[str, Any]] = {
    "defaults": PLAIN,
    "all options": {
        **PLAIN,
        "blocks_per_level": 2,
        "attention_levels": [0, 1],
        "head_channels": 16,
        "pad_all_sides": True,
        "close_frequencies": False,
        "most_groups": 8,
        "epsilon": 1e-5,
        "dropout": 0.1,
    },
    "equal groups": {**PLAIN, "smallest_group": 8, "most_groups": 4},
    "skips": {**SKIP, "label_embedding": "positional", "head_channels": 64},
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_library_estimates_the_same_noise_and_runs(network: dict[str, Any], tmp_path: Path) -> None:
    model = {"image": IMAGE, "network": network, **of_table()}
    denoiser = export(model, tmp_path / "out")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline) is DDPMPipeline
    x, index = noise(4), torch.tensor([0, 1, 50, 99])
    with torch.no_grad():
        expected = denoiser.raw(x, (index + 1) / 100)
        assert relative_error(pipeline.unet(x, index).sample, expected) < TOLERANCE
    picture = run(pipeline, 3)
    assert picture.shape == (1, 16, 16, 3) and picture.isfinite().all() and picture.std() > 0


@pytest.mark.parametrize("prediction", ["epsilon", "epsilon_and_variance", "x_0", "v"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_estimates_are_those_of_the_exported_scheduler(prediction: str, schedule: str, tmp_path: Path) -> None:
    denoiser = export({"image": IMAGE, "network": PLAIN, **of_table(prediction, schedule)}, tmp_path / "out")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    scheduler = pipeline.scheduler
    scheduler.register_to_config(clip_sample=False)
    scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)
    x = noise(1).double()
    for index in (1, 40, 90):
        output = pipeline.unet(x.float(), index).sample.detach().double()
        expected = scheduler.step(output, index, x).pred_original_sample
        assert relative_error(denoiser(x, torch.tensor([(index + 1) / 100]).double()), expected) < TOLERANCE


def test_ve_models_become_score_sde_ve(tmp_path: Path) -> None:
    model = {"image": IMAGE, "network": {**SKIP, "label_embedding": "fourier"}, **continuous_ve(40.0, 0.02)}
    denoiser = export(model, tmp_path / "out")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline) is ScoreSdeVePipeline
    assert (pipeline.scheduler.config["sigma_min"], pipeline.scheduler.config["sigma_max"]) == (0.02, 40.0)
    sigma = torch.tensor([0.03, 0.7, 6.0, 40.0], dtype=torch.float64)
    theirs = 0.5 + sigma.view(4, 1, 1, 1) * noise(4).double()
    score = pipeline.unet(theirs.float(), sigma.float()).sample.detach()
    t = denoiser.sde.time_at_noise_level(2 * sigma)
    for ours, expected in zip(denoiser.score(2 * theirs - 1, t), score.double() / 2, strict=True):
        assert relative_error(ours, expected) < TOLERANCE
    picture = run(pipeline, 2)
    assert picture.shape == (1, 16, 16, 3) and picture.isfinite().all()


@pytest.mark.parametrize(
    "model",
    [
        pytest.param({"network": NETWORKS["all options"], **of_table("v", "cosine")}, id="table"),
        pytest.param({"network": {**SKIP, "label_embedding": "fourier"}, **continuous_ve(40.0)}, id="ve"),
    ],
)
def test_reading_it_back_gives_the_same_bits(model: dict[str, Any], tmp_path: Path) -> None:
    denoiser = export({"image": IMAGE, **model}, tmp_path / "out")
    again = DiffusersFormat().read(tmp_path / "out")
    state = denoiser.network.state_dict()
    assert again.weights.keys() == state.keys()
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in state.items())
    rebuilt = build_denoiser(again.model)
    assert (rebuilt.sde, rebuilt.parameterisation) == (denoiser.sde, denoiser.parameterisation)


@pytest.mark.parametrize("sde", [{"name": "vp"}, {"name": "ve", "sigma_max": 80.0}, {"name": "ddpm"}], ids=str)
@pytest.mark.parametrize("network", [PLAIN, NETWORKS["skips"]], ids=["plain", "skips"])
def test_edm_models_make_the_same_images_in_the_library(
    sde: dict[str, Any], network: dict[str, Any], tmp_path: Path
) -> None:
    model = {"image": IMAGE, "network": network, "sde": sde, "parameterisation": {"name": "edm", "data_deviation": 0.6}}
    denoiser = export(model, tmp_path / "out")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    latents = noise(2)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(batch_size=2, latents=latents, num_inference_steps=8, output_type="pt").images
    levels = pipeline.scheduler.sigmas[:-1].double()
    times = torch.cat([denoiser.sde.time_at_noise_level(levels), levels.new_zeros(1)]).clamp(max=1)
    x = latents * pipeline.scheduler.init_noise_sigma * denoiser.sde.alpha(times[0])
    ours = integrate(denoiser, DPMSolver2M(), x.float(), times, noise=SeededNoise(range(2)))
    assert (theirs - (ours.clamp(-1, 1) + 1) / 2).abs().max() < 1e-4 and theirs.std() > 0.01
    again = DiffusersFormat().read(tmp_path / "out")
    assert again.model.parameterisation.values["data_deviation"] == 0.6 and again.model.sde.name == "ve"


def test_weights_for_augmentation_labels_are_left_out(tmp_path: Path) -> None:
    """Without labels, as at sampling, they have no effect."""
    model = {"image": IMAGE, "network": PLAIN, "augmentation_labels": 9, **of_table()}
    denoiser = export(model, tmp_path / "out")
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    x, index = noise(1), torch.tensor([30])
    with torch.no_grad():
        expected = denoiser.raw(x, (index + 1) / 100)
        assert relative_error(pipeline.unet(x, index).sample, expected) < TOLERANCE


VE = continuous_ve(40.0)
VP = {"name": "vp"}
EDM = {"sde": VP, "parameterisation": {"name": "edm"}}
FOURIER = {**SKIP, "label_embedding": "fourier"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({**EDM, "network": FOURIER}, "cannot combine Fourier features.*edm .*positional"),
        ({"sde": VP, "parameterisation": {"name": "edm", "label_scale": 1.0}}, "label_scale=1.0 .* has 0.25"),
        (continuous_vp(), "sde.name=vp with parameterisation.name=epsilon has no scheduler"),
        (continuous_vp("subvp"), "sde.name=subvp with parameterisation.name=epsilon has no scheduler"),
        ({**of_table(), "network": {**PLAIN, "patch": 2}}, r"network.patch=2 .* UNet2DModel has 1 in its place"),
        ({**of_table(), "network": {**PLAIN, "attend_after": "level"}}, "network.attend_after=level .* has block"),
        (
            {**of_table(), "network": {**PLAIN, "resample_with_convolution": False}},
            "network.resample_with_convolution=False .* has True",
        ),
        ({**of_table(), "network": {**PLAIN, "smallest_group": 4}}, "group norms of 8 and 16 .* groups"),
        (
            {**of_table(), "network": {"name": "adm", "channels": 32, "head_channels": 32}},
            "network.name=adm cannot be expressed",
        ),
        ({**of_table(), "network": FOURIER}, "cannot combine Fourier features.*sde.name=ddpm"),
        ({**VE, "network": PLAIN}, "cannot combine positional features.*sde.name=ve"),
        ({**continuous_ve(40.0, centered=True), "network": FOURIER}, r"parameterisation.label_offset=0.0 .* has -0.69"),
        ({**VE, "network": {**FOURIER, "fir": False}}, "network.fir=False .* has True"),
        ({**VE, "network": {**FOURIER, "fir_kernel": [1, 2, 1]}}, r"network.fir_kernel=\[1.0, 2.0, 1.0\]"),
        ({**VE, "network": {**FOURIER, "skip_rescale": False}}, "network.skip_rescale=False"),
        ({**VE, "network": {**FOURIER, "block": "ddpm"}}, "network.block=ddpm .* has biggan"),
        ({**VE, "network": {**FOURIER, "progressive": "residual"}}, "network.progressive=residual"),
        ({**VE, "network": {**FOURIER, "progressive_combine": "cat"}}, "network.progressive_combine=cat"),
        ({**VE, "network": {**FOURIER, "channel_multipliers": [1, 2, 4]}}, "agree from 128 channels up"),
        ({**VE, "network": {**FOURIER, "channel_multipliers": [1, 1, 8]}}, "normalises 144 channels in 24 groups"),
        ({**of_table(), "t_max": 0.6}, r"trained up to t=0\.6.*times\.t_max=1"),
        ({**VE, "network": FOURIER, "image": {"size": 16, "channels": 1}}, "in_channels=1 .* expected 3"),
    ],
)
def test_what_cannot_be_expressed_is_refused(model: dict[str, Any], message: str, tmp_path: Path) -> None:
    described = ModelConfig.from_data({"image": IMAGE, "network": PLAIN, **model})
    with pytest.raises(ExportError, match=message):
        exporter("diffusers").write(build_denoiser(described), described, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_its_files_are_those_of_the_library(tmp_path: Path) -> None:
    export({"image": IMAGE, "network": PLAIN, **of_table()}, tmp_path / "out")
    ours = json.loads((tmp_path / "out" / "unet" / "config.json").read_text())
    pipeline = DDPMPipeline.from_pretrained(tmp_path / "out")
    pipeline.save_pretrained(tmp_path / "theirs")
    theirs = json.loads((tmp_path / "theirs" / "unet" / "config.json").read_text())
    assert {key: theirs[key] for key in ours} == ours
    names = [sorted(str(file.relative_to(top)) for file in top.rglob("*")) for top in tmp_path.iterdir()]
    assert names[0] == names[1]
