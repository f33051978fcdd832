"""The bundled configurations: each is what its header says and takes a training step at tiny size."""

from __future__ import annotations

import math
import re
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.tiny import write_images

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import describe, load_denoiser
from sdedit_pl.checkpoints.exporters.export_format import ExportError
from sdedit_pl.checkpoints.exporters.to_diffusers import configurations
from sdedit_pl.checkpoints.init_from import initialise, network_from
from sdedit_pl.configuration.bundled_configs import config_folders, find_config
from sdedit_pl.configuration.command_line import read_arguments
from sdedit_pl.configuration.resolving import merge, resolve
from sdedit_pl.configuration.schema import keys_of
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.data.datamodule import ImageDataModule
from sdedit_pl.training_runs.training_run import fit

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
    "ckpt=null",  # whose network is larger
    "network.channels=8",
    "network.blocks_per_level=1",
    "data.batch_size=2",
    "data.workers=0",
    "preview.count=1",
    "preview.samples=1",
    "preview.steps=1",
    "validation.memory_images=0",
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
    assert {f"{domain}_{sde}" for domain in domains for sde in ("ve", "vp")} <= {file.stem for file in FILES}
    assert CONFIGS in config_folders()
    assert all(find_config(file.stem).samefile(file) for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_headers_command_runs_this_configuration(file: Path) -> None:
    given, typed = read_arguments(TrainingConfig, command(file))
    assert given.pop("config") == file.stem
    config = resolve(TrainingConfig, merge(TrainingConfig, read_file(file), given), typed)
    assert config.out == typed["out"] != "runs/default"
    assert resolve(TrainingConfig, config.as_data()) == config  # what a run's folder keeps can be run again
    with torch.device("meta"):
        denoiser = build_denoiser(config.model)  # at its own size
    docs = (CONFIGS.parent / "docs" / "published_models.md").read_text()
    held, _, refused = docs.partition("## Configurations that diffusers can")[2].partition("refuses")
    with nullcontext() if f"`{file.stem}`" in held else pytest.raises(ExportError):
        configurations(denoiser, config.model)
    assert f"`{file.stem}`" in held + refused.partition("##")[0]


# What the papers and their repositories print: images a step, learning rate, steps, steps of warm-up, EMA rate a step,
# dropout, channels, their multipliers, blocks a level, the largest sigma on images in [0, 1] (VE).
SCORE_SDE = (2e-4, 1_300_000, 5000, 0.999, 0.1, 128, [1, 2, 2, 2], 4)
NCSNPP_256 = (64, 2e-4, 2_400_000, 5000, 0.999, 0.0, 128, [1, 1, 2, 2, 2, 2, 2], 2)
DDPM_256 = (5000, 0.9999, 0.0, 128, [1, 1, 2, 2, 4, 4], 2, None)
PUBLISHED = {
    "cifar10_ve": (128, *SCORE_SDE, 50),
    "cifar10_vp": (128, 2e-4, 1_300_000, 5000, 0.9999, 0.1, 128, [1, 2, 2, 2], 4, None),
    "cifar10_ddpm": (128, 2e-4, 800_000, 5000, 0.9999, 0.1, 128, [1, 2, 2, 2], 2, None),
    "celeba64_ve": (128, *SCORE_SDE, 90),
    "celeba64_vp": (128, 2e-4, 500_000, 5000, 0.9999, 0.1, 128, [1, 2, 2, 2, 4], 2, None),
    "ffhq256_ve": (*NCSNPP_256, 348),
    "ffhq256_vp": (64, 2e-5, 500_000, *DDPM_256),
    "lsun_bedroom256_ve": (*NCSNPP_256, 378),
    "lsun_bedroom256_vp": (64, 2e-5, 2_400_000, *DDPM_256),
    "lsun_church256_ve": (*NCSNPP_256, 380),
    "lsun_church256_vp": (64, 2e-5, 1_200_000, *DDPM_256),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_settings_are_the_published_ones(name: str) -> None:
    config = resolve(TrainingConfig, read_file(CONFIGS / f"{name}.yaml")).as_data()
    batch, rate, steps, warmup, decay, dropout, channels, multipliers, blocks, largest = PUBLISHED[name]
    settings = config["trainer"]
    devices = 1 if settings["devices"] == "auto" else settings["devices"]
    joint = config["data"]["batch_size"] * devices * settings["accumulate_grad_batches"]
    assert (joint, config["optimizer"]["rate"], settings["max_steps"]) == (batch, rate, steps)
    assert (config["schedule"]["name"], config["schedule"]["warmup_steps"]) == ("constant", warmup)
    assert config["average"]["half_life_images"] == pytest.approx(math.log(0.5) / math.log(decay) * batch, rel=0.01)
    assert settings["gradient_clip_val"] == 1.0 and config["augment"]["probability"] == 0
    network = config["network"]
    assert (network["dropout"], network["channels"], network["blocks_per_level"]) == (dropout, channels, blocks)
    assert list(network["channel_multipliers"]) == multipliers
    # attention at 16 x 16 and nowhere else
    assert [config["data"]["size"] >> level for level in network["attention_levels"]] == [16]
    assert config["data"]["flip"] == (name != "lsun_bedroom256_vp")
    assert config["sde"].get("sigma_max") == (None if largest is None else 2 * largest)
    assert config["reduction"] == ("sum" if largest else "mean")
    denoiser_reads = (network.get("label_embedding", "positional") == "fourier") == (largest is not None)
    assert denoiser_reads and config["weighting"]["name"] == "noise"


@pytest.mark.parametrize("sde", ["ve", "vp"])
def test_afhq_is_trained_as_edm_does(sde: str) -> None:
    config = resolve(TrainingConfig, read_file(CONFIGS / f"afhq64_{sde}.yaml")).as_data()
    assert config["data"]["batch_size"] * config["trainer"]["devices"] == 256
    assert (config["optimizer"]["rate"], config["network"]["dropout"]) == (2e-4, 0.25)
    assert config["augment"]["probability"] == 0.15 and config["trainer"]["gradient_clip_val"] is None
    assert (config["times"]["mean"], config["times"]["deviation"]) == (-1.2, 1.2)
    assert config["average"]["half_life_images"] == 500_000
    assert config["trainer"]["max_steps"] * 256 == pytest.approx(200e6, rel=0.01)
    assert config["schedule"]["warmup_steps"] * 256 == pytest.approx(10e6, rel=0.01)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_header_says_what_it_takes(file: Path) -> None:
    header = " ".join(line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#"))
    assert re.search(r"[Aa]bout [\d.,]+ hours?", header) and "ESTIMATE" not in header
    if "A100" in header:  # nobody ran it there
        assert "stimate" in header and "GiB" in header


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_trains_at_tiny_size(file: Path, images: Path, tmp_path: Path) -> None:
    given, _ = read_arguments(TrainingConfig, [*command(file), *TINY, f"out={tmp_path / 'run'}"])
    given.pop("config")
    config = merge(TrainingConfig, read_file(file), given)
    shared = {key: value for key, value in config["data"].items() if key in keys_of(ImageDataModule)}
    size = max(SIZE, config["data"]["size"] // 4)  # networks for larger images halve them more often
    config["data"] = {**shared, "name": "folder", "path": str(images), "size": size, "val_fraction": 0.3}
    path = fit(resolve(TrainingConfig, config))
    assert describe(path).training["steps"] == 1
    assert (tmp_path / "run" / "previews" / "step-00000001.png").is_file()
    denoiser = load_denoiser(path)
    assert denoiser(torch.zeros(1, 3, size, size), torch.tensor([0.5])).isfinite().all()


@pytest.mark.parametrize("file", [file for file in FILES if read_file(file).get("ckpt")], ids=lambda file: file.stem)
def test_what_it_begins_with_fits(file: Path) -> None:
    config = resolve(TrainingConfig, merge(TrainingConfig, read_file(file), {"data": {"path": "unused"}}))
    assert config.ckpt
    for base in config.ckpt if isinstance(config.ckpt, tuple) else [config.ckpt]:
        model = replace(config, network=network_from(describe(base).model.network, config.network)).model
        begun = build_denoiser(model)
        initialise(begun, model, base, rate=1.0)
        trained = load_denoiser(base)
        assert begun.sde == trained.sde  # so that no noise level is new to it
        weights, given = begun.network.state_dict(), trained.network.state_dict()
        assert all(torch.equal(weights[name], weight) for name, weight in given.items() if name in weights)
