"""Comparing denoisers and what they compute."""

from __future__ import annotations

import torch
from torch import Tensor

from sdedit_pl.denoiser import Denoiser


def same_model(one: Denoiser, other: Denoiser) -> bool:
    """Whether two denoisers have the same SDE, parameterisation and weights, to the bit.

    Their outputs may differ in the last bit: rounding depends on the alignment of memory, and weights that are mapped
    to files are aligned as the files have them.
    """
    ours, theirs = one.network.state_dict(), other.network.state_dict()
    return (
        (one.sde, one.parameterisation, one.t_max) == (other.sde, other.parameterisation, other.t_max)
        and ours.keys() == theirs.keys()
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute error over the largest absolute value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()
