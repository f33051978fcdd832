"""Published weights: they load strictly, every tensor once, and give the published outputs."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdedit_pl.checkpoints import ddim, score_sde
from sdedit_pl.networks import NETWORKS
from sdedit_pl.typing import over_images

TOLERANCE = 1e-5
SCORE_SDE = ["ncsnpp_ve_cifar10", "ncsnpp_ve_lsun", "ncsnpp_vp_ddpmpp", "ddpm_vp"]


class Case(NamedTuple):
    layout: ModuleType
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    io: dict[str, Tensor]


def load_case(folder: Path) -> Case:
    config = json.loads((folder / "config.json").read_text())
    io = {name: torch.from_numpy(array) for name, array in np.load(folder / "io.npz").items()}
    if folder.name == "sdedit_ddpm":
        return Case(ddim, config, torch.load(folder / "model.ckpt", weights_only=True), io)
    if folder.name == "score_sde_checkpoint":
        return Case(score_sde, config, torch.load(folder / "checkpoint_1.pth", weights_only=True), io)
    return Case(score_sde, config, load_file(folder / "model.safetensors"), io)


def relative_error(case: Case, tensors: dict[str, Tensor], expected: str = "y") -> float:
    """Largest absolute error over the largest absolute value, of the network that `tensors` load into."""
    name, arguments = case.layout.network_arguments(case.config)
    network = NETWORKS[name](**arguments).eval()
    network.load_state_dict(case.layout.network_state(tensors, name, arguments), strict=True)
    x, time, y = case.io["x"], case.io["time_cond"], case.io[expected]
    with torch.no_grad():
        if case.config.get("training", {}).get("sde") == "vesde":
            # These take images in [0, 1] and sigma; their logarithm, shift and division live outside our network.
            output = network(2 * x - 1, time.log()) / over_images(time)
        else:
            output = network(x, time)
    return ((output - y).abs().max() / y.abs().max()).item()


@pytest.mark.parametrize("name", [*SCORE_SDE, "sdedit_ddpm"])
def test_published_outputs_are_reproduced(reference, name):
    case = load_case(reference / name)
    error = relative_error(case, case.tensors)
    assert error < TOLERANCE, f"{name}: relative error {error:.2e}"


def test_raw_and_averaged_weights_of_a_trainer_checkpoint(reference):
    case = load_case(reference / "score_sde_checkpoint")
    raw, shadow = case.tensors["model"], case.tensors["ema"]["shadow_params"]
    averaged = score_sde.averaged_state(raw, shadow)
    for tensors, expected in ((raw, "y_raw"), (averaged, "y_ema")):
        error = relative_error(case, tensors, expected)
        assert error < TOLERANCE, f"{expected}: relative error {error:.2e}"
    assert relative_error(case, raw, "y_ema") > 100 * TOLERANCE
    with pytest.raises(ValueError, match="155 averaged tensors do not match its 156 trained ones"):
        score_sde.averaged_state(raw, shadow[:-1])


@pytest.mark.parametrize("name", [*SCORE_SDE, "sdedit_ddpm"])
def test_every_number_is_used_once_and_the_input_left_alone(reference, name):
    case = load_case(reference / name)
    before = {key: tensor.clone() for key, tensor in case.tensors.items()}
    state = case.layout.network_state(case.tensors, *case.layout.network_arguments(case.config))
    published = torch.cat([tensor.flatten().float() for key, tensor in before.items() if key != "sigmas"])
    ours = torch.cat([tensor.flatten() for tensor in state.values()])
    assert torch.equal(published.sort().values, ours.sort().values)
    assert all(torch.equal(case.tensors[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("name", ["ncsnpp_ve_lsun", "sdedit_ddpm"])
def test_data_parallel_names_are_understood(reference, name):
    case = load_case(reference / name)
    wrapped = {f"module.{key}": tensor for key, tensor in case.tensors.items()}
    assert relative_error(case, wrapped) < TOLERANCE


@pytest.mark.parametrize("name", ["ncsnpp_ve_lsun", "ddpm_vp", "sdedit_ddpm"])
def test_missing_surplus_and_misshapen_tensors_are_named(reference, name):
    case = load_case(reference / name)
    network, arguments = case.layout.network_arguments(case.config)
    key = sorted(key for key in case.tensors if key.endswith(("Conv_0.weight", "conv1.weight")))[0]
    rest = {other: tensor for other, tensor in case.tensors.items() if other != key}
    with pytest.raises(ValueError, match=f"missing {key}; not expected none"):
        case.layout.network_state(rest, network, arguments)
    with pytest.raises(ValueError, match=r"missing none; not expected extra\.weight"):
        case.layout.network_state({**case.tensors, "extra.weight": torch.zeros(1)}, network, arguments)
    with pytest.raises(ValueError, match=rf"{key} should give '.*' of shape .*, got \(1, 1, 3, 3\)"):
        case.layout.network_state({**rest, key: torch.zeros(1, 1, 3, 3)}, network, arguments)


def test_the_configuration_of_another_network_is_refused(reference):
    case = load_case(reference / "ncsnpp_ve_lsun")
    other = load_case(reference / "ncsnpp_ve_cifar10")
    with pytest.raises(
        ValueError, match=r"not those of the configured 'ncsnpp': missing .* and \d+ more; not expected"
    ):
        score_sde.network_state(case.tensors, *score_sde.network_arguments(other.config))


@pytest.mark.parametrize("block", ["biggan", "ddpm"])
def test_the_published_order_is_known_for_every_option(reference, block):
    """Whatever the options, each of our tensors has a published source: nothing is looked up in vain."""
    config = load_case(reference / "ncsnpp_ve_lsun").config
    for progressive, progressive_input, combine, fir, learned, embedding in product(
        ("none", "output_skip", "residual"),
        ("none", "input_skip", "residual"),
        ("sum", "cat"),
        (True, False),
        (True, False),
        ("fourier", "positional"),
    ):
        config["model"].update(
            resblock_type=block,
            progressive=progressive,
            progressive_input=progressive_input,
            progressive_combine=combine,
            fir=fir,
            resamp_with_conv=learned,
            embedding_type=embedding,
        )
        with pytest.raises(ValueError, match="missing all_modules"):
            score_sde.network_state({}, *score_sde.network_arguments(config))


def test_attention_is_placed_by_resolution(reference):
    config = load_case(reference / "ncsnpp_ve_lsun").config
    config["data"]["image_size"] = 32
    assert score_sde.network_arguments(config)[1]["attention_levels"] == (2,)


@pytest.mark.parametrize(
    ("section", "option", "value", "message"),
    [
        ("model", "normalization", "InstanceNorm++", "model.normalization must be 'groupnorm'"),
        ("model", "nonlinearity", "elu", "model.nonlinearity must be 'swish'"),
        ("model", "conditional", False, "conditional=false is not supported"),
        ("model", "name", "ncsnv2_64", "model.name must be 'ncsnpp' or 'ddpm'"),
    ],
)
def test_configurations_that_we_cannot_build_are_refused(reference, section, option, value, message):
    config = load_case(reference / "ncsnpp_ve_cifar10").config
    config[section][option] = value
    with pytest.raises(ValueError, match=message):
        score_sde.network_arguments(config)


@pytest.mark.parametrize("name", ["ncsnpp_ve_cifar10", "sdedit_ddpm"])
def test_an_incomplete_configuration_is_refused(reference, name):
    case = load_case(reference / name)
    del case.config["data"]["image_size"]
    with pytest.raises(ValueError, match="the published configuration lacks 'image_size'"):
        case.layout.network_arguments(case.config)


def test_unknown_and_bayesian_types_of_ddim(reference):
    case = load_case(reference / "sdedit_ddpm")
    case.config["model"]["type"] = "bayesian"
    assert relative_error(case, {**case.tensors, "logvar": torch.zeros(1000)}) < TOLERANCE
    case.config["model"]["type"] = "deep"
    with pytest.raises(ValueError, match=r"model\.type must be 'simple' or 'bayesian' to be read, got 'deep'"):
        ddim.network_arguments(case.config)
