"""`sdedit detect`: its files, its measures, and refused arguments."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.interruptions import contents, interrupt_after

DETECT = ("detect", "ckpt=tiny.safetensors", "data=parts", "truth=masks", "steps=2", "samples=2", "out=o")


@pytest.fixture(autouse=True)
def parts(desk: Path) -> None:
    """Eight images in two classes; those with even numbers have a white square and a mask of it."""
    for number in range(8):
        image, mask = np.full((16, 16, 3), 20 * number, dtype=np.uint8), np.zeros((16, 16), dtype=np.uint8)
        image[4:9, 5:12], mask[4:9, 5:12] = 255, 255
        for folder, pixels in {"parts": image if number % 2 == 0 else image // 9, "masks": mask}.items():
            file = Path(folder, "ab"[number // 4], f"{number}{'_mask' * (folder == 'masks')}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            if number % 2 == 0 or folder == "parts":
                Image.fromarray(pixels).save(file)
    Path("blank").mkdir()
    Image.open("black.png").save("blank/0.png")
    Path("blank/a").mkdir()
    Image.open("black.png").save("blank/a/0.png")


def test_maps_scores_and_measures(command) -> None:
    code, output, errors = command(*DETECT, "t0=[sigma:0.3,sigma:0.8]")
    assert code == 0 and "no mask for 4 of 8 images, which count as free of defects" in errors
    assert output.startswith("all t0: AUROC ") and output.endswith("8 images; the report: o/report.html\n")
    numbers = json.loads(Path("o/metrics.json").read_text())
    assert numbers["with_defects"] == 4
    assert list(numbers["measures"]) == ["all t0", "t0 = sigma:0.3", "t0 = sigma:0.8", "whole images"]
    for row in numbers["measures"].values():
        assert all(0 <= low <= high <= 1 and 0 <= value <= 1 for value, low, high in row.values())
    with open("o/scores.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["defect"]) for row in rows[3:5]] == [("a/3", "0"), ("b/4", "1")]
    anomaly = np.array(Image.open("o/maps/b/4.png"))
    assert anomaly.dtype == np.uint16 and anomaly.shape == (16, 16)
    assert np.sort(anomaly.ravel())[-3:].mean() / 65535 == pytest.approx(float(rows[4]["score"]), abs=1e-4)
    assert Path("o/spreads/b/4.png").is_file() and "best Dice" in Path("o/report.md").read_text()


def test_without_truth_there_are_maps_and_scores_and_results_are_replaced_on_request(command) -> None:
    assert command(*DETECT).code == 0
    errors = command(*DETECT, "steps=3").errors
    assert "o was made with other settings: steps was 2, and is 3 now; give another out=, or overwrite=true" in errors
    code, output, _ = command(*DETECT, "truth=null", "images=3", "overwrite=true")
    assert (code, output) == (0, "3 images; the report: o/report.html\n")
    assert len(list(Path("o").rglob("*.png"))) == 3 + 3 + 1
    assert Path("o/scores.csv").read_text().startswith("image,score\n")


def test_an_interrupted_run_is_resumed_to_the_byte_and_only_with_its_settings(command, monkeypatch) -> None:
    assert command(*DETECT, "out=whole").code == 0
    with monkeypatch.context() as patch:
        interrupt_after(3, "sdedit_pl.evaluation.anomaly_maps.save", patch)
        assert command(*DETECT).code == 130
    assert not any(file.name[0] != "." for file in Path("o").iterdir())
    assert "samples was 2, and is 3 now; resume it with its own" in command(*DETECT, "samples=3").errors
    made = interrupt_after(5, "sdedit_pl.evaluation.anomaly_maps.save", monkeypatch)
    assert command(*DETECT, "batch=2").code == 0 and next(made, None) is None
    assert contents("o") == contents("whole")


def test_hostile_names_do_not_spoil_the_results(command) -> None:
    for name in ("=cmd()", "<b>", os.fsdecode(b"\xff")):
        shutil.copy("black.png", f"blank/a/{name}.png")
    assert command(*DETECT, "data=blank/a", "truth=null").code == 0
    assert b"\n'=cmd()," in Path("o/scores.csv").read_bytes()
    assert "<b>" not in Path("o/report.html").read_text()
    json.loads(Path("o/metrics.json").read_text())


REFUSED = {
    "truth=missing": "truth=missing is not a folder",
    "truth=elsewhere": "no mask in truth=elsewhere is named like an image; name the mask of the first image a/0.png",
    "truth=blank": "no mask in truth=blank has a white pixel",
    "data=missing": "there is no data=missing",
    "t0=[0.3,0.3]": "t0 takes one or more different values",
    "t0=[2]": "t0 must lie in (0, 1], got 2",
    "samples=0": "samples must be at least 1",
    "blur=1001": "blur must be at most 1,000",
    "top=0": "top lies in (0, 1], got blur=2.0 and top=0.0",
    "residual=alex lpips_weights=none.pth": "none.pth cannot be read (No such file or directory); lpips_weights= takes",
    "residual=mse": "residual must be 'pixel', 'alex', 'vgg' or 'squeeze'",
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_is_refused(argument: str, refused) -> None:
    message = refused(*DETECT, *argument.split())
    assert REFUSED[argument] in message, message
