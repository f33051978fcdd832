"""init_from: the weights that are used, and the checkpoints that are refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import tiny_config

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import save_denoiser
from sdedit_pl.checkpoints.init_from import AUGMENTATION_WEIGHT, initialise, network_from
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.configuration.resolving import resolve_component
from sdedit_pl.configuration.schema import schema_of
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.training.module import ScoreModule


def trained(folder: Path, *arguments: str) -> tuple[Denoiser, str]:
    """A model none of whose weights is zero, and its checkpoint."""
    config = tiny_config("data.path=unused", "data.size=16", *arguments)
    denoiser = build_denoiser(config.model)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(torch.randn_like(weight))
    path = folder / "trained.safetensors"
    save_denoiser(path, denoiser, config.model, {"config": config.as_data()})
    return denoiser, str(path)


def started(path: str, *arguments: str, rate: float = 1e-4) -> Denoiser:
    """A model that starts from a checkpoint."""
    model = tiny_config("data.path=unused", "data.size=16", *arguments).model
    denoiser = build_denoiser(model)
    initialise(denoiser, model, path, rate=rate)
    return denoiser


def weights_of(denoiser: Denoiser) -> dict[str, Any]:
    return denoiser.network.state_dict()


def test_all_weights_are_used_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given, path = trained(tmp_path)
    with caplog.at_level(logging.INFO):
        taken = started(path)
    assert all(torch.equal(weight, weights_of(given)[name]) for name, weight in weights_of(taken).items())
    assert f"loaded {len(weights_of(given))} tensors" in caplog.text and "left out" not in caplog.text


def test_stated_keys_of_the_network_stay(tmp_path: Path) -> None:
    theirs = tiny_config("data.path=unused", "network.patch=2", "network.dropout=0.4").network
    family = schema_of(ModelConfig).families["network"]
    found = network_from(theirs, resolve_component("network", {"channels": 16, "dropout": 0.0}, family))
    assert found.values == {**theirs.values, "channels": 16, "dropout": 0.0}
    other = resolve_component("network", {"name": "ddpm"}, family)
    assert network_from(theirs, other) == other
    assert network_from(other, resolve_component("network", {}, family)).name == "ddpm"


@pytest.mark.parametrize("free", ["network.dropout=0.4", "network.checkpoint_gradients=true", "times.t_max=0.5"])
def test_settings_of_training_may_differ(free: str, tmp_path: Path) -> None:
    given, path = trained(tmp_path)
    taken = started(path, free)
    assert all(torch.equal(weight, weights_of(given)[name]) for name, weight in weights_of(taken).items())


def test_noise_levels_new_to_the_checkpoint_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, path = trained(tmp_path, "times.t_max=0.4")
    with caplog.at_level(logging.INFO):
        started(path, "times.t_max=0.3")
        assert "new to it" not in caplog.text
        started(path)
    assert "was trained up to noise level 2.03; levels up to 152 are new to it" in caplog.text


def test_either_side_may_lack_the_weights_for_augmentation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.6])
    for theirs, ours, said in [(0.1, 0, "left out"), (0, 0.1, "starts at zero")]:
        given, path = trained(tmp_path, f"augment.probability={theirs}")
        with caplog.at_level(logging.INFO):
            taken = started(path, f"augment.probability={ours}")
        assert said in caplog.text and AUGMENTATION_WEIGHT in caplog.text
        torch.testing.assert_close(taken.eval()(x, t), given.eval()(x, t))


def test_a_network_that_depends_on_the_noise_level_alone_fits_any_sde(tmp_path: Path) -> None:
    given, path = trained(tmp_path, "sde=vp")
    taken = started(path, "sde=ve")
    x_0, noise = torch.randn(2, 2, 3, 16, 16, dtype=torch.float64)
    level = torch.tensor([0.3, 2.0], dtype=torch.float64)
    denoised = []
    for denoiser in (given.double().eval(), taken.double().eval()):
        t = denoiser.sde.time_at_noise_level(level)
        denoised.append(denoiser(denoiser.sde.perturb(x_0, t, noise), t))
    torch.testing.assert_close(*denoised, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", ["ncsnpp", "adm"])
def test_a_learned_variance_is_left_out_and_the_estimate_is_the_same(
    network: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shared = (f"network={network}", "sde=ddpm")
    given, path = trained(tmp_path, *shared, "parameterisation=epsilon_and_variance")
    with caplog.at_level(logging.INFO):
        taken = started(path, *shared, "parameterisation=epsilon")
    assert "left out the learned variance" in caplog.text
    assert weights_of(taken)["head.convolution.bias"].shape == (3,) != weights_of(given)["head.convolution.bias"].shape
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.6])
    torch.testing.assert_close(taken.eval()(x, t), given.eval()(x, t))
    with pytest.raises(ValueError, match=r"learned variance.*parameterisation without one"):
        ScoreModule(given)


REFUSED = [
    ((), ("data.size=32",), "16 px.*32 px.*data.size=16"),
    (("network.patch=2",), (), r"network.patch=2, this configuration 1"),
    ((), ("data.channels=1",), "images of 3 channels, this run has 1; set data.channels=3"),
    ((), ("network.channels=16",), "channels=8 there and 16 here"),
    ((), ("network.skip_rescale=false",), "skip_rescale=True there and False here"),
    ((), ("network.fir=false",), "fir=True there and False here"),
    ((), ("network=ddpm",), "name=ncsnpp there and ddpm here"),
    ((), ("parameterisation=v",), "another parameterisation"),
    (("parameterisation=epsilon",), (), "another parameterisation"),
    (
        ("parameterisation=epsilon",),
        ("parameterisation=epsilon", "sde=ve"),
        "another sde.*train with that sde",
    ),
    ((), ("parameterisation.data_deviation=0.6",), "another parameterisation"),
]


@pytest.mark.parametrize(("theirs", "ours", "message"), REFUSED)
def test_a_checkpoint_that_does_not_fit_is_refused(
    theirs: tuple[str, ...], ours: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    _, path = trained(tmp_path, *theirs)
    with pytest.raises(ConfigError, match=message):
        started(path, *ours)


@pytest.mark.parametrize(("rate", "warns"), [(2e-3, True), (1e-3, False)])
def test_a_warning_of_a_rate_above_the_checkpoints(
    rate: float, warns: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, path = trained(tmp_path, "optimizer.rate=1e-3")
    started(path, rate=rate)
    assert ("optimizer.rate=0.002 is above 0.001" in caplog.text) is warns
