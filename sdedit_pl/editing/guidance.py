"""Guidance: a model's estimates, moved away from those of a weaker version of itself.

    D_guided = D + (w - 1) (D - D_weak)

w = 1 is the model itself. In autoguidance the weaker version was trained for a shorter time, and its errors are larger
versions of the model's. In classifier-free guidance it is the model without the image's label. The score and the x_0
estimate move alike, because both are affine in the network's output, with the same coefficients for both models.

Source: Karras et al., "Guiding a Diffusion Model with a Bad Version of Itself", NeurIPS 2024, equation 3 (with its w);
Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), equation 6 (its w is ours less 1); Kynkaanniemi et al.,
"Applying Guidance in a Limited Interval", NeurIPS 2024 (the range of noise levels).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdedit_pl.denoiser import Denoiser
from sdedit_pl.typing import Images, Times, over_images


class Guided(nn.Module):
    """Two networks as one; both take the same label of the noise level.

    Args:
        network: the strong network; its learned variance is not guided.
        weak: the weak network; None evaluates `network` without conditions, in the same batch, if there are conditions.
        guidance: w.
        label_range: lowest and highest label of the noise level that is guided; None for all.
        conditioned: whether the weak network takes the conditions as well.
    """

    evaluations = 2

    def __init__(
        self,
        network: nn.Module,
        weak: nn.Module | None,
        guidance: float,
        label_range: tuple[float, float] | None,
        *,
        conditioned: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.weak = weak
        self.guidance = guidance
        self.label_range = label_range
        self.conditioned = conditioned
        self.size_divisor = getattr(network, "size_divisor", 1)

    def at_label(self, label: float) -> nn.Module:
        low, high = self.label_range or (-math.inf, math.inf)
        return self if low <= label <= high else self.network

    def compile(self, *args: Any, **kwargs: Any) -> None:
        for network in self.children():
            network.compile(*args, **kwargs)

    def forward(
        self, x: Images, label: Times, *conditions: Float[Tensor, "B conditions"]
    ) -> Float[Tensor, "B outputs H W"]:
        """The guided output, in float32 or wider."""
        if self.weak is None and not conditions:
            return _precise(self.network(x, label, *conditions))
        strength = torch.full_like(label, self.guidance - 1)
        if self.label_range is not None:
            strength = strength * ((self.label_range[0] <= label) & (label <= self.label_range[1]))
        if self.weak is None:
            pairs = ((x, x), (label, label), *((part, torch.zeros_like(part)) for part in conditions))
            output, weak = self.network(*map(torch.cat, pairs)).chunk(2)
        else:
            # Cloned, because under CUDA graphs the next call may return the same memory.
            output = self.network(x, label, *conditions).clone()
            weak = self.weak(x, label, *(conditions if self.conditioned else ()))
        own, rest = _precise(output).tensor_split([x.shape[1]], dim=1)
        moved = own + over_images(strength).to(own) * (own - weak[:, : x.shape[1]].to(own))
        return torch.cat([moved, rest], dim=1)


def guided(
    denoiser: Denoiser, weak: Denoiser | None, guidance: float, levels: tuple[float, float] | None = None
) -> Denoiser:
    """A denoiser, guided by a weaker one; with a guidance of 1 the denoiser itself.

    Raises ValueError if a value is out of range, or the two networks' outputs differ in meaning.

    Args:
        weak: None for the denoiser without labels (classifier-free guidance), which guides labelled images only.
        guidance: w; 1 is none, and values from 0 to 1 interpolate between the two models.
        levels: lowest and highest noise level at which it applies; outside, a step evaluates one network.
    """
    if not 0 <= guidance < math.inf:
        raise ValueError(f"guidance must be at least 0, got {guidance}; 1 is none, 1.5 to 3 are usual")
    if levels is not None and not 0 <= levels[0] < levels[1]:
        raise ValueError(f"guidance_range needs noise levels 0 <= lowest < highest, got {levels[0]:g} to {levels[1]:g}")
    if guidance == 1:
        return denoiser
    if weak is None and (denoiser.labels.required or not denoiser.labels.size):
        raise ValueError(
            "guidance by the model itself needs one that was trained with labels and without; give a weaker model"
        )
    weaker = weak or denoiser
    for name, own, other in (
        ("SDE", denoiser.sde, weaker.sde),
        (
            "parameterisation",
            denoiser.parameterisation.without_variance(),
            weaker.parameterisation.without_variance(),
        ),
        ("noise", denoiser.noise, weaker.noise),
        ("set of labels", denoiser.labels if weaker.labels.size else weaker.labels, weaker.labels),
    ):
        if own != other:
            raise ValueError(
                f"the guiding model has a different {name}, {other} instead of {own}; guide a model by an "
                "earlier average of its own training"
            )
    label_range = None if levels is None else _label_range(denoiser, levels)
    conditioned = bool(weaker.labels.size)
    network = Guided(denoiser.network, weak and weak.network, guidance, label_range, conditioned=conditioned)
    return denoiser.changed(network=network.train(denoiser.training), t_max=min(denoiser.t_max, weaker.t_max))


def unguided(denoiser: Denoiser) -> Denoiser:
    """The model without its guidance by `guided`."""
    network = denoiser.network
    return denoiser.changed(network=network.network) if isinstance(network, Guided) else denoiser


def _precise(output: Float[Tensor, "B outputs H W"]) -> Float[Tensor, "B outputs H W"]:
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _label_range(denoiser: Denoiser, levels: tuple[float, float]) -> tuple[float, float]:
    times = denoiser.sde.time_at_noise_level(torch.tensor(levels, dtype=torch.float64).clamp(min=1e-6))
    low, high = sorted(denoiser.parameterisation.network_label(denoiser.sde, times).tolist())
    return low, high
