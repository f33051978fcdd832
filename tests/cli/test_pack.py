"""`sdedit pack` as a user meets it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def photos(desk: Path) -> Path:
    """Seven images, the last two equal, and a text."""
    folder = desk / "photos"
    folder.mkdir()
    for number in range(7):
        Image.new("RGB", (24, 16), (40 * min(number, 5), 0, 0)).save(folder / f"{number}.png")
    (folder / "text.jpg").write_text("text")
    return folder


@pytest.mark.parametrize("processes", [1, 2])
def test_it_says_what_came_of_the_images(photos: Path, command, processes: int) -> None:
    code, output, _ = command(
        "pack", "data=photos/", "out=mine", "size=16", "val_fraction=0.3", f"processes={processes}"
    )
    manifest = json.loads(Path("mine/manifest.json").read_text())
    counts = {split: facts["images"] for split, facts in manifest["splits"].items()}
    assert code == 0 and sum(counts.values()) == 7 and counts["val"] > 0
    lines = output.splitlines()
    assert lines[0] == f"train: {counts['train']} images in 1 shard"
    assert "1 of 8 images cannot be read and were left out:" in lines
    assert "  cannot read image photos/text.jpg: it is not an image" in lines
    assert "1 of 8 images equal an earlier one:" in lines
    assert {"  photos/5.png = photos/6.png", "  photos/6.png = photos/5.png"} & set(lines)
    assert lines[-1] == "train with: data.name=webdataset data=mine data.size=16"
    assert command("pack", "data=photos", "out=mine", "size=16", "val_fraction=0.3").output == output


@pytest.mark.parametrize(
    ("keys", "last"),
    [
        (["size=[16,8]", "fit=random_crop", "margin=4"], "data.random_crop=4"),
        (["size=16", "channels=1", "format.dtype=uint8", "format.shown=[0]"], "data.format.shown=[0]"),
    ],
)
def test_what_it_says_to_train_with_can_be_trained_with(keys: list[str], last: str, photos: Path, command) -> None:
    for file in photos.glob("*.png"):
        Image.open(file).convert("L" if "channels=1" in keys else "RGB").save(file)
    _, output, _ = command("pack", "data=photos", "out=my shards", *keys, "processes=1")
    arguments = shlex.split(output.splitlines()[-1].removeprefix("train with: "))
    assert last in arguments
    small = [
        "network.channels=8", "network.channel_multipliers=[1]", "network.blocks_per_level=1",
        "network.attention_levels=[]", "data.batch_size=2", "trainer.max_steps=1", "trainer.enable_progress_bar=false",
        "trainer.accelerator=cpu", "trainer.devices=1", "preview.count=0", "preview.samples=0", "out=run",
    ]  # fmt: skip
    assert command("train", *arguments, *small).code == 0


def test_a_link_to_nothing_is_an_unreadable_image(photos: Path, command) -> None:
    (photos / "link.png").symlink_to("missing.png")
    code, output, _ = command("pack", "data=photos", "out=mine", "size=16", "processes=1")
    assert code == 0 and "cannot read image photos/link.png: No such file" in output


def test_many_broken_images_are_not_all_named(photos: Path, command) -> None:
    for number in range(9):
        (photos / f"text{number}.png").write_text("text")
    output = command("pack", "data=photos", "out=mine", "size=16", "processes=1").output
    assert output.count("is not an image") == 5 and "  ... all of them: mine/manifest.json" in output
    assert len(json.loads(Path("mine/manifest.json").read_text())["broken"]) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=mine", "size=16"], "data is required"),
        (["data=photos", "size=16"], "out is required"),
        (["data=photos", "out=mine"], "size is required"),
        (["data=nowhere", "out=mine", "size=16"], "data=nowhere does not exist"),
        (["data=nothing", "out=mine", "size=16"], "no images under nothing"),
        (["data=text.png", "out=mine", "size=16"], "data=text.png is not an archive"),
        (["data=photos", "out=guide.png", "size=16"], "out=guide.png is a file"),
        (["data=photos", "out=guide.png/x", "size=16"], "out=guide.png/x cannot be written"),
        (["data=photos", "out=mine", "size=16", "samplse=4"], "unknown key samplse; did you mean samples?"),
        (["data=photos", "out=mine", "size=16", "fit=squash"], "fit must be 'crop', 'resize' or 'random_crop'"),
        (["data=photos", "out=mine", "size=16", "encoding=gif"], "encoding must be 'png', 'jpeg' or 'webp', got 'gif'"),
        (["data=photos", "out=mine", "size=0"], "size must be at least 1 pixel, got 0"),
        (["data=photos", "out=mine", "size=16", "background=blurple"], "background must be a colour name"),
    ],
)
def test_what_it_cannot_take_is_refused(photos: Path, refused, arguments: list[str], message: str) -> None:
    assert message in refused("pack", *arguments)
