"""Exports to ONNX and torch.export: what the files compute, for any batch, and what is refused."""

from __future__ import annotations

import io
import json
import logging
from importlib import util
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from sdedit_pl import load_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints.exporters import exporter, to_onnx
from sdedit_pl.checkpoints.exporters.export_format import ExportError
from sdedit_pl.checkpoints.exporters.exported_function import METADATA_KEY, Estimator, compare_with_denoiser
from sdedit_pl.cli import main
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser

FORMATS = ("onnx", "torch_export")


def tiny(
    sde: str | dict[str, Any], network: str | dict[str, Any], parameterisation: str
) -> tuple[Denoiser, ModelConfig]:
    """A small model of random weights and its configuration."""
    shape = {"channels": 8, "channel_multipliers": [1, 2], "blocks_per_level": 1, "init_scale": 1.0}
    named = {"name": network} if isinstance(network, str) else network
    model = {
        "image": {"size": 8, "channels": 3},
        "sde": {"name": sde} if isinstance(sde, str) else sde,
        "network": {**shape, **named},
        "parameterisation": {"name": parameterisation},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        described = ModelConfig.from_data(model)
        return build_denoiser(described).eval().requires_grad_(False), described


MODELS = {
    "smallest": tiny("vp", {"name": "ddpm", "channel_multipliers": [1], "attention_levels": []}, "edm"),
    "vp edm": tiny(
        "vp", {"name": "ncsnpp", "progressive": "output_skip", "progressive_input": "residual", "fir": True}, "edm"
    ),
    "learned variance": tiny(
        {"name": "ddpm", "schedule": "cosine"}, {"name": "adm", "head_channels": 8}, "epsilon_and_variance"
    ),
    "ve score": tiny("ve", {"name": "ncsnpp", "block": "ddpm", "fir": True}, "score"),
    "subvp v": tiny("subvp", {"name": "ddpm", "smallest_group": 4, "patch": 2}, "v"),
}
every_format = pytest.mark.parametrize("form", FORMATS)


def loaded(form: str, file: Path, names: tuple[str, ...]) -> tuple[Any, Any]:
    """An export as a function of x_t and t, run as a user runs it, and the model's configuration in it."""
    if form == "torch_export":
        extra = {METADATA_KEY: ""}
        program = torch.export.load(io.BytesIO(file.read_bytes()), extra_files=extra)
        return program.module(), json.loads(extra[METADATA_KEY])
    onnx.checker.check_model(file)
    metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(names)

    def run(x_t: Tensor, t: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {"x_t": x_t.numpy(), "t": t.numpy()})]

    return run, json.loads(metadata[METADATA_KEY])


@every_format
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "smallest" else [pytest.mark.slow]) for name in MODELS]
)
def test_estimates_are_the_denoisers_own_for_any_batch(
    form: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    denoiser, model = MODELS[name]
    with caplog.at_level(logging.INFO, "sdedit_pl"):
        exporter(form).write(denoiser, model, tmp_path / "model")
    assert "largest relative error of the export against the network: " in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    names = Estimator(denoiser).outputs
    assert len(names) == (3 if name == "learned variance" else 2)
    run, configuration = loaded(form, tmp_path / "model", names)
    assert configuration == model.as_data()
    for batch in (1, 4):
        t = torch.linspace(0.2, 0.9, batch)
        x_t = denoiser.sde.sigma(t)[:, None, None, None] * torch.randn(batch, 3, 8, 8)
        x_0, score, *weight = run(x_t, t)
        estimates = denoiser.estimates(x_t, t)
        torch.testing.assert_close(x_0, denoiser(x_t, t), rtol=1e-3, atol=1e-3 * x_0.abs().max().item())
        torch.testing.assert_close(score, denoiser.score(x_t, t), rtol=1e-3, atol=1e-3 * score.abs().max().item())
        assert [estimates.variance_weight] == [None] if not weight else True
        for found in weight:
            torch.testing.assert_close(found, estimates.variance_weight, rtol=1e-3, atol=1e-3)


def test_an_export_that_computes_something_else_is_refused() -> None:
    denoiser, model = MODELS["smallest"]

    def run(x_t: Tensor, t: Tensor) -> list[Tensor]:
        return [denoiser(x_t, t), 1.001 * denoiser.score(x_t, t)]

    with pytest.raises(ExportError, match=r"the exported score differs from the network's by 1.0e-03.*nothing was wri"):
        compare_with_denoiser(denoiser, model, run)
    with pytest.raises(ExportError, match=r"the exported x_0 differs from the network's by nan"):
        compare_with_denoiser(denoiser, model, lambda x_t, t: [torch.full_like(x_t, torch.nan)] * 2)


@pytest.mark.slow
@every_format
def test_the_verb(form: str, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / ("model.onnx" if form == "onnx" else "model.pt2")
    assert main(["export", f"ckpt={tiny_checkpoint}", f"format={form}", f"out={out}"]) == 0
    assert "largest relative error of the export against the network: " in capsys.readouterr().err
    denoiser = load_denoiser(tiny_checkpoint)
    x_t, t = torch.randn(3, 3, 16, 16), torch.tensor([0.2, 0.5, 0.9])
    x_0, _ = loaded(form, out, ("x_0", "score"))[0](x_t, t)
    torch.testing.assert_close(x_0, denoiser(x_t, t), rtol=1e-3, atol=1e-3)


def test_without_the_libraries_of_onnx(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = util.find_spec
    monkeypatch.setattr(to_onnx, "find_spec", lambda name: None if name.startswith("onnx") else there(name))
    assert main(["export", f"ckpt={tiny_checkpoint}", "format=onnx", f"out={tmp_path / 'model.onnx'}"]) == 2
    assert "needs onnx, onnxruntime, onnxscript: pip install 'sdedit-pl[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_what_a_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, model = MODELS["smallest"]
    monkeypatch.setattr(to_onnx, "LARGEST", 1000)
    with pytest.raises(ExportError, match=r"holds up to 2 GiB, the weights are .*; use format=torch_export"):
        exporter("onnx").write(denoiser, model, tmp_path / "model.onnx")
