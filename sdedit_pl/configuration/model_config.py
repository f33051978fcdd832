"""The description of a denoiser that a checkpoint carries beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdedit_pl.conditions import CONDITIONS, Condition
from sdedit_pl.configuration.resolving import as_data, resolve
from sdedit_pl.configuration.schema import Component, ConfigError, family, require_at_least
from sdedit_pl.data.image_format import ImageShape
from sdedit_pl.networks import NETWORKS
from sdedit_pl.networks.unet import UNet
from sdedit_pl.noise import NOISES, Distribution
from sdedit_pl.parameterisations import PARAMETERISATIONS, Parameterisation
from sdedit_pl.sde import SDE, SDES
from sdedit_pl.training.augmentation import Augmentation

SUPPLIED_TO_NETWORK = ("output_channels", "image_channels", "augmentation_labels", "condition_labels")
"""Constructor arguments of a network that follow from the rest of a configuration."""


@dataclass(frozen=True)
class ModelConfig:
    """A denoiser for images of one shape.

    Args:
        t_max: latest time that it is trained for.
        augmentation_labels: number of values that condition the network on augmentation; 0 for none.
    """

    image: ImageShape
    t_max: float = 1.0
    augmentation_labels: int = 0
    sde: Component[SDE] = family(SDES, "vp")
    network: Component[UNet] = family(NETWORKS, "ncsnpp", supplied=SUPPLIED_TO_NETWORK)
    parameterisation: Component[Parameterisation] = family(PARAMETERISATIONS, "edm")
    condition: Component[Condition] = family(CONDITIONS, "class")
    noise: Component[Distribution] = family(NOISES, "gaussian")

    def __post_init__(self) -> None:
        require_at_least(self, augmentation_labels=0)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ModelConfig:
        """A checkpoint's description, with defaults; raises ConfigError for unknown keys or missing main sections."""
        for section in ("image", "sde", "network", "parameterisation"):
            if section not in data:
                raise ConfigError(f"the model's description lacks {section}")
        return resolve(cls, data)

    def as_data(self) -> dict[str, Any]:
        """Plain data, as checkpoints keep it, without a format, condition or noise that is the default."""
        data = as_data(self)
        if self.image.format is None:
            del data["image"]["format"]
        defaults = [part.section for part in (self.condition, self.noise) if part.is_default]
        return {key: value for key, value in data.items() if key not in defaults}


def model_of_run(data: Mapping[str, Any]) -> ModelConfig:
    """The denoiser in a run's configuration, also of an earlier version; raises ConfigError or KeyError if invalid."""
    return ModelConfig.from_data(
        {
            "image": {key: data["data"].get(key) for key in ("size", "channels", "format")},
            "t_max": data.get("times", {}).get("t_max", 1.0),
            "augmentation_labels": Augmentation(**data.get("augment", {})).labels,
            **{section: data.get(section, {}) for section in ("condition", "noise")},
            **{section: data[section] for section in ("sde", "network", "parameterisation")},
        }
    )
