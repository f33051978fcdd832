"""`sdedit demo`, with a small model and small guides."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

DEMO = ("demo", "ckpt=tiny.safetensors", "guide=guides", "mask=masks", "steps=2", "samples=2", "columns=2")


@pytest.fixture(autouse=True)
def folders(desk: Path) -> None:
    """Three guides; one has a mask."""
    Path("guides").mkdir()
    Path("masks").mkdir()
    for name in "abc":
        Image.open("guide.png").save(f"guides/{name}.png")
    Image.open("mask.png").save("masks/b.png")


def test_it_writes_one_picture_and_prints_its_path(command) -> None:
    code, output, errors = command(*DEMO, "out=new/demo.png")
    assert (code, output) == (0, "guides and their edits: new/demo.png\n")
    assert errors == "no mask for a, c: edited everywhere\n"
    assert os.listdir("new") == ["demo.png"]
    # Two columns of (guide, two samples) at 256 px, two rows: three guides and one noised guide.
    width, height = Image.open("new/demo.png").size
    assert 2 * 3 * 256 < width < 2 * 3 * 280 and 2 * 256 < height < 2 * 290


def test_it_replaces_its_picture_only_on_request(command, refused: Callable[..., str]) -> None:
    assert command(*DEMO, "out=demo.png", "columns=1").code == 0
    before = Path("demo.png").read_bytes()
    assert "demo.png is already there" in refused(*DEMO, "out=demo.png")
    assert command(*DEMO, "out=demo.png", "overwrite=true").code == 0
    assert Path("demo.png").read_bytes() != before


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("out=guides", "out=guides is a folder; name a PNG file"),
        ("out=guide.png/demo.png", "cannot be written"),
        ("ckpt=missing.safetensors", "no checkpoint at missing.safetensors"),
        ("ckpt=text.png", "not a complete checkpoint"),
        ("guide=nothing", "holds no images"),
        ("mask=elsewhere", "no mask in elsewhere is named like a guide"),
        ("samples=0", "samples must be at least 1"),
        ("columns=0", "columns must be at least 1"),
        ("steps=0", "steps must be at least 1"),
        ("t0=2", "t0 must lie in (0, 1]"),
        ("colums=2", "did you mean columns?"),
    ],
)
def test_bad_input_is_refused(argument: str, words: str, refused: Callable[..., str]) -> None:
    assert words in refused(*DEMO, "out=new/demo.png", argument)


def test_outside_a_checkout_its_guides_are_missed(refused: Callable[..., str]) -> None:
    assert "a checkout of the project: there is no data/guides" in refused("demo")
