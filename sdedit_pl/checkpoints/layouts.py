"""What the key maps of published checkpoints share: where each of our tensors comes from, and the strict reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        The state dict, in the order of the network's own, each tensor contiguous.

    Raises:
        ValueError: If tensors are missing, left over or of another shape.
    """
    with torch.device("meta"):
        expected = NETWORKS[name](**arguments).state_dict()
    wanted = [published for ours in expected for published in sources[ours].names]
    missing = [published for published in wanted if published not in tensors]
    surplus = sorted(set(tensors).difference(wanted))
    if missing or surplus:
        raise ValueError(
            f"the tensors are not those of the configured {name!r}: missing {_first(missing)}; not expected "
            f"{_first(surplus)}; check the configuration that goes with the file"
        )
    assert len(wanted) == len(set(wanted))
    state = {}
    for ours, meta in expected.items():
        tensor = sources[ours].make([tensors[published] for published in sources[ours].names])
        tensor = tensor.reshape(tensor.shape + (1,) * (meta.dim() - tensor.dim()))
        if tensor.shape != meta.shape:
            raise ValueError(
                f"{', '.join(sources[ours].names)} should give {ours!r} of shape {tuple(meta.shape)}, got "
                f"{tuple(tensor.shape)}; check the configuration that goes with the file"
            )
        state[ours] = tensor.to(meta.dtype).contiguous()
    return state


def _first(names: Sequence[str], count: int = 3) -> str:
    if not names:
        return "none"
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
