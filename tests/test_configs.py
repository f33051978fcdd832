"""The bundled configurations: each is what its header says and takes a training step at tiny size."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from tiny import write_images

from sdedit_pl.build import build_denoiser, model_config
from sdedit_pl.checkpoints import describe, load_denoiser
from sdedit_pl.checkpoints.transfer import initialise
from sdedit_pl.config import keys_of, read_file
from sdedit_pl.data import ImageDataModule
from sdedit_pl.fit import fit
from sdedit_pl.resources import config_folders, find_config
from sdedit_pl.settings import TRAINING

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
SIZE = 32

TINY = (
    "trainer.max_steps=1",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.accumulate_grad_batches=1",
    "trainer.val_check_interval=1",
    "trainer.enable_progress_bar=false",
    "init_from=null",  # whose network is larger
    "network.channels=8",
    "network.blocks_per_level=1",
    "data.batch_size=2",
    "data.workers=0",
    "preview.count=1",
    "preview.samples=1",
    "preview.steps=1",
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), count=6, size=SIZE)


def command(file: Path) -> list[str]:
    """The arguments of the command in a configuration's header."""
    header = re.match(r"(#.*\n)+", file.read_text())
    assert header is not None, "a configuration begins with a comment"
    commands = [line[1:].strip() for line in header.group().splitlines() if "train.py" in line]
    assert len(commands) == 1, "with the one command that runs it"
    program, script, *arguments = shlex.split(commands[0])
    assert (program, script) == ("python", "train.py")
    return arguments


def test_there_are_configurations_and_they_are_found_by_name() -> None:
    domains = {"cifar10", "celeba64", "ffhq256", "lsun_church256", "lsun_bedroom256", "afhq64"}
    assert {"portraits64", "domain64", "domain256"} <= {file.stem for file in FILES}
    assert domains <= {file.stem.rpartition("_")[0] for file in FILES}
    assert CONFIGS in config_folders()
    assert all(find_config(file.stem).samefile(file) for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_headers_command_runs_this_configuration(file: Path) -> None:
    given, typed = TRAINING.read_arguments(command(file))
    assert given.pop("config") == file.stem
    config = TRAINING.resolve(TRAINING.merge(read_file(file), given), typed)
    assert config["out"] == typed["out"] != "runs/default"
    assert TRAINING.resolve(config) == config  # what a run's folder keeps can be run again
    with torch.device("meta"):
        build_denoiser(model_config(config))  # at its own size


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_header_says_what_it_takes(file: Path) -> None:
    header = " ".join(line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#"))
    assert re.search(r"[Aa]bout [\d.,]+ hours?", header) and "ESTIMATE" not in header
    if "A100" in header:  # nobody ran it there
        assert "stimate" in header and "GiB" in header


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_trains_at_tiny_size(file: Path, images: Path, tmp_path: Path) -> None:
    given, _ = TRAINING.read_arguments([*command(file), *TINY, f"out={tmp_path / 'run'}"])
    given.pop("config")
    config = TRAINING.merge(read_file(file), given)
    shared = {key: value for key, value in config["data"].items() if key in keys_of(ImageDataModule)}
    size = max(SIZE, config["data"]["size"] // 4)  # networks for larger images halve them more often
    config["data"] = {**shared, "name": "folder", "path": str(images), "size": size, "val_fraction": 0.3}
    path = fit(TRAINING.resolve(config))
    assert describe(path).training["steps"] == 1
    assert (tmp_path / "run" / "previews" / "step-00000001.png").is_file()
    denoiser = load_denoiser(path)
    assert denoiser(torch.zeros(1, 3, size, size), torch.tensor([0.5])).isfinite().all()


@pytest.mark.parametrize(
    "file", [file for file in FILES if read_file(file).get("init_from")], ids=lambda file: file.stem
)
def test_what_it_begins_with_fits(file: Path) -> None:
    config = TRAINING.resolve(TRAINING.merge(read_file(file), {"data": {"path": "unused"}}))
    model = model_config(config)
    begun = build_denoiser(model)
    initialise(begun, model, str(CONFIGS.parent / config["init_from"]), rate=1.0)
    trained = load_denoiser(CONFIGS.parent / config["init_from"])
    assert begun.sde == trained.sde  # so that no noise level is new to it
    weights = begun.network.state_dict()
    assert all(
        torch.equal(weights[name], weight) for name, weight in trained.network.state_dict().items() if name in weights
    )
