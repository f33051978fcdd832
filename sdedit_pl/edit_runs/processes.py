"""The processes that share the guides of an edit: those of torchrun, of a SLURM job or array, or of `devices=`.

They do not communicate. Each takes every `count`-th guide, and the folder of the results has what is done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Share:
    """One process of `count`; `local` is its number on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.count}"

    def device(self, wanted: str) -> str:
        """The device of the process: `wanted`, or for auto and cuda the GPU of its number."""
        gpus = torch.cuda.device_count() if self.count > 1 and wanted in ("auto", "cuda") else 0
        return f"cuda:{self.local % gpus}" if gpus else wanted


def share_of_environment() -> Share:
    """The share that a launcher sets; tasks of a SLURM array may have several processes each.

    Raises:
        ValueError: a variable of the launcher is not a number.
    """
    task = _number("SLURM_ARRAY_TASK_ID", 0) - _number("SLURM_ARRAY_TASK_MIN", 0)
    task, tasks = task // _number("SLURM_ARRAY_TASK_STEP", 1), _number("SLURM_ARRAY_TASK_COUNT", 1)
    if "WORLD_SIZE" in os.environ:
        within = Share(_number("RANK", 0), _number("WORLD_SIZE", 1), _number("LOCAL_RANK", 0))
    elif "SLURM_STEP_NUM_TASKS" in os.environ:  # only within srun
        within = Share(_number("SLURM_PROCID", 0), _number("SLURM_STEP_NUM_TASKS", 1), _number("SLURM_LOCALID", 0))
    else:
        within = Share()
    return Share(task * within.count + within.rank, tasks * within.count, within.local)


def _number(variable: str, usual: int) -> int:
    text = os.environ.get(variable, str(usual))
    if not text.isdecimal():
        raise ValueError(f"the environment variable {variable} must be a number, got {text!r}; unset it or start again")
    return int(text)
