"""Training on several devices: two processes with gloo in place of two accelerators."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.finished_runs import logged
from support.tiny import TINY, tiny_config
from torchvision.utils import save_image

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_data, build_module
from sdedit_pl.checkpoints import describe
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.training_runs.training_run import fit

ROOT = Path(__file__).parents[1]
DRIVER = Path(__file__).parent / "support" / "devices_driver.py"
SETTINGS = (
    "network.dropout=0",
    "network.init_scale=1",
    "trainer.val_check_interval=2",
    "data.batch_size=2",
    "preview.steps=2",
    "validation.memory_images=99",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nineteen images, no two of which are alike: 14 to train on and 5 to validate on, not to be shared evenly."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(torch.rand(19, 3, 8, 8, generator=torch.Generator().manual_seed(0))):
        save_image(image, folder / f"{number:03d}.png")
    return folder


def start(command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """A process with one thread, that speaks to the test."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.Popen(
        [sys.executable, *command],
        env=inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def driven(folder: Path, images: Path, deed: str, *arguments: str) -> list[str]:
    """The driver's command line, for a run in `folder`."""
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    given = (f"config={config}", f"data.path={images}", f"out={folder / 'run'}", "trainer.strategy=ddp", *SETTINGS)
    return [str(DRIVER), str(folder), deed, *given, *arguments]


def reports(folder: Path, count: int = 2) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(count)]


def joint_gradients(config: TrainingConfig, ranks: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """The gradients of one process that has the batches of all in its first step, in float64."""
    module = build_module(config, build_denoiser(config.model)).double()
    module.load_state_dict(ranks[0]["weights"])
    module.train()
    joint = {name: torch.cat([rank["steps"][0][name] for rank in ranks]) for name in ("images", "t", "noise")}
    module.losses(module.denoiser, joint["images"], joint["t"], joint["noise"]).mean().backward()
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def val_loss(images: Path, average: dict[str, torch.Tensor]) -> float:
    """The validation loss of one process that has all validation images in one batch, in float64."""
    config = tiny_config(f"data.path={images}", *SETTINGS)
    module = build_module(config, build_denoiser(config.model)).double().eval()
    module.denoiser.load_state_dict(average)
    data = build_data(config)
    data.setup()
    found: dict[str, float] = {}
    module.log = lambda name, value, **options: found.update({name: value.item()})  # type: ignore[method-assign]
    every = data.val_images(100).double()
    module.trainer = SimpleNamespace(datamodule=SimpleNamespace(val_indices=lambda batch: range(len(every))))
    with torch.no_grad():
        module.validation_step(every, 0)
    return found["val/loss"]


def test_two_devices_train_as_one_with_the_joint_batch(images: Path, tmp_path: Path) -> None:
    exact = ("trainer.precision=64-true", "trainer.gradient_clip_val=null")
    process = start(driven(tmp_path, images, "none", "trainer.devices=2", *exact))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    run, ranks = tmp_path / "run", reports(tmp_path)
    first, second = ranks
    # the gradient
    expected = joint_gradients(tiny_config(f"data.path={images}", *SETTINGS), ranks)
    assert first["gradients"].keys() == expected.keys()
    for rank in ranks:
        for name, gradient in expected.items():
            assert (rank["gradients"][name] - gradient).norm() <= 1e-6 * gradient.norm(), name
    # other samples, times and noise
    pixels = [
        step["images"][place].numpy().tobytes() for rank in ranks for step in rank["steps"][:3] for place in (0, 1)
    ]
    assert len(set(pixels)) == len(pixels) == 12
    numbers = torch.cat([step[name].flatten() for rank in ranks for step in rank["steps"] for name in ("t", "noise")])
    assert len(numbers.unique()) > 0.999 * len(numbers)
    # one average, one log with the means over both, one writer
    assert first["average"].keys() == second["average"].keys()
    assert all(torch.equal(weight, second["average"][name]) for name, weight in first["average"].items())
    losses = [torch.cat([rank["steps"][step]["losses"] for rank in ranks]).mean().item() for step in range(4)]
    assert list(logged(run, "train/loss").values()) == pytest.approx(losses, rel=1e-6)
    assert list(logged(run, "train/images").values()) == [4, 8, 12, 16] and list(logged(run, "val/loss")) == [1, 3]
    assert logged(run, "val/loss")[3] == pytest.approx(val_loss(images, first["average"]), rel=1e-6)
    assert second["written"] == [] and any("step=00000004.ckpt" in name for name in first["written"])
    assert describe(run).training["images_seen"] == 16


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["die", "kill"])
def test_a_device_that_dies_ends_the_other_and_says_why(deed: str, images: Path, tmp_path: Path) -> None:
    process = start(driven(tmp_path, images, deed, "trainer.devices=2", "trainer.max_steps=100000"))
    began = time.monotonic()
    while not (tmp_path / "run" / "metrics.csv").is_file():
        assert process.poll() is None and time.monotonic() < began + 240, process.communicate()[0]
        time.sleep(0.2)
    began = time.monotonic()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and time.monotonic() - began < 60
    assert ("RuntimeError: rank 1 fails" in output and "devices_driver.py" in output) or deed == "kill"
    assert "Traceback" in output


@pytest.mark.slow
def test_a_signal_to_one_device_ends_both_after_the_same_step_and_one_device_resumes(
    images: Path, tmp_path: Path
) -> None:
    arguments = ("trainer.max_steps=6", "checkpoint.every_steps=100", "checkpoint.best=false")
    process = start(driven(tmp_path, images, "signal", "trainer.devices=2", *arguments))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    (stopped,) = (line for line in output.splitlines() if "stopped by SIGUSR1" in line)
    run = tmp_path / "run"
    newest = max(path.name for path in (run / "checkpoints").iterdir())
    assert f"after step {int(newest[5:13])};" in stopped and newest in ("step=00000003.ckpt", "step=00000004.ckpt")
    # another number of devices resumes after the consumed images
    steps = int(newest[5:13])
    fit(tiny_config(f"data.path={images}", f"out={run}", *SETTINGS, *arguments))
    images_seen = [4.0 * step for step in range(1, steps + 1)] + [
        4.0 * steps + 2 * more for more in range(1, 7 - steps)
    ]
    assert list(logged(run, "train/images").values()) == images_seen


@pytest.fixture(scope="module")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six steps on two devices."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    output, _ = start(driven(folder, images, "none", "trainer.devices=2", "trainer.max_steps=6")).communicate()
    assert (folder / "run" / "model.safetensors").is_file(), output
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["0", "1", "01"])
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_two_devices_resume_after_a_signal_as_if_never_interrupted(
    name: str, code: int, ranks: str, images: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    arguments = ("trainer.devices=2", "trainer.max_steps=6")
    process = start(driven(tmp_path, images, f"{name}-{ranks}", *arguments))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    (said,) = (line for line in output.splitlines() if "stopped by" in line)
    assert f"stopped by {name} after step" in said and "Traceback" not in output
    process = start(driven(tmp_path, images, "none", *arguments))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found, expected = (load_file(run / "model.safetensors") for run in (tmp_path / "run", uninterrupted))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_device_ends_both(images: Path, tmp_path: Path) -> None:
    arguments = ("trainer.max_steps=6", "trainer.log_every_n_steps=4", "checkpoint.every_steps=1")
    process = start(driven(tmp_path, images, "nan", "trainer.devices=2", *arguments))
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "the loss of step 3 is not finite" in output and "step=00000002.ckpt" in output


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_tasks_that_slurm_has_started_end_at_its_signal_with_the_code_that_requeues(
    images: Path, tmp_path: Path
) -> None:
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NAME": "sdedit", "SLURM_NODELIST": "localhost", "SLURM_NNODES": "1"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "MASTER_PORT": str(free_port())}
    driver = driven(
        tmp_path, images, "signal", "trainer.devices=2", "trainer.max_steps=6", "checkpoint.every_steps=100"
    )
    tasks = [
        start(driver, **job, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), MASTER_ADDR="127.0.0.1")
        for rank in range(2)
    ]
    outputs = [task.communicate(timeout=300)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [75, 0], outputs
    assert "stopped by SIGUSR1 after step" in outputs[0] and "stopped" not in outputs[1]
    assert max(path.name for path in (tmp_path / "run" / "checkpoints").glob("step=*"))[5:13] in (
        "00000003",
        "00000004",
    )


@pytest.mark.slow
def test_two_nodes_started_by_torchrun(images: Path, tmp_path: Path) -> None:
    port = free_port()
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
    driver = driven(tmp_path, images, "none", "trainer.devices=1", "trainer.num_nodes=2")
    nodes = [start(["-m", "torch.distributed.run", *meeting, f"--node_rank={rank}", *driver]) for rank in range(2)]
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    first, second = reports(tmp_path)
    assert first["world_size"] == second["world_size"] == 2 and second["written"] == []
    assert all(torch.equal(weight, second["average"][name]) for name, weight in first["average"].items())
    assert list(logged(tmp_path / "run", "train/images").values()) == [4, 8, 12, 16]


@pytest.mark.slow
def test_two_devices_compile_a_network_that_keeps_few_activations(images: Path, tmp_path: Path) -> None:
    losses = {}
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        folder = tmp_path / name
        folder.mkdir()
        arguments = ("network.checkpoint_gradients=true", f"compile={compiled}", "channels_last=false")
        process = start(driven(folder, images, "none", "trainer.devices=2", *arguments))
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
        losses[name] = list(logged(folder / "run", "train/loss").values())
    assert losses["compiled"] == pytest.approx(losses["plain"], rel=1e-3)
