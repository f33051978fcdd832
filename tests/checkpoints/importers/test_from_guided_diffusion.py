"""guided-diffusion's checkpoints: the published network's outputs, its sampler's step, and refusals."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from support.denoisers import denoiser_of, relative_error
from support.guided_oracle import Guided, guided_unet, random_tensors
from torch import Tensor

from sdedit_pl.checkpoints import CheckpointError
from sdedit_pl.checkpoints.guidance_settings import labelled as checked_label
from sdedit_pl.checkpoints.importers.from_guided_diffusion import GuidedDiffusionFormat, model_of, read_flags
from sdedit_pl.checkpoints.importers.presets import PRESETS
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.noise import SeededNoise, StepNoise
from sdedit_pl.solvers import Ancestral
from sdedit_pl.typing import over_images

TOLERANCE = 1e-5
CASES = {
    "guided": Guided(),
    "head channels": Guided(num_head_channels=16, num_channels=64),
    "new order": Guided(use_new_attention_order=True),
    "attention at every resolution": Guided(
        channel_mult=(1, 2, 3), attention_resolutions=(16, 8, 4), num_heads=1, num_head_channels=32, num_res_blocks=2
    ),
    "no attention but in the middle": Guided(attention_resolutions=(64,)),
    "improved": Guided(resblock_updown=False, num_res_blocks=2),
    "label added": Guided(use_scale_shift_norm=False, learn_sigma=False),
}
INDICES = torch.tensor([0.0, 41.0, 500.0, 999.0])


def images(options: Guided, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, options.image_size, options.image_size, generator=generator)


def saved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    torch.save(tensors, folder / "ema_0.9999_100000.pt")
    return folder / "ema_0.9999_100000.pt"


def read(folder: Path, options: Guided, tensors: dict[str, Tensor], **flags: object) -> Denoiser:
    """The denoiser of a file of `tensors`."""
    imported = GuidedDiffusionFormat().read(saved(folder, tensors), config={**options.config(), **flags})
    return denoiser_of(imported)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_outputs_are_the_published_networks_own(options: Guided, tmp_path: Path) -> None:
    tensors = random_tensors(options)
    denoiser, x = read(tmp_path, options, tensors), images(options)
    with torch.no_grad():
        found, expected = denoiser.network(x, INDICES), guided_unet(tensors, options, x, INDICES)
    assert found.shape[1] == options.out_channels
    error = relative_error(found, expected)
    assert error < TOLERANCE, f"relative error {error:.2e}"


@pytest.mark.parametrize("options", [CASES["guided"], CASES["label added"]], ids=["learned variance", "fixed variance"])
def test_score_and_estimate_are_those_of_the_noise_alone(options: Guided, tmp_path: Path) -> None:
    """At table index i, t = (i + 1) / 1000; the variance's channels do not affect x_0 and the score."""
    tensors = random_tensors(options)
    denoiser, x = read(tmp_path, options, tensors), images(options)
    alphas = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    alpha, sigma = (over_images(table[INDICES.long()].sqrt().float()) for table in (alphas, 1 - alphas))
    t = (INDICES + 1) / 1000
    with torch.no_grad():
        noise = guided_unet(tensors, options, x, INDICES)[:, :3]
        assert relative_error(denoiser.score(x, t), -noise / sigma) < TOLERANCE
        assert relative_error(denoiser(x, t), (x - sigma * noise) / alpha) < TOLERANCE
        assert denoiser.raw(x, t).shape == x.shape


def posterior_step(tensors: dict[str, Tensor], options: Guided, x: Tensor, i: int, j: int, z: Tensor) -> Tensor:
    """The published sampler's step from index i to a lower j (-1 is the image) of the respaced table, unclipped.

    It uses the posterior's mean and the logarithms of its variances.
    """
    products = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    here, below = products[i], products[j] if j >= 0 else torch.ones((), dtype=torch.float64)
    beta = 1 - here / below
    noise, v = guided_unet(tensors, options, x, torch.full((len(x),), float(i))).double().chunk(2, dim=1)
    x_0 = (x.double() - (1 - here).sqrt() * noise) / here.sqrt()
    mean = (below.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - below) * x.double()) / (1 - here)
    if j < 0:
        return mean
    smallest, largest = (beta * (1 - below) / (1 - here)).log(), beta.log()
    share = (v + 1) / 2
    return mean + (share * largest + (1 - share) * smallest).mul(0.5).exp() * z.double()


@pytest.mark.parametrize(("i", "j"), [(30, 29), (500, 499), (999, 949), (300, 250), (20, -1)])
def test_an_ancestral_step_of_any_length_takes_the_learned_variance(i: int, j: int, tmp_path: Path) -> None:
    options = CASES["guided"]
    tensors, x = random_tensors(options), images(options)
    denoiser, noise = read(tmp_path, options, tensors), SeededNoise([3, 4, 5, 6])
    t, s = (torch.full((4,), (index + 1) / 1000, dtype=torch.float64) for index in (i, j))
    with torch.no_grad():
        expected = posterior_step(tensors, options, x, i, j, noise(1, 0, x))
        for variance in ("learned", "auto"):
            found, _ = Ancestral(variance).step(denoiser, x.double(), t, s, None, StepNoise(noise, 1, x))
            assert relative_error(found, expected) < TOLERANCE
        small, _ = Ancestral("small").step(denoiser, x.double(), t, s, None, StepNoise(noise, 1, x))
    assert (relative_error(small, expected) < TOLERANCE) is (j < 0), "the small variance differs"


def test_a_cosine_schedule_of_4000_steps(tmp_path: Path) -> None:
    options = CASES["improved"]
    flags = {"noise_schedule": "cosine", "diffusion_steps": 4000, "rescale_timesteps": True}
    denoiser = read(tmp_path, options, random_tensors(options), **flags)
    t = torch.tensor([1.0, 0.5], dtype=torch.float64)
    index = 4000 * t - 1
    torch.testing.assert_close(denoiser.parameterisation.network_label(denoiser.sde, t), index / 4)
    cosine = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    assert denoiser.sde.alpha(t[1:]).item() == pytest.approx(cosine, rel=1e-9)


def test_the_published_flags_are_the_preset() -> None:
    """The authors' flags for their LSUN models, without dropout."""
    flags = {
        "attention_resolutions": "32,16,8",
        "class_cond": False,
        "diffusion_steps": 1000,
        "image_size": 256,
        "learn_sigma": True,
        "noise_schedule": "linear",
        "num_channels": 256,
        "num_head_channels": 64,
        "num_res_blocks": 2,
        "resblock_updown": True,
        "use_fp16": True,
        "use_scale_shift_norm": True,
    }
    assert ModelConfig.from_data(model_of(read_flags(flags))) == ModelConfig.from_data(PRESETS["lsun_bedroom"].model)


def test_every_number_is_used_once_and_named_in_the_report(tmp_path: Path) -> None:
    options = CASES["guided"]
    tensors = random_tensors(options)
    imported = GuidedDiffusionFormat().read(saved(tmp_path, tensors), config=options.config())
    there = torch.cat([tensor.flatten() for tensor in tensors.values()]).sort().values
    here = torch.cat([tensor.flatten() for tensor in imported.weights.values()]).sort().values
    assert torch.equal(there, here)
    assert sorted(name for names in imported.used.values() for name in names) == sorted(tensors)


def test_recognition(tmp_path: Path, reference: Path, tiny_checkpoint: Path) -> None:
    form = GuidedDiffusionFormat()
    assert form.recognises(saved(tmp_path, random_tensors(CASES["guided"])))
    assert not form.recognises(reference / "sdedit_ddpm" / "model.ckpt")
    assert not form.recognises(tiny_checkpoint)
    assert not form.recognises(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_chanels": 32}, "num_chanels.*did you mean num_channels"),
        ({"class_cond": True}, "not those of the configuration"),
        ({"predict_xstart": True}, "estimates x_0"),
        ({"num_heads_upsample": 2}, "num_heads_upsample=2"),
        ({"noise_schedule": "sqrt"}, "noise_schedule.*'sqrt'"),
        ({"num_channels": "32"}, "num_channels.*'32'"),
        ({"channel_mult": "1,two"}, "channel_mult.*'1,two'"),
        ({"channel_mult": "", "image_size": 48}, "give channel_mult.*image_size=48"),
        ({"num_channels": 64}, "not those of the configuration.*should give"),
        ({"num_heads": 3}, "not those of the configuration|divide"),
    ],
)
def test_flags_that_cannot_be_read_are_refused(flags: dict[str, object], message: str, tmp_path: Path) -> None:
    options = CASES["guided"]
    with pytest.raises(ValueError, match=message):
        read(tmp_path, options, random_tensors(options), **flags)


@pytest.mark.parametrize("new_order", [False, True])
def test_class_conditional_models(new_order: bool, tmp_path: Path) -> None:
    """Outputs for a class each; without one, for which the model was not trained, it refuses to edit."""
    options = Guided(classes=5, use_new_attention_order=new_order)
    tensors, x, classes = random_tensors(options), images(options), torch.tensor([0, 3, 4, 3])
    denoiser = read(tmp_path, options, tensors)
    with torch.no_grad():
        labelled = denoiser.labelled([str(number) for number in classes.tolist()])
        found = labelled.estimates(x, (INDICES + 1) / 1000)
        noise, variance = guided_unet(tensors, options, x, INDICES, classes).chunk(2, dim=1)
    sigma = over_images(denoiser.sde.sigma((INDICES + 1) / 1000))
    assert relative_error(found.score, -noise / sigma) < TOLERANCE
    assert found.variance_weight is not None and relative_error(found.variance_weight, (variance + 1) / 2) < TOLERANCE
    assert relative_error(found.score, denoiser.score(x, (INDICES + 1) / 1000)) > 0.01, "the class matters"
    with pytest.raises(ValueError, match=r"never trained without labels; give label=.* classes 0, 1, 2, 3, 4"):
        checked_label(denoiser, None)
    assert checked_label(labelled, None) is labelled


def test_published_conditional_models_are_the_presets() -> None:
    shared = {"class_cond": True, "learn_sigma": True, "num_head_channels": 64, "resblock_updown": True}
    shared |= {"attention_resolutions": "32,16,8"}
    of_256 = {"image_size": 256, "num_channels": 256, "num_res_blocks": 2}
    of_64 = {"image_size": 64, "num_channels": 192, "num_res_blocks": 3, "noise_schedule": "cosine", "dropout": 0.1}
    for name, flags in (("256x256_diffusion", of_256), ("64x64_diffusion", of_64)):
        model = model_of(read_flags({**shared, **flags}), 1000)
        assert ModelConfig.from_data(model) == ModelConfig.from_data(PRESETS[name].model)


def test_a_network_that_is_no_preset_asks_for_its_flags(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"fits no preset.*give config=FILE.json"):
        GuidedDiffusionFormat().read(saved(tmp_path, random_tensors(CASES["guided"])))
