"""`sdedit translate`: its files, its measures, and refused arguments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.colour_features import ColourFeatures
from support.interruptions import contents, interrupt_after

from sdedit_pl import save_denoiser
from sdedit_pl.checkpoints import load_described
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.evaluation.run_translation import METHODS, TWO_ENERGIES
from sdedit_pl.metrics.extractor_table import FEATURES

TRANSLATE = (
    "translate", "source_ckpt=tiny.safetensors", "ckpt=tiny.safetensors", "guide=guides", "steps=3", "out=o",
    "features=colour",
)  # fmt: skip


@pytest.fixture(autouse=True)
def guides(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURES, "colour", ColourFeatures)
    for number in range(3):
        Path("guides").mkdir(exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 60 * number + 40, dtype=np.uint8)).save(f"guides/{number}.png")
    shutil.copytree("guides", "pairs")


def test_every_method_is_written_and_measured(command) -> None:
    every = (*METHODS, TWO_ENERGIES)
    code, output, _ = command(*TRANSLATE, "pairs=pairs", "target=guides", f"methods=[{','.join(every)}]")
    assert code == 0 and output.endswith("3 images by 4 methods; see o/report.html\n")
    measures = json.loads(Path("o/metrics.json").read_text())["measures"]
    assert list(measures) == ["guide", *every]
    assert measures["guide"]["pair_squared_l2"] == 0 and "squared_l2" not in measures["guide"]
    for name in every:
        images = [np.array(Image.open(f"o/{number}_{name}.png")) / 255 for number in range(3)]
        pairs = [np.array(Image.open(f"pairs/{number}.png")) / 255 for number in range(3)]
        l2 = np.mean([((image - pair) ** 2).sum() for image, pair in zip(images, pairs, strict=True)])
        assert measures[name]["pair_squared_l2"] == measures[name]["squared_l2"] == pytest.approx(l2, rel=1e-4)
        assert {"ssim_error", "pair_psnr", "kid_low"} <= measures[name].keys()
    report = Path("o/report.md").read_text()
    assert "PSNR to pair" in report and "KID compares with guides, by features of colour" in " ".join(report.split())
    code, output, _ = command(*TRANSLATE, "methods=[ddib]", "guide=guides/0.png", "overwrite=true")
    assert code == 0 and sorted(file.name for file in Path("o").glob("*.png")) == ["0_ddib.png"]
    assert "KID" not in Path("o/report.md").read_text()


def test_padded_guides_keep_their_shape(command) -> None:
    """The whole of a guide of 24 x 12 pixels is translated at the models' scale, and measured with its padding."""
    wide = np.linspace(0, 255, 12 * 24 * 3).reshape(12, 24, 3).astype(np.uint8)
    Image.fromarray(wide).save("wide.png")
    sizes = {}
    once = (*TRANSLATE, "guide=wide.png", "methods=[sdedit]", "t0=0.01")
    for fit in ("crop", "pad"):
        assert command(*once, f"fit={fit}", f"out={fit}").code == 0
        sizes[fit] = Image.open(f"{fit}/wide_sdedit.png").size
    assert sizes == {"crop": (16, 16), "pad": (16, 8)}
    expected = np.array(Image.fromarray(wide).resize((16, 8), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(np.array(Image.open("pad/wide_sdedit.png")) - expected).mean() < 30
    assert json.loads(Path("pad/metrics.json").read_text())["measures"]["sdedit"]["squared_l2"] > 0


def test_an_interrupted_run_is_resumed_to_the_byte(command, monkeypatch) -> None:
    assert command(*TRANSLATE, "out=whole").code == 0
    with monkeypatch.context() as patch:
        interrupt_after(5, "sdedit_pl.evaluation.run_translation.result_file", patch)
        assert command(*TRANSLATE).code == 130
    made = interrupt_after(4, "sdedit_pl.evaluation.run_translation.result_file", monkeypatch)
    assert command(*TRANSLATE, "batch=2").code == 0 and next(made, None) is None
    assert contents("o") == contents("whole")


def test_what_is_refused(refused) -> None:
    denoiser, description = load_described("tiny.safetensors")
    small = ModelConfig.from_data({**description.model.as_data(), "image": {"size": 8, "channels": 3}})
    save_denoiser("small.safetensors", denoiser, small)
    for argument, words in {
        "source_ckpt=small.safetensors": "one shape, got 3 channels, 8 px and 3 channels, 16 px",
        "methods=[ddim]": "methods are some of ddib, sdedit, energy, two_energies, got ddim",
        "realism=0": "realism must exceed 0",
        "pairs=elsewhere": "pairs=elsewhere has no image named like the guide 0",
        "target=elsewhere": "at least 3 images are needed, and data=elsewhere has 1; give more images",
        "level=1e9": "these models were trained up to noise level",
        "steps=1": "ddib needs at least 2 steps",
        "lowpass_energy=0": "lowpass_energy must exceed 0",
        "t0=2": "t0 must lie in (0, 1], got 2",
        "guide=missing": "no file or folder at missing",
    }.items():
        assert words in refused(*TRANSLATE, argument), argument
