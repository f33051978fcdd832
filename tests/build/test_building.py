"""From configurations to objects."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
import torch
from support.tiny import tiny_config

from sdedit_pl.build.component import build_component
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_data, build_module, resolve_arithmetic
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.configuration.resolving import resolve, resolve_component
from sdedit_pl.configuration.schema import Family
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.losses import TIME_SAMPLERS, WEIGHTINGS
from sdedit_pl.machine import this_machine
from sdedit_pl.networks import NETWORKS
from sdedit_pl.parameterisations import PARAMETERISATIONS
from sdedit_pl.sde import SDES
from sdedit_pl.solvers import DDIM, SOLVERS
from sdedit_pl.training.optimizers import OPTIMIZERS, SCHEDULES

SMALL = ("network.channels=8", "network.channel_multipliers=[1,2]", "network.blocks_per_level=1")


def config(*arguments: str) -> TrainingConfig:
    return tiny_config("data.path=unused", *arguments)


@pytest.mark.parametrize(
    ("network", "parameterisation", "sde"),
    [
        *product(NETWORKS, PARAMETERISATIONS, ["vp"]),
        *product(["ncsnpp"], PARAMETERISATIONS, sorted(SDES.keys() - {"vp"})),
    ],
)
def test_every_pair_of_parts_denoises(network: str, parameterisation: str, sde: str) -> None:
    arguments = (f"network={network}", *SMALL, f"parameterisation={parameterisation}", f"sde={sde}")
    denoiser = build_denoiser(config(*arguments).model)
    assert type(denoiser.network) is NETWORKS[network]
    assert type(denoiser.sde) is SDES[sde]
    assert type(denoiser.parameterisation) is PARAMETERISATIONS[parameterisation]
    estimate = denoiser(torch.zeros(2, 3, 8, 8), torch.tensor([0.3, 0.9]))
    assert estimate.shape == (2, 3, 8, 8) and estimate.isfinite().all()


def test_arguments_arrive() -> None:
    given = (
        "sde=ve",
        "sde.sigma_max=348",
        "parameterisation.data_deviation=0.4",
        *SMALL,
        "network.attention_levels=[1]",
    )
    denoiser = build_denoiser(config(*given).model)
    assert denoiser.sde == SDES["ve"](sigma_max=348.0)
    assert denoiser.parameterisation == PARAMETERISATIONS["edm"](data_deviation=0.4)
    assert denoiser.network.shape.channel_multipliers == (1, 2)
    assert denoiser.network.shape.attention_levels == (1,)


def test_a_model_survives_the_json_of_a_checkpoint() -> None:
    model = config(*SMALL, "network.fir_kernel=[1,2,1]").model
    kept = json.loads(json.dumps(model.as_data()))
    assert set(kept) == {"image", "sde", "network", "parameterisation", "t_max", "augmentation_labels"}
    assert ModelConfig.from_data(kept) == model
    first, second = (build_denoiser(each).network for each in (model, ModelConfig.from_data(kept)))
    assert first.shape == second.shape and first.state_dict().keys() == second.state_dict().keys()


def test_a_model_of_an_older_version_gets_the_defaults_of_new_keys() -> None:
    model = config(*SMALL).model.as_data()
    del model["network"]["init_scale"], model["sde"]["beta_max"], model["t_max"]
    assert ModelConfig.from_data(model) == config(*SMALL).model


def test_grey_images_are_of_one_channel() -> None:
    denoiser = build_denoiser(config(*SMALL, "data.channels=1").model)
    assert denoiser(torch.zeros(1, 1, 8, 8), torch.tensor([0.5])).shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("data.size=30", "network.channel_multipliers=[1,1,1]"), "multiple of 4 .* got 30; the nearest are 28 and 32"),
        (("data.size=3", "network.patch=4"), "multiple of 4 .* got 3; the nearest are 4 and 4"),
        (("data.size=0",), "data: size must be at least 1 pixel, got 0"),
        (("network.attention_levels=[4]",), r"network: attention_levels .* got \[4\]"),
        (("sde.beta_max=0",), "sde: .*beta_max=0"),
        (("parameterisation.data_deviation=0",), "parameterisation: data_deviation must be positive"),
    ],
)
def test_what_cannot_be_built_is_refused_by_section(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_denoiser(config(*arguments).model)


@pytest.mark.parametrize(
    ("section", "table"),
    [("weighting", WEIGHTINGS), ("times", TIME_SAMPLERS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)],
)
def test_every_name_of_a_family_builds_with_its_defaults(section: str, table: dict[str, type]) -> None:
    for name, cls in table.items():
        # The tiny configuration has a rate of its own.
        given = [f"{section}={name}", *(["optimizer.rate=2e-4"] if section == "optimizer" else [])]
        assert build_component(getattr(config(*given), section)) == cls()


def test_a_configuration_that_says_nothing_trains_as_edm_does() -> None:
    config = resolve(TrainingConfig, {"data": {"path": "unused", "size": 64}}).as_data()
    named = {section: config[section]["name"] for section in ("parameterisation", "weighting", "times", "sde")}
    assert named == {"parameterisation": "edm", "weighting": "edm", "times": "log_normal", "sde": "vp"}
    assert (config["times"]["mean"], config["times"]["deviation"]) == (-1.2, 1.2)


def test_supplied_arguments_are_the_programs() -> None:
    component = resolve_component("solver", {"name": "ddim", "eta": 0.3}, Family(SOLVERS, "ancestral"))
    assert build_component(component) == DDIM(eta=0.3)


def test_data_takes_the_keys_of_its_source_and_those_of_all_sources(tmp_path: Any) -> None:
    given = (f"data.path={tmp_path}", "data.size=8", "data.val_fraction=0.2", "data.batch_size=3", "data.flip=true")
    data = build_data(config(*given, "seed=5"))
    assert (data.batch_size, data.flip, data.seed, data.workers) == (3, True, 5, 0)
    assert data.source.format.size == 8 and data.source.val_fraction == 0.2
    with pytest.raises(ConfigError, match="data: batch_size must be at least 1, got 0"):
        build_data(config("data.batch_size=0"))


def test_a_module_holds_its_resolved_configuration_and_channels_last_weights() -> None:
    given = config(*SMALL, "channels_last=true", "reduction=sum", "seed=3")
    settings = resolve_arithmetic(given, this_machine("cpu"))
    module = build_module(given, build_denoiser(given.model))
    assert module.reduction == "sum" and module.seed == 3 and module.config == settings.as_data()
    weight = module.denoiser.network.stem.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
