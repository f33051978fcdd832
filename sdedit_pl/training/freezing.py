"""Freezes all but some parts of a trained network, which preserves more of what it has learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from sdedit_pl.networks.layers import LabelEmbedding, ResidualBlock, SelfAttention

PARTS: dict[str, Callable[[nn.Module], Iterator[nn.Parameter]]] = {
    "attention": lambda network: _of(network, SelfAttention),
    "biases": lambda network: (weight for name, weight in network.named_parameters() if name.endswith("bias")),
    "normalisation": lambda network: _of(network, nn.GroupNorm),
    "label": lambda network: _label(network),
}
"""Name -> the parameters of that part of a network: self-attention layers, all biases, scales and offsets of the
normalisations, and the layers that embed the noise level."""


def freeze_all_but(network: nn.Module, parts: Sequence[str]) -> int:
    """Freezes everything outside `parts`, or nothing if it is empty; returns the number of trained parameters.

    Raises ValueError for a name that is unknown, or that the network does not have.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"parts of a network are {', '.join(PARTS)}, got {', '.join(map(repr, unknown))}")
    if parts:
        network.requires_grad_(False)
        for part in parts:
            found = list(PARTS[part](network))
            if not found:
                raise ValueError(f"this network has no {part} to train; give another part")
            for parameter in found:
                parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _of(network: nn.Module, kind: type[nn.Module]) -> Iterator[nn.Parameter]:
    return (weight for part in network.modules() if isinstance(part, kind) for weight in part.parameters())


def _label(network: nn.Module) -> Iterator[nn.Parameter]:
    yield from _of(network, LabelEmbedding)
    for part in network.modules():
        if isinstance(part, ResidualBlock):
            yield from part.label_projection.parameters()
