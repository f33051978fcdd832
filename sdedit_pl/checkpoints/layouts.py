"""What the key maps of published checkpoints share: where each of our tensors comes from, and the strict reading."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sdedit_pl.build.components import build_component
from sdedit_pl.checkpoints.formats import CheckpointError, Mapped
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.networks import NETWORKS


@dataclass(frozen=True)
class Source:
    """The published tensors that one of ours is made of, by name, and how."""

    names: tuple[str, ...]
    make: Callable[[Sequence[Tensor]], Tensor]


def same(name: str) -> Source:
    """The tensor as it is, but for trailing axes of length one, which the reader adds."""
    return Source((name,), lambda tensors: tensors[0])


def transposed(name: str) -> Source:
    """A matrix (in, out) as (out, in)."""
    return Source((name,), lambda tensors: tensors[0].t())


def stacked(sources: Sequence[Source]) -> Source:
    """Several sources of one tensor each, one after the other along the output channels."""
    names = tuple(name for source in sources for name in source.names)
    return Source(
        names,
        lambda tensors: torch.cat([source.make([tensor]) for source, tensor in zip(sources, tensors, strict=True)]),
    )


def attention_levels(image_size: int, levels: int, resolutions: Iterable[int]) -> tuple[int, ...]:
    """Translates resolutions at which a published network attends to indices of levels."""
    wanted = set(resolutions)
    return tuple(level for level in range(levels) if image_size // 2**level in wanted)


@dataclass(frozen=True)
class Difference:
    """How tensors in a file differ from those that a network needs.

    Args:
        missing: names that are not in the file.
        surplus: names in the file that the network has no place for.
        misshapen: sentences about tensors of another shape.
        wanted: how many tensors the network is made of.
    """

    missing: Sequence[str]
    surplus: Sequence[str]
    misshapen: Sequence[str]
    wanted: int

    def __len__(self) -> int:
        """How many tensors differ."""
        return len(self.missing) + len(self.surplus) + len(self.misshapen)

    def __str__(self) -> str:
        """The first that differ, in words."""
        if self.missing or self.surplus:
            return f"missing {_first(self.missing)}; not expected {_first(self.surplus)}"
        return _first(self.misshapen, 1)


def difference(
    tensors: Mapping[str, Tensor], sources: Mapping[str, Source], name: str, arguments: Mapping[str, Any]
) -> Difference:
    """Compares the names and shapes in a file with those of a network; takes what `read_network` takes."""
    expected = _expected(name, arguments)
    wanted = [published for ours in expected for published in sources[ours].names]
    assert len(wanted) == len(set(wanted))
    missing = [published for published in wanted if published not in tensors]
    misshapen = []
    for ours, meta in expected.items():
        names = sources[ours].names
        if set(names) <= tensors.keys():
            shape = _shape_made(sources[ours], [tensors[published] for published in names], meta.dim())
            if shape != tuple(meta.shape):
                misshapen.append(f"{', '.join(names)} should give {ours!r} of shape {tuple(meta.shape)}, got {shape}")
    return Difference(missing, sorted(set(tensors).difference(wanted)), misshapen, len(wanted))


def read_network(
    tensors: Mapping[str, Tensor], sources: Mapping[str, Source], name: str, arguments: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Makes a network's state dict, using every published tensor exactly once.

    Args:
        tensors: The published tensors by name.
        sources: Where each of our tensors would come from; those that the network lacks (a shortcut where the channels
            do not change) are left out.
        name: The network's name in `NETWORKS`.
        arguments: Its constructor's arguments.

    Returns:
        The state dict, in the order of the network's own, each tensor contiguous and of the type in the file.

    Raises:
        CheckpointError: If tensors are missing, left over or of another shape.
    """
    found = difference(tensors, sources, name, arguments)
    if found:
        raise CheckpointError(
            f"the tensors are not those of the configured {name!r}: {found}; check the configuration that goes with "
            "the file"
        )
    return {
        ours: _made(sources[ours], [tensors[published] for published in sources[ours].names], meta.dim()).contiguous()
        for ours, meta in _expected(name, arguments).items()
    }


def network_arguments(model: ModelConfig) -> tuple[str, dict[str, Any]]:
    """The name in `NETWORKS` and the constructor's arguments of a model's network, every one present."""
    channels = model.image.channels
    outputs = build_component(model.parameterisation).output_channels(channels)
    return model.network.name, {"image_channels": channels, "output_channels": outputs, **model.network.values}


def mapped(state: Iterable[str], sources: Mapping[str, Source], ignored: Mapping[str, str]) -> Mapped:
    """The report of what `read_network` has used.

    Args:
        state: our names.
        sources: where each came from.
        ignored: names in the file that are not needed, with the reason.
    """
    return Mapped({ours: sources[ours].names for ours in state}, dict(ignored))


def named_tensors(state: Any, what: str) -> dict[str, Tensor]:
    """A state dict of another program, its names without the `module.` of data parallelism.

    Raises:
        CheckpointError: If it is anything else than tensors by name.
    """
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{what} must be tensors by name, got {type(state).__name__}; the file was altered?")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{what} must be tensors by name, got {type(tensor).__name__} under {name!r}")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _expected(name: str, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of a network, without memory."""
    return _state_of(json.dumps([name, arguments]))


@lru_cache(maxsize=64)
def _state_of(network: str) -> dict[str, Tensor]:
    name, arguments = json.loads(network)
    with torch.device("meta"):
        return NETWORKS[name](**arguments).state_dict()


def _made(source: Source, tensors: Sequence[Tensor], axes: int) -> Tensor:
    """One of our tensors, with trailing axes of length one up to `axes`."""
    tensor = source.make(tensors)
    return tensor.reshape(tensor.shape + (1,) * (axes - tensor.dim()))


def _shape_made(source: Source, tensors: Sequence[Tensor], axes: int) -> tuple[int, ...] | str:
    """The shape that a source would give, found without touching a number; in words where it would give none."""
    try:
        return tuple(_made(source, [tensor.to("meta") for tensor in tensors], axes).shape)
    except (RuntimeError, IndexError):
        return " and ".join(str(tuple(tensor.shape)) for tensor in tensors)


def _first(names: Sequence[str], count: int = 3) -> str:
    if not names:
        return "none"
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
