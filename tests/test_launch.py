"""The scripts that start a training on a cluster, with stand-ins for the cluster's programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "configs" / "launch"
SLURM = {"SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_JOB_ID": "12345"}
MEETING = {"NODE_RANK": "1", "MASTER": "first", "GPUS": "4"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder of programs that record their calls; srun exits with SRUN_CODE."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol", "torchrun"):
        script = f'#!/bin/bash\necho "{name} $*" >> "$(dirname "$0")/calls"\n'
        (folder / name).write_text(script + ('exit "$SRUN_CODE"\n' if name == "srun" else ""))
        (folder / name).chmod(0o755)
    return folder


def launch(script: str, programs: Path, environment: dict[str, str]) -> tuple[int, list[str]]:
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [LAUNCH / script, "config=domain64", "data.path=a b"], env=environment | {"PATH": path}, timeout=60
    )
    calls = programs / "calls"
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


@pytest.mark.parametrize("code", [0, 1, 2, 75, 137])
def test_slurm_requeues_the_job_only_after_exit_code_75(code: int, programs: Path) -> None:
    ended, (start, *rest) = launch("slurm.sh", programs, SLURM | {"SRUN_CODE": str(code)})
    assert ended == code and rest == (["scontrol requeue 12345"] if code == 75 else [])
    assert "sdedit train trainer.devices=4 trainer.num_nodes=2" in start
    assert "--kill-on-bad-exit=0" in start  # otherwise tasks killed because of the first one's 75 would hide that code
    assert start.endswith(" config=domain64 data.path=a b")


def test_torchrun_gets_the_machines(programs: Path) -> None:
    ended, (start,) = launch("torchrun.sh", programs, MEETING)
    assert ended == 0
    assert (
        "--nnodes=2 --node-rank=1 --nproc-per-node=4 --master-addr=first --master-port=29500 --module sdedit_pl"
        in start
    )
    assert start.endswith("train trainer.devices=4 trainer.num_nodes=2 config=domain64 data.path=a b")


@pytest.mark.parametrize("missing", ["NODE_RANK", "MASTER"])
def test_torchrun_needs_the_rank_and_the_address_of_the_first_machine(missing: str, programs: Path) -> None:
    given = {name: value for name, value in MEETING.items() if name != missing}
    ended, calls = launch("torchrun.sh", programs, given)
    assert ended != 0 and calls == []
