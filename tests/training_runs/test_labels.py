"""Models with labels in whole runs: from where the labels come, what they do to edits, and refusals."""

from __future__ import annotations

import shutil
import tarfile
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.finished_runs import assert_same, read
from support.shard_server import ShardServer
from support.tiny import tiny_config
from torch import Tensor

from sdedit_pl import SDEdit, load_denoiser
from sdedit_pl.checkpoints import describe
from sdedit_pl.cli import main
from sdedit_pl.configuration.resolving import resolve
from sdedit_pl.data.image_labels import labels_of
from sdedit_pl.data.webdataset_source import WebDatasetSource
from sdedit_pl.edit_runs.edit_run import run_edit
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.editing.trajectories import WatchedDenoiser
from sdedit_pl.training_runs.training_run import fit

QUIET = ("preview.count=0", "preview.samples=0", "validation.sigma_edges=[]")
COLOURS = {"cat": (230, 60, 20), "dog": (20, 120, 230)}


def picture(label: str, number: int) -> Image.Image:
    return Image.new("RGB", (8, 8), tuple(min(value + 3 * number, 255) for value in COLOURS[label]))


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two colours in folders cat and dog, with their labels and weights in pets.csv and in shards beside."""
    root = tmp_path_factory.mktemp("pets")
    lines = ["file,species,weight"]
    with tarfile.open(root / "pets.tar", "w") as shard:
        for label in COLOURS:
            (root / "photos" / label).mkdir(parents=True)
            for number in range(8):
                file = root / "photos" / label / f"{label}{number}.png"
                picture(label, number).save(file)
                lines.append(f"{label}{number},{label},{number + 10 * (label == 'dog')}")
                members = {"png": file.read_bytes(), "cls": label.encode()}
                members["json"] = f'{{"kind": "{label}", "weight": {number + 10 * (label == "dog")}}}'.encode()
                for suffix, content in members.items():
                    entry = tarfile.TarInfo(f"{label}{number}.{suffix}")
                    entry.size = len(content)
                    shard.addfile(entry, BytesIO(content))
    (root / "pets.csv").write_text("\n".join(lines))
    return root


def config(pets: Path, out: Path, *arguments: str, labels: str = "folders"):
    return tiny_config(f"data.path={pets / 'photos'}", f"data.labels={labels}", f"out={out}", *QUIET, *arguments)


def colour(images: Tensor) -> Tensor:
    return images.mean((0, 2, 3))


def test_one_image_is_edited_into_either_class(pets: Path, tmp_path: Path) -> None:
    """Each edit is nearer to the mean of its class; guidance moves it further from the other one."""
    settings = ("trainer.max_steps=200", "trainer.val_check_interval=200", "network.channels=16", "times=log_uniform")
    rate = ("optimizer.rate=3e-3", "data.batch_size=16", "average.half_life_images=200", "preview.count=2")
    path = fit(config(pets, tmp_path / "run", *settings, *rate, "preview.samples=1"))
    denoiser = load_denoiser(path)
    assert describe(path).model.as_data()["condition"] == {"name": "class", "classes": ["cat", "dog"], "drop": 0.1}
    means = {label: torch.tensor(rgb) / 127.5 - 1 for label, rgb in COLOURS.items()}
    guide = ((means["cat"] + means["dog"]) / 2)[None, :, None, None].expand(1, 3, 8, 8)
    edit = SDEdit(t0=0.9, steps=20)
    for label, other in (("cat", "dog"), ("dog", "cat")):
        found = colour(edit(denoiser, guide, labels=label, seeds=range(4)))
        own, others = ((found - means[name]).norm() for name in (label, other))
        assert own < 0.5 * others
    (preview,) = (tmp_path / "run" / "previews").iterdir()
    with Image.open(preview) as sheet:
        assert sheet.height > 1.5 * sheet.width  # guides, then edits and samples without a label and of each class
    out = tmp_path / "edits"
    Image.new("RGB", (8, 8), (125, 90, 125)).save(tmp_path / "grey.png")
    words = [f"ckpt={path}", f"guide={tmp_path / 'grey.png'}", f"out={out}", "samples=1", "steps=5", "t0=0.9"]
    assert main(["edit", *words, "label=cat", "guidance=2", "guidance_range=0.5,3"]) == 0
    assert "label: cat" in (out / "edit.yaml").read_text()
    settings = resolve(
        EditSettings, {"ckpt": str(path), "guide": str(tmp_path / "grey.png"), "samples": 1, "label": "dog"}
    )
    found = []
    for loaded in (None, (WatchedDenoiser(load_denoiser(path), lambda t, x_0: None), describe(path))):
        run_edit(replace(settings, out=str(tmp_path / f"{len(found)}"), steps=3), loaded)
        found.append((tmp_path / f"{len(found)}" / "grey_seed0.png").read_bytes())
    assert found[0] == found[1], "a model that was read before is labelled too"
    assert main(["sample", f"ckpt={path}", f"out={tmp_path / 's'}", "n=2", "steps=3", "label=dog", "guidance=2"]) == 0


@pytest.mark.parametrize(
    ("place", "arguments"),
    [
        ("folders", ()),
        ("{root}/pets.csv:species", ()),
        ("cls", ("data.name=webdataset", "data.path={root}/pets.tar")),
        ("json:kind", ("data.name=webdataset", "data.path={root}/pets.tar", "data.cache=false")),
    ],
)
def test_labels_come_from_folders_csv_files_and_shards(
    place: str, arguments: tuple[str, ...], pets: Path, tmp_path: Path
) -> None:
    words = [argument.format(root=pets) for argument in arguments]
    settings = config(pets, tmp_path / "run", "trainer.max_steps=2", *words, labels=place.format(root=pets))
    denoiser = load_denoiser(fit(settings))
    assert denoiser.labels.known == "the classes cat, dog"
    assert (tmp_path / "run" / "config.yaml").read_text().count("- cat") == 1


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ("cls", ("condition.classes=[dog,cat]", "trainer.max_steps=3"), ""),
        ("json:weight", ("condition=number", "condition.low=0", "condition.high=20"), ""),
        ("cls", (), r"state condition.classes=\[...\]"),
        ("json:weight", ("condition=number", "condition.low=0"), "condition.high="),
        ("cls", ("condition.classes=[dog,cow]",), "label=cat is unknown"),
        ("json:size", ("condition.classes=[dog,cat]",), "16 of 16 images have no label in data.labels=json:size"),
        ("folders", ("condition.classes=[dog,cat]",), "labels=folders needs local images; remote shards take cls"),
    ],
)
def test_labels_of_remote_shards(
    labels: str, arguments: tuple[str, ...], message: str, pets: Path, tmp_path: Path, shard_server: ShardServer
) -> None:
    shutil.copy(pets / "pets.tar", shard_server.folder)
    place = ("data.name=webdataset", f"data.path={shard_server.url}/pets.tar", f"data.cache_folder={tmp_path / 'c'}")
    settings = config(pets, tmp_path / "run", "trainer.max_steps=1", *place, *arguments, labels=labels)
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        assert load_denoiser(fit(settings)).labels.known in ("the classes dog, cat", "numbers from 0 to 20")


def test_packed_shards_hold_the_labels_of_their_originals(
    pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for split in ("train", "val"):
        shutil.copytree(pets / "photos", tmp_path / "photos" / split)
    words = [f"data={tmp_path / 'photos'}", "size=8", "processes=1", "samples=5"]
    assert main(["pack", *words, "labels=folders", f"out={tmp_path / 'shards'}"]) == 0
    assert "data.labels=json:label" in capsys.readouterr().out
    source = WebDatasetSource(str(tmp_path / "shards"), 8)
    for split in ("train", "val"):
        images = source.images(split)
        found = labels_of(images, "json:label")
        assert found.count("cat") == 8 and all(label in images.name(index) for index, label in enumerate(found))
    with pytest.raises(ValueError, match="shards take cls, json:FIELD"):
        labels_of(source.images("train"), "targets")
    (tmp_path / "one.csv").write_text("file,kind\ncat0,cat\n")
    assert main(["pack", *words, f"labels={tmp_path / 'one.csv'}:kind", f"out={tmp_path / 'none'}"]) != 0
    assert "15 of 16 images have no label" in capsys.readouterr().err and not list((tmp_path / "none").glob("*"))


def test_a_class_and_a_number_condition_one_model(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels, words = f"{pets}/pets.csv:species,weight", ("condition=class_number", "trainer.max_steps=1")
    path = fit(config(pets, tmp_path / "run", *words, labels=labels))
    model = load_denoiser(path).labels
    assert model.known == "the classes cat, dog, each followed by a comma and numbers from 0 to 17"
    assert main(["pack", f"data={pets / 'photos'}", "size=8", f"labels={labels}", f"out={tmp_path / 'shards'}"]) == 0
    images = WebDatasetSource(str(tmp_path / "shards"), 8).images("train")
    assert model.vectors(labels_of(images, "json:label")).shape == (len(images), 10)
    picture("cat", 0).save(tmp_path / "guide.png")
    edit = ["edit", f"ckpt={path}", f"guide={tmp_path / 'guide.png'}", "samples=1", "steps=2", "t0=0.5"]
    assert main([*edit, f"out={tmp_path / 'edits'}", "label=dog,3.5"]) == 0
    assert main([*edit, f"out={tmp_path / 'none'}", "label=dog"]) != 0
    assert "label=dog needs a class and a number" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_resumed_run_equals_an_uninterrupted_one(pets: Path, tmp_path: Path) -> None:
    """With labels and augmentation; the resumed run takes the classes again from the images."""
    settings = ("augment.probability=0.5", "condition.drop=0.5", "checkpoint.every_steps=2")
    fit(config(pets, tmp_path / "whole", *settings, "trainer.max_steps=4"))
    fit(config(pets, tmp_path / "resumed", *settings, "trainer.max_steps=2"))
    fit(config(pets, tmp_path / "resumed", *settings, "trainer.max_steps=4"))
    found, expected = (read(tmp_path / name, 4)["state_dict"] for name in ("resumed", "whole"))
    assert_same(found, expected)
    assert any(weight.any() for name, weight in expected.items() if name.endswith("condition.weight"))


def test_a_number_conditions_and_starts_from_an_unlabelled_model(pets: Path, tmp_path: Path) -> None:
    plain = fit(tiny_config(f"data.path={pets / 'photos'}", f"out={tmp_path / 'plain'}", "trainer.max_steps=1", *QUIET))
    labels = ("condition=number", f"ckpt={plain}", "trainer.max_steps=1", "optimizer.rate=0.0001")
    path = fit(config(pets, tmp_path / "run", *labels, labels=f"{pets}/pets.csv:weight"))
    denoiser = load_denoiser(path)
    assert denoiser.labels.known == "numbers from 0 to 17"
    assert denoiser.labelled("12.5")(torch.zeros(1, 3, 8, 8), torch.tensor([0.5])).isfinite().all()


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ("{root}/some.csv:species", (), r"12 of 13 images have no label in .*some.csv:species, the first: .*cat1.png"),
        (
            "{root}/pets.csv:specis",
            (),
            r"no column 'specis' .* it has species, weight; did you mean species",
        ),
        ("{root}/pets.csv:species,wieght", (), "no column 'wieght'"),
        ("{root}/none.csv:species", (), "none.csv cannot be read as CSV"),
        ("cls", (), "a folder of images takes folders or FILE.csv:COLUMN"),
        ("folders", ("condition.classes=[cat,cow]",), r"label=dog is unknown.*the classes cat, cow"),
        ("folders", ("condition=number",), "label=cat is not a number"),
        ("null", ("condition.classes=[cat,dog]",), "condition.*class needs the labels of the images"),
    ],
)
def test_labels_that_cannot_be_used(
    labels: str, arguments: tuple[str, ...], message: str, pets: Path, tmp_path: Path
) -> None:
    (pets / "some.csv").write_text("file,species\ncat/cat0.png,cat\ncat/cat1.png,\n")
    with pytest.raises(ValueError, match=message):
        fit(config(pets, tmp_path / "run", "trainer.max_steps=1", *arguments, labels=labels.format(root=pets)))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_unlabelled_model_takes_no_label(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "guide.png")
    words = [f"ckpt={tiny_checkpoint}", f"guide={tmp_path / 'guide.png'}", f"out={tmp_path / 'out'}", "label=cat"]
    assert main(["edit", *words]) != 0
    assert "label=cat is for a model trained with labels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
