"""`sdedit edit`: what it leaves, that it repeats itself, and what it refuses."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.array_files import tiff
from support.damage import DAMAGES, Damage, lightning_checkpoint

from sdedit_pl.cli import main
from sdedit_pl.cli.edit import COMMAND
from sdedit_pl.data.value_decoding import read_values
from sdedit_pl.edit_runs.edit_plan import build_edits
from sdedit_pl.editing.sdedit import DEFAULT_SOLVER
from sdedit_pl.files import claimed
from sdedit_pl.machine import Machine
from sdedit_pl.solvers import SOLVERS

EDIT = ("edit", "ckpt=tiny.safetensors", "guide=guide.png", "steps=3")
BAD_GUIDES = {
    "missing.png": ("no file or folder at missing.png", "folder or a glob"),
    "*.gif": ("no file or folder at *.gif", "folder or a glob"),
    "empty.png": ("empty.png", "it is empty"),
    "cut.png": ("cut.png", "truncated", "give a whole image file (.png"),
    "text.png": ("text.png", "not an image", "give a whole image file (.png"),
    "nothing": ("nothing holds no images", ".png"),
    ".": ("cut.png",),
}
BAD_MASKS = {
    "missing.png": ("no mask at missing.png", "white where pixels may change"),
    "black.png": ("black.png is all black", "white"),
    "wide.png": ("size of its guide", "guide.png is 16x16", "wide.png is 20x12"),
    "empty.png": ("empty.png", "it is empty"),
    "cut.png": ("cut.png", "truncated"),
    "text.png": ("text.png", "not an image"),
    "nothing": ("nothing holds no images",),
    "elsewhere": ("no mask in elsewhere", "guide.png would be"),
}
BAD_VALUES = {
    "t0=0": ("t0 must lie in (0, 1]", "got 0"),
    "t0=1.5": ("t0 must lie in (0, 1]", "got 1.5", "t0=1 samples from the prior"),
    "t0=.nan": ("t0 must be a finite number, got nan",),
    "t0=abc": ("a time in (0, 1] or a noise level such as sigma:1.2", "'abc'"),
    "t0=sigma:abc": ("sigma:1.2", "'sigma:abc'"),
    "t0=sigma:0": ("must be positive", "sigma:0"),
    "t0=sigma:1e9": ("noise levels above", "up to", "sigma:1e9"),
    "steps=0": ("steps must be at least 1", "got 0"),
    "steps=2.5": ("steps must be a valid integer or null", "2.5"),
    "repeats=0": ("repeats must be at least 1", "got 0"),
    "samples=0": ("samples must be at least 1", "got 0"),
    "samples=1e9": ("samples must be at most 1,000,000", "got 1000"),
    "resample=[1,1e9]": ("resample must be at most 1,000,000",),
    "lowpass_energy=1e308": ("lowpass_energy must be 0 or of a magnitude from 1e-30 to 1e+30",),
    "anneal=1e-320": ("anneal must be 0 or of a magnitude from 1e-30",),
    "devices=1e6": ("devices must be at most 1,000",),
    "devices=1000": ("devices=1000 is too many for this machine; take at most",),
    "batch=0": ("batch must be at least 1", "got 0"),
    "seed=-1": ("seed must be at least 0", "got -1"),
    "variant=fast": ("variant must be one of exact, paper, reference", "'fast'"),
    "strength=0.5": ("strength takes an image, got 0.5; for a number, t0=0.5",),
    "solver=ddmi": ("solver.name must be one of ancestral", "did you mean ddim?"),
    "solver.eta=0.5": ("unknown key solver.eta of solver.name=sde_dpm_solver_2m",),
    "grid.rho=3": ("unknown key grid.rho of grid.name=uniform",),
    "device=quantum": ("device=quantum cannot be used here",),
    "device=cuda:99": ("device=cuda:99 cannot be used here",),
    "precision=int8": ("'float32', ", "'int8'"),
    "overwrite=perhaps": ("overwrite must be a valid boolean", "'perhaps'"),
    "stesp=3": ("unknown key stesp", "did you mean steps?"),
    "confg=edit.yaml": ("unknown key confg", "did you mean config?"),
    "steps": ("arguments are key=value", "'steps'"),
    "steps.a=3": ("steps",),
    "config=missing.yaml": ("no configuration file missing.yaml",),
    "config=guide.png": ("guide.png is not a readable YAML file",),
    "out=guide.png": ("out=guide.png is a file", "name a folder"),
    "out=guide.png/below/it": ("out=guide.png/below/it cannot be written", "name another folder"),
    "out=elsewhere": ("elsewhere already holds files", "overwrite=true"),
    "mask=": ("mask= has no value", "mask=null"),
}


def pictures(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.png")}


@pytest.mark.parametrize("guide", BAD_GUIDES)
def test_a_bad_guide_is_refused(guide: str, refused: Callable[..., str]) -> None:
    message = refused(*EDIT, f"guide={guide}", "out=new/out", "strict=true")
    assert all(words in message for words in BAD_GUIDES[guide]), message


@pytest.mark.parametrize("mask", BAD_MASKS)
def test_a_bad_mask_is_refused(mask: str, refused: Callable[..., str]) -> None:
    message = refused(*EDIT, f"mask={mask}", "out=new/out")
    assert all(words in message for words in BAD_MASKS[mask]), message


@pytest.mark.parametrize("argument", BAD_VALUES)
def test_a_bad_value_is_refused(argument: str, refused: Callable[..., str]) -> None:
    message = refused(*EDIT, "out=new/out", argument)
    assert all(words in message for words in BAD_VALUES[argument]), message


def test_a_bad_value_of_a_component_is_refused(refused: Callable[..., str]) -> None:
    message = refused(*EDIT, "out=new/out", "solver=ancestral", "solver.chain=iron")
    assert all(words in message for words in ("solver: ", "exact, paper, table", "'iron'")), message


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_a_bad_checkpoint_is_refused_and_not_run(
    damage: Damage, desk: Path, tiny_checkpoint: Path, refused: Callable[..., str]
) -> None:
    damage.make(tiny_checkpoint, desk / damage.name)
    for words in ((*EDIT, "out=new/out"), ("info",)):
        message = refused(*words, f"ckpt={damage.name}")
        assert all(words in message for words in (damage.name, *damage.words)), message


def test_missing_arguments_are_named(refused: Callable[..., str]) -> None:
    assert refused("edit").startswith("ckpt is required: a bundled model")
    assert refused("edit", "ckpt=tiny.safetensors").startswith("guide is required: an image, a folder")


def test_a_broken_configuration_is_refused(desk: Path, refused: Callable[..., str]) -> None:
    Path("typo.yaml").write_text("solver: {name: ddim, etta: 1}\n")
    assert "did you mean solver.eta?" in refused(*EDIT, "config=typo.yaml")
    Path("kind.yaml").write_text("steps: several\n")
    assert "steps must be a valid integer or null, got 'several'" in refused(*EDIT[:3], "config=kind.yaml")


def test_the_console_shows_one_line_and_exit_code_2(desk: Path) -> None:
    command = [sys.executable, "-m", "sdedit_pl", *EDIT, "guide=cut.png"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and "truncated" in ended.stderr
    assert not (desk / "outputs").exists()


def test_an_edit_writes_samples_a_sheet_and_a_record(desk: Path, command) -> None:
    code, output, errors = command(*EDIT, "mask=mask.png", "out=new/out", "samples=3", "seed=5")
    assert (code, errors) == (0, "")
    assert output == "3 samples in new/out; see new/out/sheet.png\n"
    samples = ["guide_seed5.png", "guide_seed6.png", "guide_seed7.png"]
    assert sorted(os.listdir("new/out")) == ["edit.yaml", *samples, "sheet.png"]
    assert os.listdir("new") == ["out"]
    guide, kept = np.array(Image.open("guide.png")), np.array(Image.open("mask.png")) == 0
    images = [np.array(Image.open(Path("new/out") / name)) for name in samples]
    for image in images:
        assert np.array_equal(image[kept], guide[kept]) and not np.array_equal(image, guide)
    assert not np.array_equal(images[0], images[1])
    record = yaml.safe_load(Path("new/out/edit.yaml").read_text())
    assert record["steps"] == 3 and record["solver"]["name"] == "sde_dpm_solver_2m" and record["mask"] == "mask.png"
    assert list(record["record"]["samples"]) == samples
    assert record["record"]["samples"][samples[1]] == {"guide": "guide.png", "t0": 0.5, "seed": 6}
    assert set(record["record"]["sha256"]) == {"tiny.safetensors", "guide.png", "mask.png"}


def test_the_record_repeats_the_edit_bit_for_bit(desk: Path, command) -> None:
    first = (*EDIT, "mask=mask.png", "out=a", "samples=2", "seed=9", "t0=sigma:1.2", "repeats=2", "overwrite=true")
    assert command(*first, "solver=ddim", "solver.eta=0.5", "grid=karras", "grid.rho=3").code == 0
    code, _, errors = command("edit", "config=a/edit.yaml", "out=b")
    assert code == 0 and "has changed" not in errors
    assert pictures("a") == pictures("b") and len(pictures("a")) == 3
    settings = yaml.safe_load(Path("b/edit.yaml").read_text())
    assert settings["solver"] == {"name": "ddim", "eta": 0.5}
    assert settings["grid"] == {"name": "karras", "lowest": 0.01, "rho": 3.0}
    assert settings["t0"] == "sigma:1.2"


def test_a_finished_edit_is_not_made_again(desk: Path, command, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*EDIT, "samples=1", "out=a", "overwrite=true").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("sdedit_pl.edit_runs.edit_run.load_for_editing", Mock(side_effect=AssertionError))
        notice = "the results were already there; overwrite=true makes them again\n"
        assert command(*EDIT, "samples=1", "out=a") == (0, "1 sample in a; see a/sheet.png\n", notice)
        assert command("edit", "config=a/edit.yaml").code == 0
    assert "a already holds files" in refused(*EDIT, "samples=2", "out=a")
    assert command(*EDIT, "samples=1", "out=c", "t0=0.3").code == 0
    assert "c already holds files" in refused(*EDIT, "samples=1", "out=c")
    Image.open("wide.png").save("guide.png")
    assert "a already holds files" in refused(*EDIT, "samples=1", "out=a")
    said = command("edit", "config=a/edit.yaml", "out=b").errors
    assert "guide.png has changed since a/edit.yaml was written" in said


def test_overwriting_replaces_only_the_files_of_the_earlier_edit(desk: Path, command, refused) -> None:
    assert command(*EDIT, "out=a", "samples=3").code == 0
    Path("a/notes.txt").write_text("keep me")
    Path("a/guide_seed9.png").write_bytes(b"not of this edit")
    before = pictures("a")
    assert "a already holds files" in refused(*EDIT, "out=a", "seed=2")
    assert command(*EDIT, "out=a", "samples=1", "seed=2", "steps=4", "overwrite=true").code == 0
    assert sorted(os.listdir("a")) == ["edit.yaml", "guide_seed2.png", "guide_seed9.png", "notes.txt", "sheet.png"]
    assert pictures("a")["guide_seed2.png"] != before["guide_seed2.png"]
    assert Path("a/guide_seed9.png").read_bytes() == b"not of this edit"
    in_the_way = (
        "not written by this program, changed since it was written, or written by an early version; move it away"
    )
    assert (
        refused(*EDIT, "out=a", "seed=9", "overwrite=true")
        == f"a holds guide_seed9.png: {in_the_way}, or give another out="
    )
    Path("a/guide_seed2.png").write_bytes(b"retouched")
    assert (
        refused(*EDIT, "out=a", "seed=2", "overwrite=true")
        == f"a holds guide_seed2.png: {in_the_way}, or give another out="
    )


def test_a_record_without_results_is_not_a_finished_edit(desk: Path, command, refused) -> None:
    assert command(*EDIT, "out=a", "samples=1").code == 0
    record = yaml.safe_load(Path("a/edit.yaml").read_text())
    del record["record"]["results"]
    Path("a/edit.yaml").write_text(yaml.safe_dump(record))
    assert "a already holds files" in refused(*EDIT, "out=a", "samples=1")


def test_a_second_edit_is_refused_while_the_first_is_running(desk: Path, refused) -> None:
    with claimed(Path("a")):
        message = refused(*EDIT, "out=a", "overwrite=true")
    assert message.startswith(f"process {os.getpid()} on ") and "is writing a; wait until it ends" in message


def test_a_record_cannot_name_foreign_files_for_removal(desk: Path, command, refused) -> None:
    Path("a/sub").mkdir(parents=True)
    names = ["../guide.png", "..", ".", "sub", str(desk / "mask.png"), "notes.txt", 3, "mine.png"]
    Path("a/edit.yaml").write_text(yaml.safe_dump({"record": {"results": dict.fromkeys(names, 64 * "0")}}))
    for mine in ("a/notes.txt", "a/mine.png"):
        Path(mine).write_text("keep me")
    assert command(*EDIT, "out=a", "samples=1", "overwrite=true").code == 0
    assert all(Path(kept).exists() for kept in ("guide.png", "mask.png", "a/notes.txt", "a/mine.png", "a/sub"))
    Path("b/sheet.png").mkdir(parents=True)
    Path("b/edit.yaml").write_text("steps: 3")
    assert "b holds edit.yaml, sheet.png: not written by" in refused(*EDIT, "out=b", "overwrite=true")


def test_a_failure_while_overwriting_keeps_the_earlier_results(desk: Path, command, refused) -> None:
    assert command(*EDIT, "out=a", "samples=1").code == 0
    refused(*EDIT, "out=a", "overwrite=true", "mask=black.png")
    refused(*EDIT, "out=a", "overwrite=true", "ckpt=text.png")
    Path("a/edit.yaml").write_text("record: [")
    assert "a/edit.yaml is not a readable YAML file" in refused(*EDIT, "out=a", "overwrite=true")


def test_the_batch_does_not_change_the_files(desk: Path, command) -> None:
    for batch in ("1", "3", "4"):
        assert command(*EDIT, "steps=12", f"out=batch{batch}", f"batch={batch}").code == 0
    assert pictures("batch1") == pictures("batch3") == pictures("batch4")


def test_guides_of_a_folder_and_their_masks(desk: Path, command) -> None:
    Path("guides").mkdir()
    Path("masks").mkdir()
    Image.open("guide.png").save("guides/b.webp", lossless=True)
    Image.open("wide.png").save("guides/a.png")
    Path("guides/README.md").write_text("not an image")
    Image.open("mask.png").save("masks/b.png")
    code, _, errors = command(*EDIT, "guide=guides", "mask=masks", "samples=1", "out=o")
    assert code == 0
    assert sorted(os.listdir("o")) == ["a_seed0.png", "b_seed0.png", "edit.yaml", "sheet.png"]
    assert errors.splitlines() == [
        "no mask for a: edited everywhere",
        "guides/a.png is 20x12, without 4 + 4 pixels at its left and right (fit=pad keeps them), "
        "resized to the model's 16x16",
    ]
    guide, kept = np.array(Image.open("guide.png")), np.array(Image.open("mask.png")) == 0
    assert np.array_equal(np.array(Image.open("o/b_seed0.png"))[kept], guide[kept])


def test_a_padded_guide_is_edited_whole_and_cut_back(desk: Path, command, refused) -> None:
    assert command(*EDIT, "guide=wide.png", "fit=pad", "trajectory=true", "samples=1").code == 0
    assert Image.open("outputs/edit/wide_seed0.png").size == (16, 10)
    assert "omit fit" in refused(*EDIT, "guide=wide.png", "fit=pad", "windows=true")
    errors = command(*EDIT, "guide=wide.png", "fit=resize", "samples=1", "out=o").errors
    assert errors == "wide.png is 20x12, resized to the model's 16x16\n"


@pytest.mark.parametrize(("fit", "resolution"), [("resize", (32, 32)), ("pad", (32, 20))])
def test_a_resized_or_padded_guide_keeps_its_spatial_metadata(
    fit: str, resolution: tuple[int, int], desk: Path, command
) -> None:
    pixels = np.array(Image.open("wide.png"))
    Path("wide.tif").write_bytes(tiff(pixels, photometric="rgb", resolution=(40, 24)))
    assert command(*EDIT, "guide=wide.tif", f"fit={fit}", "samples=1", "out=o").code == 0
    stored = read_values(Path("o/wide_seed0.tif"), "o")
    assert [stored.metadata[f"{axis}Resolution"] for axis in "XY"] == [(side, 1) for side in resolution]


def test_guides_of_one_name_are_refused(desk: Path, refused: Callable[..., str]) -> None:
    Path("guides").mkdir()
    Image.open("guide.png").save("guides/a.png")
    Image.open("guide.png").save("guides/a.webp")
    assert "several called a" in refused(*EDIT, "guide=guides/*")


def test_names_that_look_like_numbers_stay_names(desk: Path, command) -> None:
    os.rename("guide.png", "00012")
    assert command(*EDIT[:2], "guide=00012", "steps=2", "samples=1", "out=0777").code == 0
    assert sorted(os.listdir("0777")) == ["00012_seed0.png", "edit.yaml", "sheet.png"]
    assert command("edit", "config=0777/edit.yaml", "out=1e3").code == 0
    assert pictures("1e3") == pictures("0777")


@pytest.mark.parametrize("kind", ["ascii", "cp1252", "closed", "utf-8"])
def test_results_stand_whatever_the_output_can_print(kind: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("画", os.fsdecode(b"caf\xe9"))
    for name in names:
        os.link("guide.png", f"{name}.png")
    reader, writer = os.pipe()
    if kind == "utf-8":  # nobody reads
        os.close(reader)
    output = io.TextIOWrapper(os.fdopen(writer, "wb"), encoding="ascii" if kind == "closed" else kind)
    monkeypatch.setattr(sys, "stdout", None if kind == "closed" else output)
    for name in names:
        assert main([*EDIT[:2], f"guide={name}.png", "steps=2", "samples=1", f"out={name}"]) == 0
        assert main(["edit", f"config={name}/edit.yaml", f"out={name}2"]) == 0
        assert pictures(f"{name}2") == pictures(name) and Path(f"{name}/{name}_seed0.png").is_file()


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_can_be_named(solver: str) -> None:
    (edit,) = build_edits(COMMAND.parse(["ckpt=c", "guide=g", f"solver={solver}"]))
    assert edit.solver == (None if solver == DEFAULT_SOLVER else SOLVERS[solver]())


@pytest.mark.parametrize("variant", ["paper", "reference"])
def test_published_variants_run_with_their_own_solver(variant: str, desk: Path, command, refused) -> None:
    assert command(*EDIT, f"variant={variant}", "steps=40", "samples=1", "out=o").code == 0
    assert f"variant={variant} brings its own solver" in refused(*EDIT, f"variant={variant}", "solver=ddim")


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 12), ("float16", 2)])
def test_lower_precision_gives_nearly_the_same_image(precision: str, tolerance: int, desk: Path, command) -> None:
    arguments = (*EDIT, "steps=8", "samples=1")
    assert command(*arguments, "out=full").code == 0
    assert command(*arguments, "out=lower", f"precision={precision}").code == 0
    full, lower = (np.array(Image.open(f"{name}/guide_seed0.png")).astype(int) for name in ("full", "lower"))
    assert 0 < abs(full - lower).max() <= tolerance


def test_a_run_folder_and_a_training_checkpoint_edit_alike(desk: Path, tiny_checkpoint: Path, command) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    torch.save(lightning_checkpoint(tiny_checkpoint), "run/checkpoints/step=00000007.ckpt")
    arguments = ("edit", "guide=guide.png", "steps=3", "samples=1")
    for name, ckpt in (("a", "tiny.safetensors"), ("b", "run"), ("c", "run/checkpoints/step=00000007.ckpt")):
        assert command(*arguments, f"ckpt={ckpt}", f"out={name}").code == 0
    assert pictures("a") == pictures("b") == pictures("c")


def test_the_resolved_arithmetic_is_recorded(desk: Path, command, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Machine("cuda", "NVIDIA H100", bf16=True, count=1)
    monkeypatch.setattr("sdedit_pl.machine.this_machine", lambda device: gpu)
    code, _, errors = command(*EDIT, "out=new/out")
    assert code == 0 and "arithmetic: bfloat16, NCHW (NVIDIA H100)" in errors
    record = yaml.safe_load(Path("new/out/edit.yaml").read_text())
    assert (record["precision"], record["compile"]) == ("bfloat16", False)
