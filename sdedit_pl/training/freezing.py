"""Training a part of a trained network and leaving the rest as it is.

With few images, moving fewer weights forgets less of what the others know.
"""

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
"""Name -> the parameters of a network that belong to it: its self-attentions; everything that is added; the scales and
offsets of its normalisations; what the noise level goes through."""


def freeze_all_but(network: nn.Module, parts: Sequence[str]) -> int:
    """Leaves a gradient to the parameters of some parts alone.

    Args:
        network: changed in place.
        parts: names in `PARTS`; none of them leaves everything to be trained.

    Returns:
        How many numbers are trained.

    Raises:
        ValueError: an unknown name, or parts that this network has not.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"parts of a network are {', '.join(PARTS)}, got {', '.join(map(repr, unknown))}")
    if parts:
        network.requires_grad_(False)
        for part in parts:
            found = list(PARTS[part](network))
            if not found:
                raise ValueError(f"this network has no {part} to train; take another part, or network.attention_levels")
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
