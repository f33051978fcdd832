"""Forward chains of the ancestral and reverse-diffusion solvers: the exact one and two published ones.

- exact: the SDE's own transition, for steps of any length.
- paper: the steps of SDEdit's algorithms. Only the VP algorithm differs from the exact transition; VE equals it, and
  for sub-VP and beta tables, for which the paper has no algorithm, the exact one is used.
- table: the discrete chains of score_sde, with N = 1 / (t - s) levels on [0, 1]: the numbers of the published table if
  there is one, otherwise Euler-Maruyama with dt = 1 / N.

Source: Meng et al., "SDEdit", ICLR 2022, Algorithms 2 to 5; Song et al. 2021, appendix E (reverse diffusion sampling).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from sdedit_pl.sde import SDE, VESDE, VPSDE, DiscreteVPSDE, ForwardStep

Chain: TypeAlias = Callable[[SDE, Float[Tensor, "*times"], Float[Tensor, "*times"]], ForwardStep]
"""Maps (sde, t, s) to the forward step from s to t."""


def chain_named(name: str) -> Chain:
    if name not in CHAINS:
        raise ValueError(f"the chain that a solver reverses is one of {', '.join(CHAINS)}, got {name!r}")
    return CHAINS[name]


def require_possible_steps(chain: str, sde: SDE, times: Float[Tensor, "levels"]) -> None:
    """Raises ValueError for a step between the descending `times` so long that its beta would exceed 1."""
    scale = chain_named(chain)(sde, times[:-1], times[1:]).scale
    impossible = (~(scale > 0)).nonzero().flatten().tolist()
    if impossible:
        longest = max(times[index].item() - times[index + 1].item() for index in impossible)
        raise ValueError(
            f"a step of {longest:.3g} is too long for the {chain!r} chain of this SDE (its beta would exceed 1); use "
            "more steps, or a solver on the exact chain, whose steps may be of any length"
        )


def exact_step(sde: SDE, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
    return sde.transition(t, s)


def paper_step(sde: SDE, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
    return _PAPER_STEPS.get(type(sde), exact_step)(sde, t, s)


def table_step(sde: SDE, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
    """The step from `s` to `t` of the score_sde chain with steps of that length."""
    return level_step(sde, t, (1 / (t - s)).round())


def level_step(sde: SDE, t: Float[Tensor, "*times"], levels: int | Float[Tensor, "*times"]) -> ForwardStep:
    """The step to `t` of score_sde's chain of `levels` levels."""
    return _TABLE_STEPS.get(type(sde), _euler_maruyama_step)(sde, t, levels)


def _paper_vp(sde: VPSDE, t: Float[Tensor, "*times"], s: Float[Tensor, "*times"]) -> ForwardStep:
    """x_t = sqrt(1 - beta(t) (t - s)) x_s + sqrt(beta(t) (t - s)) z; Algorithm 4."""
    beta = sde.beta(t) * (t - s)
    retained = (1 - beta / -torch.expm1(2 * sde.log_alpha(t))).clamp(min=0)
    return ForwardStep((1 - beta).sqrt(), beta.sqrt(), retained)


def _euler_maruyama_step(sde: SDE, t: Float[Tensor, "*times"], levels: int | Float[Tensor, "*times"]) -> ForwardStep:
    return _step(sde, t, sde.drift_coefficient(t) / levels, sde.diffusion(t) / levels**0.5)


def _table_vp(sde: VPSDE, t: Float[Tensor, "*times"], levels: int | Float[Tensor, "*times"]) -> ForwardStep:
    """The DDPM chain whose betas run linearly from beta_min / levels to beta_max / levels."""
    beta = sde.beta(_level_index(t, levels) / _last_index(levels)) / levels
    return _step(sde, t, (1 - beta).sqrt() - 1, beta.sqrt())


def _table_ve(sde: VESDE, t: Float[Tensor, "*times"], levels: int | Float[Tensor, "*times"]) -> ForwardStep:
    """The chain of geometrically spaced sigmas; the level below the lowest one is free of noise."""
    index = _level_index(t, levels)
    ratio = (torch.full_like(t, -2 * sde.log_ratio) / _last_index(levels)).exp()
    retained = torch.where(index == 0, 0.0, ratio)
    return ForwardStep(torch.ones_like(t), sde.sigma(index / _last_index(levels)) * (1 - retained).sqrt(), retained)


def _table_ddpm(sde: DiscreteVPSDE, t: Float[Tensor, "*times"], levels: int | Float[Tensor, "*times"]) -> ForwardStep:
    """The chain of `levels` steps on the beta table, which is the table itself if it has `levels` betas."""
    before = (t - 1 / levels).clamp(min=0)
    log_scale = sde.log_alpha(t.double()) - sde.log_alpha(before.double())
    return _step(sde, t, torch.expm1(log_scale).to(t.dtype), (-torch.expm1(2 * log_scale)).sqrt().to(t.dtype))


def _step(
    sde: SDE, t: Float[Tensor, "*times"], drift: Float[Tensor, "*times"], deviation: Float[Tensor, "*times"]
) -> ForwardStep:
    """The step x_t = x_s + drift x_s + deviation z."""
    return ForwardStep(1 + drift, deviation, (1 - (deviation / sde.sigma(t)).square()).clamp(min=0))


def _level_index(t: Float[Tensor, "*times"], levels: int | Float[Tensor, "*times"]) -> Float[Tensor, "*times"]:
    """Index, as a float, of the highest level at or below `t`; the margin 5e-4 absorbs float32's rounding of `t`."""
    return (t * (levels - 1) + 5e-4).floor()


def _last_index(levels: int | Float[Tensor, "*times"]) -> int | Float[Tensor, "*times"]:
    """Index of the last of `levels` levels, as a divisor: 1 for a single level, whose index is 0."""
    return levels - 1 + (levels == 1)


CHAINS: dict[str, Chain] = {"exact": exact_step, "paper": paper_step, "table": table_step}

_PAPER_STEPS: dict[type[SDE], Callable[[Any, Tensor, Tensor], ForwardStep]] = {VPSDE: _paper_vp}
_TABLE_STEPS: dict[type[SDE], Callable[[Any, Tensor, Any], ForwardStep]] = {
    VPSDE: _table_vp,
    VESDE: _table_ve,
    DiscreteVPSDE: _table_ddpm,
}
