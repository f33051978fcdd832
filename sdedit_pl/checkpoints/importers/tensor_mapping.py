"""Makes a network's state dict from published tensors, and compares the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdedit_pl.checkpoints.safe_reading import CheckpointError, plain_name, require_stored


@dataclass(frozen=True)
class TensorSource:
    names: tuple[str, ...]
    make: Callable[[Sequence[Tensor]], Tensor]


def same(name: str) -> TensorSource:
    return TensorSource((name,), lambda tensors: tensors[0])


def transposed(name: str) -> TensorSource:
    return TensorSource((name,), lambda tensors: tensors[0].t())


def stacked(sources: Sequence[TensorSource]) -> TensorSource:
    """Sources of one tensor each, concatenated along the output channels."""
    names = tuple(name for source in sources for name in source.names)
    return TensorSource(
        names,
        lambda tensors: torch.cat([source.make([tensor]) for source, tensor in zip(sources, tensors, strict=True)]),
    )


def layers(renamed: Iterable[tuple[str, str]]) -> dict[str, TensorSource]:
    """The sources of `weight` and `bias` of layers, given as (published name, our name)."""
    return {
        f"{ours}.{parameter}": same(f"{theirs}.{parameter}")
        for theirs, ours in renamed
        for parameter in ("weight", "bias")
    }


def attention(theirs: str, ours: str, norm: str, projections: Iterable[str], output: str) -> dict[str, TensorSource]:
    sources = layers([(f"{theirs}.{norm}", f"{ours}.norm"), (f"{theirs}.{output}", f"{ours}.output")])
    for parameter in ("weight", "bias"):
        parts = [same(f"{theirs}.{projection}.{parameter}") for projection in projections]
        sources[f"{ours}.qkv.{parameter}"] = stacked(parts)
    return sources


def attention_levels(image_size: int, levels: int, resolutions: Iterable[int]) -> tuple[int, ...]:
    """Converts the resolutions at which a published network attends to indices of levels."""
    wanted = set(resolutions)
    return tuple(level for level in range(levels) if image_size // 2**level in wanted)


@dataclass(frozen=True)
class Difference:
    """How tensors in a file differ from the `wanted` ones; `misshapen` has a sentence for each wrong shape."""

    missing: Sequence[str]
    surplus: Sequence[str]
    misshapen: Sequence[str]
    wanted: int

    def __len__(self) -> int:
        return len(self.missing) + len(self.surplus) + len(self.misshapen)

    def __str__(self) -> str:
        if self.missing or self.surplus:
            return f"missing {_first(self.missing)}; not expected {_first(self.surplus)}"
        return _first(self.misshapen, 1)


def difference(
    tensors: Mapping[str, Tensor], sources: Mapping[str, TensorSource], expected: Mapping[str, Tensor]
) -> Difference:
    """Compares names and shapes in a file with a network's; `sources` of tensors that the network lacks are ignored."""
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


def assembled_state(
    tensors: Mapping[str, Tensor], sources: Mapping[str, TensorSource], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A network's state dict, each tensor contiguous, from published tensors without a `difference`."""
    return {
        ours: _made(sources[ours], [tensors[published] for published in sources[ours].names], meta.dim()).contiguous()
        for ours, meta in expected.items()
    }


def named_tensors(state: Any, what: str) -> dict[str, Tensor]:
    """A state dict of another program, with names by `plain_name`; raises CheckpointError if it is anything else."""
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{what} must be tensors by name, got {type(state).__name__}; was the file altered?")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{what} must be tensors by name, got {type(tensor).__name__} under {name!r}")
    require_stored(state, what)
    return {plain_name(name): tensor for name, tensor in state.items()}


def _made(source: TensorSource, tensors: Sequence[Tensor], axes: int) -> Tensor:
    """One of our tensors, with trailing axes of length one up to `axes`."""
    tensor = source.make(tensors)
    return tensor.reshape(tensor.shape + (1,) * (axes - tensor.dim()))


def _shape_made(source: TensorSource, tensors: Sequence[Tensor], axes: int) -> tuple[int, ...] | str:
    """The shape that a source would give, computed on "meta"; a list of the shapes as text if they do not fit."""
    try:
        return tuple(_made(source, [tensor.to("meta") for tensor in tensors], axes).shape)
    except (RuntimeError, IndexError):
        return " and ".join(str(tuple(tensor.shape)) for tensor in tensors)


def _first(names: Sequence[str], count: int = 3) -> str:
    if not names:
        return "none"
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
