"""The tensors that a model's network needs, in bounded memory and time even if its configuration is hostile."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from sdedit_pl.build.component import build_component
from sdedit_pl.build.model import supplied_to_network
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.configuration import Component, ConfigError
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.networks.unet import UNet

MOST_TENSORS = 5_000
"""Maximum number of tensors in a network; the largest published ones have about a thousand."""
LARGEST_COUNT = 2**20
"""Largest integer in a model's configuration: channels, blocks, steps, pixels."""
LONGEST_LIST = 1000
"""Maximum number of entries of a list in a model's configuration."""
MOST_BUFFERED = 2**26
"""Maximum number of values besides parameters that building a network may compute, such as its FIR kernels."""


def check_numbers(value: Any, path: str = "") -> None:
    """Raises CheckpointError for a number that is not finite, an integer above `LARGEST_COUNT`, or too long a list."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            check_numbers(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        if len(value) > LONGEST_LIST:
            raise CheckpointError(f"{path} has {len(value):,} entries, more than any model has ({LONGEST_LIST:,})")
        for entry in value:
            check_numbers(entry, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise CheckpointError(f"{path} must be a finite number, got {value}")
    elif isinstance(value, int) and abs(value) > LARGEST_COUNT:
        raise CheckpointError(f"{path} is {value:,}, more than any model has ({LARGEST_COUNT:,})")


def state_shapes(model: ModelConfig) -> dict[str, Tensor]:
    """The state dict of a model's network on the device "meta", cached: do not change it. Raises CheckpointError."""
    check_numbers(model.as_data())
    return _state_shapes(model.network, **supplied_to_network(model))


@lru_cache(maxsize=64)
def _state_shapes(network: Component[UNet], **supplied: int) -> dict[str, Tensor]:
    with without_weights():
        try:
            return build_component(network, **supplied).state_dict()
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        except (RuntimeError, OverflowError) as error:
            raise CheckpointError(f"the configured network has tensors of an impossible size: {error}") from error


def shape_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """The first difference between two state dicts in names or shapes; empty without one."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        return f"missing {missing[:3] or 'none'}, not expected {extra[:3] or 'none'}"
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            return f"{name} must be {tuple(tensor.shape)}, is {tuple(found[name].shape)}"
    return ""


@contextmanager
def without_weights() -> Iterator[None]:
    """A context in which this thread's new modules have parameters on the device "meta" and real buffers.

    Building on "meta" would lose buffers outside a state dict (FIR kernels). The global generator does not advance.
    Raises CheckpointError for more than `MOST_TENSORS` parameters or `MOST_BUFFERED` other numbers.
    """
    builder, count = threading.get_ident(), 0

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        nonlocal count
        if parameter is None or threading.get_ident() != builder:
            return None
        count += 1
        if count > MOST_TENSORS:
            raise CheckpointError(f"the network has more than {MOST_TENSORS:,} tensors, which no model needs")
        return nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    # torch's annotation omits that the hook's result replaces the parameter.
    hook = register_module_parameter_registration_hook(on_meta)  # pyright: ignore[reportArgumentType]
    try:
        with torch.random.fork_rng(devices=[]), _EmptyOnMeta():
            yield
    finally:
        hook.remove()


class _EmptyOnMeta(TorchFunctionMode):
    """`torch.empty`, with which torch's layers allocate their parameters, allocates nothing."""

    numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **({**kwargs, "device": "meta"} if func is torch.empty else kwargs))
        if isinstance(made, Tensor) and not made.is_meta:
            self.numbers += made.numel()
            if self.numbers > MOST_BUFFERED:  # even if it is a view: a copy would take the memory
                raise CheckpointError(
                    f"building the network computes more than {MOST_BUFFERED:,} numbers besides its parameters, which "
                    "no model needs"
                )
        return made
