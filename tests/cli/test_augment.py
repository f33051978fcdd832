"""`sdedit augment`: its tree and manifest, resuming, and refused arguments."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.interruptions import contents

from sdedit_pl import save_denoiser
from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import load_described
from sdedit_pl.configuration.model_config import ModelConfig

AUGMENT = ("augment", "ckpt=tiny.safetensors", "data=tree", "steps=2", "n=5", "t0=0.2,0.4", "levels=2")


@pytest.fixture(autouse=True)
def tree(desk: Path) -> None:
    for name in ("hat/a.png", "hat/deep/a.png", "shoe/b.png"):
        Path("tree", name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("guide.png", f"tree/{name}")


def test_every_class_gets_n_edits_spread_over_images_and_t0(command) -> None:
    assert command(*AUGMENT, "out=o") == (0, "10 edits of 2 classes in o; see o/manifest.csv\n", "")
    with open("o/manifest.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} | {"augment.json", "manifest.csv"} == contents("o").keys()
    assert all(row["file"].startswith(f"{row['class']}/") for row in rows)
    assert Counter(row["source"] for row in rows) == {"hat/a.png": 3, "hat/deep/a.png": 2, "shoe/b.png": 5}
    assert {(row["source"], row["t0"]) for row in rows} == {
        (source, t0) for source in ("hat/a.png", "hat/deep/a.png", "shoe/b.png") for t0 in ("0.2", "0.4")
    }
    row = rows[-1]
    edit = (f"guide=tree/{row['source']}", f"t0={row['t0']}", f"seed={row['seed']}", "steps=2", "samples=1", "out=one")
    assert command("edit", AUGMENT[1], *edit).code == 0
    pixels = [np.array(Image.open(file)) for file in (f"o/{row['file']}", f"one/b_seed{row['seed']}.png")]
    assert np.array_equal(pixels[0], pixels[1])


def test_a_class_can_have_a_number_and_a_range_of_its_own(command, refused) -> None:
    words = (*AUGMENT, "t0_of.shoe=0.1,0.3", "levels=1", "out=o")
    assert command(*words, "n_of.hat=3").code == 0
    assert command(*words, "n_of.hat=3").code == 0
    assert "n_of.hat was 3, and is 5 now" in refused(*words, "n_of.shoe=5")
    assert "n_of was {'hat': 3, 'shoe': 5}, and is None now" in refused(*words)
    with open("o/manifest.csv") as file:
        found = Counter((row["class"], row["t0"]) for row in csv.DictReader(file))
    assert found == {("hat", "0.2"): 3, ("shoe", "0.1"): 5}


def test_an_interrupted_run_is_resumed_to_the_byte_and_only_with_its_settings(command, refused) -> None:
    assert command(*AUGMENT, "out=o").code == 0
    whole = contents("o")
    for name in ("manifest.csv", "hat/a_seed0.png", "shoe/b_seed9.png"):
        Path("o", name).unlink()
    assert command(*AUGMENT, "out=o", "batch=1").code == 0
    assert contents("o") == whole
    assert "n was 5, and is 6 now; resume it with its own settings, or give another out=" in refused(
        *AUGMENT, "n=6", "out=o"
    )


def test_a_model_of_these_classes_edits_each_image_as_one_of_its_own(command) -> None:
    _, description = load_described("tiny.safetensors")
    condition = {"classes": ["hat", "shoe"], "drop": 0.0}
    model = ModelConfig.from_data({**description.model.as_data(), "condition": condition})
    denoiser = build_denoiser(model)
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=torch.manual_seed(weight.numel()))
    save_denoiser("labelled.safetensors", denoiser, model)
    words = ("ckpt=labelled.safetensors", "steps=2", "t0=0.4")
    assert command("augment", *words, "data=tree", "n=1", "levels=1", "t0=0.4,0.4", "out=o").code == 0
    edit = ("guide=tree/shoe/b.png", "seed=1", "samples=1")
    pixels = [np.array(Image.open("o/shoe/b_seed1.png"))]
    for label in ("shoe", "hat"):
        assert command("edit", *words, *edit, f"label={label}", f"out={label}").code == 0
        pixels.append(np.array(Image.open(f"{label}/b_seed1.png")))
    assert np.array_equal(pixels[0], pixels[1]) and not np.array_equal(pixels[0], pixels[2])


REFUSED = {
    "data=missing": "data folder missing does not exist",
    "data=elsewhere": "elsewhere/another.png is in no class; data needs a folder of images for each class",
    "out=tree/o": "out=tree/o lies within data=tree",
    "out=elsewhere": "elsewhere already holds files; give another out=",
    "t0=0.5,0.2": "t0 is lowest,highest, got 0.5,0.2",
    "t0=0.2,1.5": "t0 must lie in (0, 1], got 1.5",
    "t0=0.2": "t0 must be a valid array, got 0.2",
    "n_of.shoes=3": "take the classes of data, got shoes; did you mean shoe?",
    "n_of.shoe=-1": "n_of must be at least 0 for each class",
    "t0_of.shoe=0.5,0.2": "t0 is lowest,highest, got 0.5,0.2",
    "n=0": "n must be at least 1, got 0",
    "steps=0": "steps must be at least 1, got 0",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_is_refused(argument: str, refused) -> None:
    message = refused(*AUGMENT, "out=new/out", argument)
    assert REFUSED[argument] in message, message


def test_an_unreadable_image_is_named_before_the_first_edit(refused) -> None:
    shutil.copy("text.png", "tree/hat/text.png")
    assert "tree/hat/text.png: it is not an image" in refused(*AUGMENT, "out=new/out")
