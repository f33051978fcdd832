"""`sdedit import`, from published files to edits, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from support.damage import Bomb, lightning_checkpoint

from sdedit_pl.checkpoints import describe, load_denoiser, loading, native
from sdedit_pl.checkpoints.importers import importer
from sdedit_pl.checkpoints.importers.presets import PRESETS, Preset
from sdedit_pl.files import claimed

DDIM_FILE, SCORE_SDE_FILE = "sdedit_ddpm/model.ckpt", "score_sde_checkpoint/checkpoint_1.pth"


@pytest.fixture
def tiny_preset(reference: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes the tiny network of the parity data a preset; returns its name."""
    config = json.loads((reference / "sdedit_ddpm/config.json").read_text())
    model = importer("ddim").read(reference / DDIM_FILE, config=config).model.as_data()
    monkeypatch.setitem(PRESETS, "tiny", Preset("ddim", model, {"variance": "fixedsmall"}))
    return "tiny"


def pixels(folder: Path) -> dict[str, np.ndarray]:
    """The samples in the folder of an edit."""
    return {file.name: np.asarray(Image.open(file)) for file in sorted(folder.glob("guide_seed*.png"))}


def test_an_import_edits_as_its_source_does(desk: Path, reference: Path, tiny_preset: str, command) -> None:
    """A source whose model can be derived from the file is edited with directly, and gives the same pictures."""
    source = reference / DDIM_FILE
    code, output, errors = command("import", f"ckpt={source}", "out=model.safetensors")
    assert (code, errors) == (0, "")
    assert "tiny in the format ddim" in output and "144 in the file became 128; 0 not needed" in output
    assert f"parameters: {describe('model.safetensors').parameters:,}" in output
    assert "sdedit edit ckpt=model.safetensors" in output
    for ckpt, out in ((source, "direct"), ("model.safetensors", "imported")):
        settings = ("samples=1", "steps=2", "guide=guide.png", "mask=mask.png")
        assert command("edit", f"ckpt={ckpt}", f"out={out}", *settings).code == 0
    direct, imported = (pixels(desk / out) for out in ("direct", "imported"))
    assert direct.keys() == imported.keys() == {"guide_seed0.png"}
    assert all(np.array_equal(direct[name], imported[name]) for name in direct)
    record = yaml.safe_load((desk / "direct/edit.yaml").read_text())["record"]
    assert record["sha256"][str(source)] == describe("model.safetensors").origin["sha256"]


def test_two_imports_do_not_mix(desk: Path, reference: Path, tiny_preset: str, command) -> None:
    words = ("import", f"ckpt={reference / DDIM_FILE}", "out=model.safetensors")
    with claimed(Path(), "model.safetensors"):
        code, _, errors = command(*words)
    assert code == 2 and "is writing model.safetensors; wait until it ends" in errors
    assert command(*words).code == 0


@pytest.mark.parametrize(("weights", "steps"), [("ema", 1234), ("raw", 1234)])
def test_a_trainers_checkpoint_and_the_configuration_beside_it(
    weights: str, steps: int, desk: Path, reference: Path, command
) -> None:
    source = reference / SCORE_SDE_FILE
    arguments = (
        f"ckpt={source}",
        f"config={source.parent / 'config.json'}",
        f"weights={weights}",
        "out=new/m.safetensors",
    )
    assert command("import", *arguments).code == 0
    said = yaml.safe_load(command("info", "ckpt=new/m.safetensors").output)
    assert said["format"] == "sdedit_pl" and said["model"]["sde"] == {"name": "ve", "sigma_min": 0.02, "sigma_max": 100}
    assert said["training"]["steps"] == steps
    origin = said["origin"]
    assert origin["format"] == "score_sde" and origin["file"] == "checkpoint_1.pth" and origin["weights"] == weights
    assert said["data_range"] == [-1, 1] and origin["data_range"] == [0, 1]
    stored = torch.load(source, weights_only=True)
    first = stored["ema"]["shadow_params"][0] if weights == "ema" else stored["model"]["module.all_modules.1.weight"]
    assert torch.equal(load_file("new/m.safetensors")["label_embedding.hidden.weight"], first)


@pytest.mark.parametrize(
    ("stored", "asked", "kept"),
    [
        (torch.float16, None, "float16"),
        (torch.float16, "float32", "float32"),
        (torch.bfloat16, None, "bfloat16"),
        (torch.float32, "bfloat16", "bfloat16"),
        (torch.float32, None, "float32"),
    ],
)
def test_half_precision_is_kept_or_cast_as_asked(
    stored: torch.dtype, asked: str | None, kept: str, desk: Path, reference: Path, tiny_preset: str, command
) -> None:
    tensors = torch.load(reference / DDIM_FILE, weights_only=True)
    torch.save({name: tensor.to(stored) for name, tensor in tensors.items()}, "half.ckpt")
    cast = [] if asked is None else [f"dtype={asked}"]
    assert command("import", "ckpt=half.ckpt", "out=half.safetensors", *cast).code == 0
    assert describe("half.safetensors").dtypes == (kept,)
    network = load_denoiser("half.safetensors").network
    expected = tensors["conv_in.weight"].to(stored).to(getattr(torch, kept)).float()
    assert torch.equal(network.get_parameter("stem.weight"), expected)


def test_a_checkpoint_of_this_projects_training(desk: Path, tiny_checkpoint: Path, command) -> None:
    checkpoint = lightning_checkpoint(tiny_checkpoint)
    raw = {name: tensor + 1 for name, tensor in checkpoint["state_dict"].items()}
    torch.save({**checkpoint, "current_model_state": raw}, "last.ckpt")
    for weights, more in (("ema", 0), ("raw", 1)):
        assert command("import", "ckpt=last.ckpt", f"weights={weights}", f"out={weights}.safetensors").code == 0
        averaged = load_file(tiny_checkpoint)
        for name, tensor in load_file(f"{weights}.safetensors").items():
            assert torch.equal(tensor, averaged[name] + more), name


def test_an_edit_reads_its_checkpoint_once(desk: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def read(file: Path) -> Any:
        reads.append(file)
        return native.read_weights(file)

    monkeypatch.setattr(loading, "read_weights", read)
    assert command("edit", "ckpt=tiny.safetensors", "guide=guide.png", "samples=1", "steps=1").code == 0
    assert reads == [Path("tiny.safetensors")]


def test_an_import_replaces_files_on_request_only(
    desk: Path, reference: Path, tiny_preset: str, command, refused
) -> None:
    arguments = (f"ckpt={reference / DDIM_FILE}", "out=model.safetensors")
    assert command("import", *arguments).code == 0
    code, _, errors = command("import", *arguments)
    assert code == 0 and "the results were already there" in errors
    other = ("import", *arguments, "dtype=float16")
    assert "model.safetensors is already there; give another out=, or overwrite=true" in refused(*other)
    assert command(*other, "overwrite=true").code == 0


@pytest.mark.parametrize("words", [("import",), ("export", "format=torch_export")])
def test_a_checkpoint_is_never_replaced_by_what_is_made_of_it(words: tuple[str, ...], refused) -> None:
    message = refused(*words, "ckpt=tiny.safetensors", "out=tiny.safetensors", "overwrite=true")
    assert message == "out=tiny.safetensors is the checkpoint to read; give another out="


@pytest.mark.parametrize("kind", ["truncated", "extra", "code"])
def test_bad_sources_are_refused_and_leave_nothing(
    kind: str, desk: Path, reference: Path, refused: Callable[..., str]
) -> None:
    tensors, file = torch.load(reference / DDIM_FILE, weights_only=True), Path("bad.ckpt")
    torch.save({**tensors, "extra": Bomb(Path.cwd()) if kind == "code" else torch.ones(2)}, file)
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-5000])
    words = {"truncated": "not a complete checkpoint", "extra": "not expected extra", "code": "could run code"}
    arguments = (f"ckpt={file}", f"config={reference / 'sdedit_ddpm/config.json'}", "out=model.safetensors")
    message = refused("import", *arguments)
    assert "bad.ckpt" in message and words[kind] in message
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=a.safetensors"], "ckpt is required"),
        (["ckpt={ddim}"], "out is required"),
        (["ckpt=nowhere.pth", "out=a.safetensors"], "there is no checkpoint at nowhere.pth"),
        (["ckpt={ddim}", "out=a.pth"], "out=a.pth must be a .safetensors file"),
        (["ckpt={ddim}", "out=folder.safetensors"], "out=folder.safetensors is a folder; name a file in it"),
        (["ckpt={ddim}", "out=a.safetensors", "format=keras"], "format must be one of lightning, score_sde, ddim"),
        (["ckpt={ddim}", "out=a.safetensors", "weights=best"], "weights must be 'ema' or 'raw', got 'best'"),
        (
            ["ckpt={ddim}", "out=a.safetensors", "dtype=int8"],
            "dtype must be 'float32', 'float16' or 'bfloat16' or null",
        ),
        (["ckpt={ddim}", "out=a.safetensors", "preset=church"], "preset=church is not known; did you mean"),
        (["ckpt={ddim}", "out=a.safetensors", "preset=church_outdoor"], "not those of preset=church_outdoor: missing"),
        (["ckpt={ddim}", "out=a.safetensors"], "fits no preset"),
        (["ckpt={ddim}", "out=a.safetensors", "config=none.json"], "there is no configuration file none.json"),
        (["ckpt={ddim}", "out=a.safetensors", "config=text.png"], "config=text.png is not a JSON file"),
        (
            ["ckpt={ddim}", "out=a.safetensors", "config=list.json"],
            "config=list.json must hold a JSON object, got list",
        ),
        (["ckpt={ddim}", "out=a.safetensors", "config={config}", "preset=bedroom"], "a preset or a config, not both"),
        (["ckpt={ddim}", "out=a.safetensors", "config={config}", "format=score_sde"], "lacks 'training'"),
        (["ckpt=tiny.safetensors", "out=a.safetensors"], "tiny.safetensors is an editing checkpoint already"),
        (["ckpt=nothing", "out=a.safetensors"], "A diffusers folder needs its config.json"),
        (["ckpt=guide.png", "out=a.safetensors"], "guide.png is not a complete checkpoint"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, desk: Path, reference: Path, refused: Callable[..., str]
) -> None:
    Path("folder.safetensors").mkdir()
    Path("list.json").write_text("[1]")
    places: dict[str, Any] = {"ddim": reference / DDIM_FILE, "config": reference / "sdedit_ddpm/config.json"}
    assert message in refused("import", *(argument.format(**places) for argument in arguments))


def test_lightning_checkpoints_take_no_preset(desk: Path, tiny_checkpoint: Path, refused: Callable[..., str]) -> None:
    torch.save(lightning_checkpoint(tiny_checkpoint), "last.ckpt")
    message = refused("import", "ckpt=last.ckpt", "out=a.safetensors", "preset=bedroom")
    assert "last.ckpt carries its own configuration: leave preset and config out" in message
    message = refused("import", "ckpt=last.ckpt", "out=a.safetensors", "weights=raw")
    assert "it lacks sdedit_config or current_model_state" in message


def test_the_help_lists_the_presets(command) -> None:
    output = command("import", "--help").output
    assert all(name in output for name in PRESETS)
