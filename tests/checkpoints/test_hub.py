"""Checkpoints on the Hub, from a server on this machine that speaks its protocol, and from the client's cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from support.diffusers_models import NETWORKS, save_pipeline
from support.hub_server import HubServer
from support.interruptions import contents

from sdedit_pl import load_denoiser
from sdedit_pl.checkpoints import CheckpointError, describe, hub
from sdedit_pl.cli import main


@pytest.fixture
def server(hub_server: HubServer, tiny_checkpoint: Path) -> HubServer:
    """The Hub with a model of ours, an open and a gated one, and a pipeline of a text-to-image model."""
    content = tiny_checkpoint.read_bytes()
    hub_server.repositories = {
        "me/faces": {"model.safetensors": content, "old/net.safetensors": content, "images.tar": b"large"},
        "me/closed": {"model.safetensors": content},
        "me/text": {
            "model_index.json": b'{"_class_name": "TextPipeline", "unet": [], "scheduler": [], "text_encoder": []}',
            "unet/diffusion_pytorch_model.safetensors": b"large",
        },
        "me/notes": {"README.md": b"nothing"},
    }
    hub_server.gated = {"me/closed"}
    return hub_server


def test_our_model_is_fetched_once_alone_and_then_read_offline(
    server: HubServer, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", "ckpt=hf:me/faces"]) == 0 and "ncsnpp" in capsys.readouterr().out
    assert server.fetched == ["model.safetensors"]
    hub.fetched_repository.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("hf:me/faces", "hf:me/faces@main", "hf:me/faces/model.safetensors"):
        theirs, ours = load_denoiser(name).state_dict(), load_denoiser(tiny_checkpoint).state_dict()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours)
    assert server.fetched == ["model.safetensors"]
    with pytest.raises(CheckpointError, match=r"hf:me/closed is not in the cache, and the Hub cannot be reached"):
        load_denoiser("hf:me/closed")


def test_a_named_file_of_a_revision(server: HubServer, tiny_checkpoint: Path) -> None:
    path = describe("hf:me/faces/old/net.safetensors@main").path
    assert path.name == "net.safetensors" and path.read_bytes() == tiny_checkpoint.read_bytes()


@pytest.mark.parametrize("place", ["", "/ddpm", "/ddpm/unet"])
def test_a_folder_of_diffusers_of_whose_weights_one_kind_is_fetched(
    place: str, hub_server: HubServer, tmp_path: Path
) -> None:
    save_pipeline(tmp_path / "saved", NETWORKS["ddpm"])
    files = contents(tmp_path / "saved")
    files |= {"unet/diffusion_pytorch_model.bin": b"large", "unet/diffusion_pytorch_model.fp16.bin": b"large"}
    within = "ddpm/" if place else ""
    hub_server.repositories["me/ddpm"] = {within + name: content for name, content in files.items()}
    assert describe(f"hf:me/ddpm{place}").parameters == describe(tmp_path / "saved").parameters
    weights = [name for name in hub_server.fetched if not name.endswith(".json")]
    assert weights == [f"{within}unet/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me/absent", "there is no repository me/absent, or it is private; check the name, or log in with"),
        ("hf:me/closed", r"hf:me/closed is gated: ask for access at http://127.0.0.1:\d+/me/closed, then log in with"),
        ("hf:me/faces@v9", "me/faces has no such revision"),
        ("hf:me/faces/absent.ckpt", "there is no such file"),
        ("hf:me/text", "is a TextPipeline with text_encoder, expected unet and"),
        ("hf:me/notes", "holds neither model.safetensors nor a network of diffusers; .*name it, as hf:me/notes/FILE"),
        ("hf:faces", "is hf:owner/name, hf:owner/name/file or hf:owner/name@revision, got 'hf:faces'"),
        ("hf:me/faces/../x", "is hf:owner/name, hf:owner/name/file"),
        ("hf:me/-faces.", "hf:me/-faces. cannot be used: "),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(
    name: str, message: str, server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=message) as raised:
        load_denoiser(name)
    assert "\n" not in str(raised.value) and "unet/diffusion_pytorch_model.safetensors" not in server.fetched
    assert main(["sample", f"ckpt={name}", "out=unused"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_token_opens_a_gated_repository(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert describe("hf:me/closed").parameters


@pytest.mark.slow
def test_the_environment_names_another_hub(server: HubServer, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "sdedit_pl", "info", "ckpt=hf:me/faces"]
    for offline in ("0", "1"):
        done = subprocess.run(command, env={**environment, "HF_HUB_OFFLINE": offline}, capture_output=True, text=True)
        assert done.returncode == 0 and "ncsnpp" in done.stdout, done.stderr
