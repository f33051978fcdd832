"""The scripts that start a training on a cluster, with stand-ins for the cluster's programs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from sdedit_pl.configuration.bundled_configs import find_config
from sdedit_pl.configuration.command_line import read_arguments, rename_keys
from sdedit_pl.configuration.resolving import merge, resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import read_file

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


def test_a_sweep_of_wandb_trains_with_its_values_in_a_folder_of_its_own(tmp_path: Path, monkeypatch) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((LAUNCH / "sweep.yaml").read_text())
    chosen = {
        name: given.get("value", (given.get("values") or [1e-3])[-1]) for name, given in sweep["parameters"].items()
    }
    words = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    parts = create_sweep_command(sweep["command"])
    command = [
        word for part in parts for word in (words["args_no_hyphens"] if part == "${args_no_hyphens}" else [part])
    ]
    (tmp_path / "sdedit").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "sdedit").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    verb, *arguments = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    given, typed = read_arguments(TrainingConfig, arguments)
    rename_keys(TrainingConfig, given)
    config = resolve(TrainingConfig, merge(TrainingConfig, read_file(find_config(given.pop("config"))), given), typed)
    assert verb == "train" and config.out == "runs/sweep/abc123" and config.logger == "wandb"
    assert config.average.half_life_images == 20000
