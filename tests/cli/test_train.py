"""`sdedit train`: what it refuses before it writes anything, and that what it leaves can be edited with."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from support.tiny import TINY, write_images
from torch import Tensor

from sdedit_pl.training.module import ScoreModule

TRAIN = ("train", "config=tiny.yaml", "out=new/run")
REFUSALS = {
    "config=nowhere": ("no configuration 'nowhere'", "domain64,", "portraits64"),
    "config=guide.png": ("guide.png is not a readable YAML file",),
    "data.path=nothing": ("no images under nothing", ".png"),
    "data.path=nowhere": ("data folder nowhere does not exist",),
    "data.path=guide.png": ("guide.png is a file, expected a folder",),
    "data=webdataset": ("no shards in images",),
    "data.batch_size=0": ("data: batch_size must be at least 1, got 0",),
    "data.size=big": ("data.size must be a valid integer or a valid array, got 'big'",),
    "data.sise=8": ("unknown key data.sise of data.name=folder", "did you mean data.size?"),
    "data.name=tfrecord": ("data.name must be one of folder, webdataset, torchvision, got 'tfrecord'",),
    "network=transformer": ("network.name must be one of ncsnpp, ddpm, adm, got 'transformer'",),
    "network=ncsnp": ("did you mean ncsnpp?",),
    "network.channels=0": ("network: ", "must be positive"),
    "network.channels=1e9": ("network.channels is 1,000,000,000, more than any model has",),
    "network.channels=20000": ("the weights of this network take", "lower network.channels"),
    "network.blocks_per_level=1e9": ("network.blocks_per_level is 1,000,000,000",),
    "network.blocks_per_level=1e6": ("more than 5,000 tensors",),
    "network.channel_multipliers=[1e6]": ("the weights of this network take",),
    "network.head_channels=1e9": ("head_channels",),
    "network.head_channels=0": ("head_channels",),
    "network.dropout=1.5": ("dropout",),
    "network.channel_multipliers=2": ("must be a valid array, got 2",),
    "network.channel_multipliers=[1,2,2,2,2]": ("data.size must be a multiple of 16", "got 8", "the nearest are 16"),
    "network.patch=3": ("network: patch must be 1, 2 or 4, got 3",),
    "network.output_channels=6": ("unknown key network.output_channels",),
    "sde=vpp": ("sde.name must be one of vp, subvp, ve, ddpm, got 'vpp'",),
    "sde.beta_min=-1": ("sde: ", "beta_min=-1"),
    "parameterisation.label=phase": ("parameterisation: ", "'phase'"),
    "times.t_min=2": ("times: ", "t_min=2"),
    "trainer.max_step=3": ("unknown key trainer.max_step;", "did you mean trainer.max_steps?"),
    "trainer.num_nodes=1e12": ("trainer.num_nodes must be at most 1,000",),
    "trainer.accumulate_grad_batches=1001": ("trainer.accumulate_grad_batches must be at most 1,000",),
    "optimizer.name=muon optimizer.momentum=1": ("momentum must lie in [0, 1), got 1",),
    "trainer.max_steps=0": ("trainer: max_steps must be at least 1, got 0",),
    "trainer=5": ("trainer must be a section", "got 5"),
    "trainer.val_check_interval=0": ("val_check_interval must be at least 1, got 0",),
    "trainer.log_every_n_steps=0": ("log_every_n_steps must be at least 1, got 0",),
    "checkpoint.keep=0": ("checkpoint: keep must be at least 1, got 0",),
    "checkpoint.every_steps=0": ("every_steps must be at least 1, got 0",),
    "checkpoint.guidance=2": ("guidance=2 needs the early average", "checkpoint.early=0.07", "checkpoint.guidance=1"),
    "checkpoint.guidance_range=[3,1]": ("guidance_range", "3 to 1"),
    "checkpoint.every_minutes=0": ("every_minutes must be positive, got 0",),
    "validation.patience=0": ("patience must be at least 1, got 0",),
    "preview.t0=1.5": ("t0 must lie in (0, 1], got 1.5",),
    "preview.guides=nowhere": ("no file or folder at nowhere",),
    "seed=-1": ("seed must be at least 0, got -1",),
    "seed=1e30": ("seed must be below 2^63",),
    "logger=[csv,comet]": ("logger[1] must be 'csv', 'wandb', 'tensorboard' or 'mlflow', got 'comet'",),
    "ckpt=nowhere": ("no checkpoint at nowhere",),
    "ckpt=guide.png": ("guide.png is not a complete checkpoint",),
    "ckpt=tiny.safetensors": ("ckpt=tiny.safetensors",),
    "out=images/run": ("out=images/run lies within data=images",),
    "out=guide.png": ("out=guide.png is a file",),
    "out=guide.png/below": ("out=guide.png/below cannot be written", "name another folder"),
}


@pytest.fixture(autouse=True)
def images(desk: Path) -> None:
    """A folder of images and a configuration that trains on them."""
    write_images(Path("images"), count=8)
    Path("tiny.yaml").write_text(yaml.safe_dump({**TINY, "data": {**TINY["data"], "path": "images"}}))


@pytest.mark.parametrize("argument", REFUSALS)
def test_it_refuses_and_writes_nothing(argument: str, desk: Path, command) -> None:
    before = sorted(desk.rglob("*"))
    code, output, errors = command(*TRAIN, *argument.split())
    assert code == 2 and output == ""
    # What was found of the data may have been said before.
    *notices, error = errors.splitlines()
    assert error.startswith("error: ") and all("images: " in notice for notice in notices)
    assert all(words in error for words in REFUSALS[argument]), error
    assert sorted(desk.rglob("*")) == before


def test_data_has_to_be_named(refused: Callable[..., str]) -> None:
    assert refused("train").startswith("data.path is required: Folder of images; for example:")
    assert "data.size is required" in refused("train", "data=.") and "config=finetune64" in refused("train", "data=.")


def test_a_run_can_be_edited_with_and_described(command) -> None:
    code, output, _ = command(*TRAIN, "trainer.max_steps=2", "trainer.val_check_interval=2", "checkpoint.every_steps=2")
    assert code == 0
    assert output.strip().splitlines()[-1] == "edit with: sdedit edit ckpt=new/run/model.safetensors guide=..."
    said = yaml.safe_load(command("info", "ckpt=new/run").output)
    assert said["training"].items() >= {"steps": 2, "images_seen": 8}.items()
    assert said["training"]["val/loss/sigma_mean"] > 0
    assert said["model"]["image"] == {"size": 8, "channels": 3}
    (resumable,) = Path("new/run/checkpoints").glob("step=*.ckpt")
    pictures = {}
    for name, ckpt in (("folder", "new/run"), ("file", "new/run/model.safetensors"), ("ckpt", str(resumable))):
        arguments = ("edit", f"ckpt={ckpt}", "guide=guide.png", f"out={name}", "steps=2", "samples=1")
        code, _, errors = command(*arguments)
        assert code == 0 and errors.startswith("guide.png is 16x16, resized to the model's 8x8\n")
        assert "was trained for 2 steps, too few to edit well; train it longer" in errors
        pictures[name] = Path(f"{name}/guide_seed0.png").read_bytes()
    assert pictures["folder"] == pictures["file"] == pictures["ckpt"]
    assert Image.open("folder/guide_seed0.png").size == (8, 8)


def test_a_folder_with_another_run_is_refused(desk: Path, command, refused: Callable[..., str]) -> None:
    short = (*TRAIN, "trainer.max_steps=1", "checkpoint.every_steps=1", "preview.samples=0", "preview.count=0")
    assert command(*short).code == 0
    said = refused(*short, "network.channels=12")
    assert "new/run was made with other settings: network." in said and "give another out=" in said
    assert "sde" in refused(*short, "sde=subvp") and "image" in refused(*short, "data.size=16")
    assert "resume=false" in refused(*short, "resume=false")
    Path("new/run/config.yaml").unlink()  # the checkpoint itself says what it is of
    assert "sde.name was vp, and is ve now" in refused(*short, "sde=ve")
    (checkpoint,) = Path("new/run/checkpoints").glob("step=*.ckpt")
    torch.save({"state_dict": {}}, checkpoint)
    assert "is damaged (it lacks EditingCheckpoint" in command(*short).errors
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    assert "all checkpoints in new/run/checkpoints are damaged" in command(*short).errors.splitlines()[-1]
    shutil.rmtree("new/run/checkpoints")
    assert "holds a trained model and nothing to resume from" in refused(*short)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_a_checkpoint_and_a_code_and_the_same_command_goes_on(
    signum: int, code: int, command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = ScoreModule.training_step

    def signalled(self: ScoreModule, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == 1:
            os.kill(os.getpid(), signum)
        return step(self, batch, batch_idx)

    without = (*TRAIN, "preview.samples=0", "preview.count=0")
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(ScoreModule, "training_step", signalled)
        command(*without)
    assert ended.value.code == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: stopped by {signal.Signals(signum).name} after step 2;")
    assert [path.name for path in Path("new/run/checkpoints").iterdir()] == ["step=00000002.ckpt"]
    assert command(*without).code == 0
    log = Path("new/run/metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in log[1:]] == ["0", "1", "2", "3", "3"]  # and a validation at the end


def test_names_that_look_like_numbers_stay_names(command) -> None:
    Path("images").rename("00012")
    assert command(*TRAIN, "data.path=00012", "trainer.max_steps=1", "preview.steps=1").code == 0
    assert yaml.safe_load(Path("new/run/config.yaml").read_text())["data"]["path"] == "00012"
