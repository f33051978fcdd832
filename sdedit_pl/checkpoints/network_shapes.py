"""The tensors that a model's network needs, found without memory for weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sdedit_pl.build import build_component, resolve_model
from sdedit_pl.networks import NETWORKS


def network_arguments(model: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name in `NETWORKS` of a model's network, and its constructor's arguments.

    Raises:
        ConfigError: on unknown names or keys.
    """
    resolved, channels = resolve_model(model), model["image"]["channels"]
    section = resolved["network"]
    outputs = build_component(resolved, "parameterisation").output_channels(channels)
    arguments = {key: value for key, value in section.items() if key != "name"}
    return section["name"], {"image_channels": channels, "output_channels": outputs, **arguments}


def state_shapes(name: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a network on the device "meta"; not to be changed."""
    return _state_shapes(json.dumps([name, arguments]))


@contextmanager
def without_weights() -> Iterator[None]:
    """Within, modules get parameters on the device "meta"; their buffers are real.

    A whole network built on "meta" would lack the buffers that are not in its state dict (FIR kernels, frequencies).
    """
    builder = threading.get_ident()

    def empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or threading.get_ident() != builder:
            return None
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # torch's annotation omits that the hook's result replaces the parameter.
    hook = register_module_parameter_registration_hook(empty)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        hook.remove()


@lru_cache(maxsize=64)
def _state_shapes(network: str) -> dict[str, Tensor]:
    name, arguments = json.loads(network)
    with torch.device("meta"):
        return NETWORKS[name](**arguments).state_dict()
