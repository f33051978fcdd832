"""Solvers of the reverse process; `base` defines the interface."""

from __future__ import annotations

from sdedit_pl.solvers.ancestral import Ancestral
from sdedit_pl.solvers.base import Solver, State
from sdedit_pl.solvers.ddim import DDIM
from sdedit_pl.solvers.dpm_solver import DPMSolver2M, SDEDPMSolver2M
from sdedit_pl.solvers.edm_heun import EDMHeun
from sdedit_pl.solvers.er_sde import ERSDE
from sdedit_pl.solvers.euler_maruyama import EulerMaruyama
from sdedit_pl.solvers.predictor_corrector import PredictorCorrector
from sdedit_pl.solvers.probability_flow import ProbabilityFlowEuler, ProbabilityFlowHeun
from sdedit_pl.solvers.reverse_diffusion import ReverseDiffusion
from sdedit_pl.solvers.unipc import UniPC

SOLVERS: dict[str, type[Solver]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "probability_flow_euler": ProbabilityFlowEuler,
    "probability_flow_heun": ProbabilityFlowHeun,
    "predictor_corrector": PredictorCorrector,
    "dpm_solver_2m": DPMSolver2M,
    "sde_dpm_solver_2m": SDEDPMSolver2M,
    "er_sde": ERSDE,
    "unipc": UniPC,
    "edm_heun": EDMHeun,
}

__all__ = [
    "DDIM",
    "ERSDE",
    "SOLVERS",
    "Ancestral",
    "DPMSolver2M",
    "EDMHeun",
    "EulerMaruyama",
    "PredictorCorrector",
    "ProbabilityFlowEuler",
    "ProbabilityFlowHeun",
    "ReverseDiffusion",
    "SDEDPMSolver2M",
    "Solver",
    "State",
    "UniPC",
]
