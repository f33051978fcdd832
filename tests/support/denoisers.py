"""Making denoisers, and comparing them and what they compute."""

from __future__ import annotations

import torch
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints.importers.checkpoint_format import Imported
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser


def denoiser_of(imported: Imported) -> Denoiser:
    """The denoiser of an imported checkpoint."""
    denoiser = build_denoiser(imported.model)
    denoiser.network.load_state_dict(imported.weights)
    return denoiser.eval().requires_grad_(False)


def random_denoiser(model: ModelConfig, deviation: float = 0.05) -> Denoiser:
    """A denoiser none of whose weights is zero: random numbers of `deviation` are added to its initial ones."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        denoiser = build_denoiser(model)
        for weight in denoiser.parameters():
            weight.add_(deviation * torch.randn_like(weight))
    return denoiser.eval().requires_grad_(False)


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
