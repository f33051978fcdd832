"""Solvers of the reverse process, one file each; `base` says what a solver is."""

from __future__ import annotations

from sdedit_pl.solvers.ancestral import Ancestral
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.ddim import DDIM
from sdedit_pl.solvers.euler_maruyama import EulerMaruyama
from sdedit_pl.solvers.predictor_corrector import PredictorCorrector
from sdedit_pl.solvers.probability_flow_euler import ProbabilityFlowEuler
from sdedit_pl.solvers.probability_flow_heun import ProbabilityFlowHeun
from sdedit_pl.solvers.reverse_diffusion import ReverseDiffusion

SOLVERS: dict[str, type[Solver]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "probability_flow_euler": ProbabilityFlowEuler,
    "probability_flow_heun": ProbabilityFlowHeun,
    "predictor_corrector": PredictorCorrector,
}

__all__ = [
    "DDIM",
    "SOLVERS",
    "Ancestral",
    "EulerMaruyama",
    "PredictorCorrector",
    "ProbabilityFlowEuler",
    "ProbabilityFlowHeun",
    "ReverseDiffusion",
    "Solver",
    "State",
]
