"""`sdedit export`: its files, those that it keeps, and the round trip through diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from support.diffusers_models import AS_DDPM, AS_NCSNPP, save_pipeline

from sdedit_pl import save_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints.exporters.export_format import Export, ExportError
from sdedit_pl.checkpoints.importers.noise_conventions import discrete_vp
from sdedit_pl.cli import export
from sdedit_pl.configuration.resolving import resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.denoiser import Denoiser


@pytest.fixture
def table(desk: Path) -> str:
    """An editing checkpoint that diffusers can express."""
    network = {
        "name": "ddpm",
        "channels": 32,
        "channel_multipliers": [1],
        "blocks_per_level": 1,
        "attention_levels": [],
    }
    settings = {"data": {"path": "unused", "size": 16}, "network": network, **discrete_vp()}
    model = resolve(TrainingConfig, settings).model
    save_denoiser(desk / "table.safetensors", build_denoiser(model), model)
    return "table.safetensors"


def test_it_writes_a_folder_that_diffusers_loads(table: str, command: Callable[..., Any]) -> None:
    assert command("export", f"ckpt={table}", "out=made/pipeline") == (0, "diffusers: made/pipeline\n", "")
    assert sorted(path.name for path in Path("made").iterdir()) == ["pipeline"]
    unet = DiffusionPipeline.from_pretrained("made/pipeline").unet
    assert unet.config["block_out_channels"] == [32] and unet.dtype == torch.float32


@pytest.mark.parametrize(("options", "t0"), [(AS_DDPM, 0.5), (AS_NCSNPP, 0.4)], ids=["table of betas", "ve"])
def test_a_round_trip_changes_no_pixel(
    options: Mapping[str, Any], t0: float, desk: Path, command: Callable[..., Any]
) -> None:
    """Diffusers -> import -> edit -> export -> diffusers loads and saves -> import -> edit."""
    edit = ("guide=guide.png", "mask=mask.png", f"t0={t0}", "steps=3", "samples=1")
    save_pipeline(desk / "theirs", options)
    pictures = []
    for turn, source in enumerate(("theirs", "again")):
        assert command("import", f"ckpt={source}", f"out={turn}.safetensors").code == 0
        assert command("edit", f"ckpt={turn}.safetensors", f"out=edits/{turn}", *edit).code == 0
        assert command("export", f"ckpt={turn}.safetensors", f"out=export{turn}", "format=diffusers").code == 0
        DiffusionPipeline.from_pretrained(f"export{turn}").save_pretrained("again")
        pictures.append({path.name: path.read_bytes() for path in Path(f"edits/{turn}").rglob("*.png")})
    assert pictures[0] == pictures[1] and pictures[0]
    assert command("edit", "ckpt=theirs", "out=edits/direct", *edit).code == 0
    direct = {path.name: path.read_bytes() for path in Path("edits/direct").rglob("*.png")}
    assert direct == pictures[0]


def test_an_export_is_replaced_on_request_only(table: str, desk: Path, refused: Callable[..., str], command) -> None:
    assert command("export", f"ckpt={table}", "out=made").code == 0
    code, _, errors = command("export", f"ckpt={table}", "out=made")
    assert code == 0 and errors == "the results were already there, byte for byte\n"
    Path("made/unet/config.json").write_text("{}")
    assert "made is already there" in refused("export", f"ckpt={table}", "out=made")
    assert command("export", f"ckpt={table}", "out=made", "overwrite=true").code == 0
    assert json.loads(Path("made/unet/config.json").read_text())["_class_name"] == "UNet2DModel"
    assert not [path for path in desk.iterdir() if path.name.startswith(".")]


def test_overwriting_spares_other_files(
    table: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ("export", f"ckpt={table}", "overwrite=true")
    assert "out=guide.png is a file, but not an earlier export" in refused(*order, "out=guide.png")
    assert "out=elsewhere is not an earlier export, it holds another.png" in refused(*order, "out=elsewhere")
    assert "cannot be written" in refused(*order, "out=guide.png/inside")
    written = SimpleNamespace(write=lambda denoiser, model, out: out.write_bytes(b"\x08\x0a"))
    monkeypatch.setattr(export, "exporter", lambda format: written)
    assert "out=guide.png is a file, but not an earlier export" in refused(*order, "out=guide.png", "format=onnx")


def test_a_refused_export_leaves_nothing(refused: Callable[..., str]) -> None:
    message = refused("export", "ckpt=tiny.safetensors", "out=made", "format=diffusers")
    assert " features of the label with parameterisation.name=edm and sde.name=vp" in message


def test_a_failure_in_the_middle_leaves_nothing(
    table: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Export):
        def write(self, denoiser: Denoiser, model: Mapping[str, Any], out: Path) -> None:
            out.mkdir()
            (out / "part").touch()
            raise ExportError("the disk is full of examples")

    monkeypatch.setattr(export, "exporter", lambda format: Failing())
    assert refused("export", f"ckpt={table}", "out=deep/made") == "the disk is full of examples"


def test_the_format_has_to_be_known(table: str, refused: Callable[..., str]) -> None:
    assert "format=difusers is not known; did you mean diffusers?" in refused(
        "export", f"ckpt={table}", "out=made", "format=difusers"
    )
    assert refused("export", f"ckpt={table}").startswith("out is required")
