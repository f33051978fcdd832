"""`sdedit edit` beyond the paper: strength maps, pastes, windows, several t0, trajectories."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sdedit_pl import save_denoiser
from sdedit_pl.checkpoints import describe, load_described
from sdedit_pl.checkpoints.guidance_settings import GuidanceSettings
from sdedit_pl.cli import augment, calibrate, detect, edit, evaluate, sample
from sdedit_pl.cli.edit import COMMAND
from sdedit_pl.configuration.model_config import ModelConfig
from sdedit_pl.denoiser import Denoiser
from sdedit_pl.edit_runs.edit_plan import edit_tasks
from sdedit_pl.editing import SDEdit
from sdedit_pl.editing.batch_independence import prepare_for_batches
from sdedit_pl.guides.edit_inputs import EditInputs
from sdedit_pl.parameterisations import Epsilon
from sdedit_pl.sde import VPSDE

EDIT = ("edit", "ckpt=tiny.safetensors", "guide=guide.png", "steps=3", "samples=2")


def pixels(file: str) -> np.ndarray:
    return np.array(Image.open(file)).astype(int)


@pytest.fixture
def ramp(desk: Path) -> str:
    """A strength map: black on the left, white on the right."""
    Image.fromarray(np.tile(np.linspace(0, 255, 16).astype(np.uint8), (16, 1))).save("ramp.png")
    return "ramp.png"


def test_a_strength_map_keeps_black_and_changes_white(ramp: str, command) -> None:
    assert command(*EDIT, f"strength={ramp}", "out=o", "t0=0.8", "steps=8").code == 0
    change = abs(pixels("o/guide_seed0.png") - pixels("guide.png")).mean((0, 2))
    assert change[0] == 0
    assert change[-4:].mean() > change[1:5].mean()
    assert set(yaml.safe_load(Path("o/edit.yaml").read_text())["record"]["sha256"]) >= {"ramp.png", "guide.png"}


def test_strength_maps_in_a_folder_are_matched_by_name(ramp: str, command) -> None:
    Path("guides").mkdir()
    Path("maps").mkdir()
    for name in ("a", "b"):
        Image.open("guide.png").save(f"guides/{name}.png")
    Image.open(ramp).save("maps/b.png")
    code, _, errors = command(*EDIT, "guide=guides", "strength=maps", "out=o")
    assert code == 0 and errors == "no strength for a: edited everywhere\n"
    assert np.array_equal(pixels("o/b_seed0.png")[:, 0], pixels("guide.png")[:, 0])
    assert not np.array_equal(pixels("o/a_seed0.png")[:, 0], pixels("guide.png")[:, 0])


def test_the_network_is_prepared_for_the_batches_that_it_gets(desk: Path, command, monkeypatch) -> None:
    prepare = Mock(wraps=prepare_for_batches)
    monkeypatch.setattr("sdedit_pl.edit_runs.edit_run.prepare_for_batches", prepare)
    cases = {(): 2, ("batch=1",): 1, ("samples=20",): 16, ("trajectory=true", "batch=8"): 2}
    for number, (options, batch) in enumerate(cases.items()):
        assert command(*EDIT, *options, f"out=o{number}").code == 0
        assert prepare.call_args.args[1:3] == (batch, 16 * 16), options


def test_several_t0_give_a_sheet_with_both_axes(desk: Path, command) -> None:
    assert command(*EDIT, "t0=[0.2,sigma:1.2]", "out=o").code == 0
    names = [f"guide_t0_{t0}_seed{seed}.png" for t0 in ("0.2", "sigma1.2") for seed in (0, 1)]
    assert sorted(os.listdir("o")) == sorted(["edit.yaml", *names, "sheet.png"])
    record = yaml.safe_load(Path("o/edit.yaml").read_text())
    assert record["t0"] == [0.2, "sigma:1.2"]
    assert record["record"]["samples"][names[2]] == {"guide": "guide.png", "t0": "sigma:1.2", "seed": 0}
    assert command(*EDIT, "t0=0.2", "out=single").code == 0
    assert np.array_equal(pixels("single/guide_seed1.png"), pixels(f"o/{names[1]}"))
    assert command("edit", "config=o/edit.yaml", "out=again").code == 0
    assert np.array_equal(pixels("again/sheet.png"), pixels("o/sheet.png"))


def test_guidance_by_a_weaker_model(desk: Path, command, refused) -> None:
    denoiser, description = load_described("tiny.safetensors")
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.copy_(0.9 * weight)
    save_denoiser("tiny-early.safetensors", denoiser, description.model)
    small = ModelConfig.from_data({**description.model.as_data(), "image": {"size": 8, "channels": 3}})
    save_denoiser("small.safetensors", denoiser, small)
    for out, words in {
        **{"none": (), "one": ("guidance=1",), "guided": ("guidance=3",)},
        "previous": ("guidance=3", "guide_ckpt=previous"),
    }.items():
        assert command(*EDIT, *words, f"out={out}").code == 0
    assert np.array_equal(pixels("none/guide_seed0.png"), pixels("one/guide_seed0.png"))
    assert not np.array_equal(pixels("none/guide_seed0.png"), pixels("guided/guide_seed0.png"))
    assert np.array_equal(pixels("previous/guide_seed0.png"), pixels("guided/guide_seed0.png"))
    records = [yaml.safe_load(Path(f"{out}/edit.yaml").read_text())["record"] for out in ("none", "guided")]
    assert [record["evaluations"] for record in records] == [{0.5: 3}, {0.5: 6}]
    assert "tiny-early.safetensors" in str(yaml.safe_load(Path("guided/edit.yaml").read_text())["record"]["sha256"])
    assert "is for images of 3 channels, 8 px" in refused(*EDIT, "guidance=2", "guide_ckpt=small.safetensors")
    assert "need guidance=W, and 1 means none" in refused(*EDIT, "guide_ckpt=small.safetensors")
    Path("tiny-early.safetensors").unlink()
    assert "training writes with checkpoint.early" in refused(*EDIT, "guidance=2")


def test_edits_are_guided_as_the_training_chose(desk: Path, command) -> None:
    denoiser, description = load_described("tiny.safetensors")
    guidance = {"config": {"checkpoint": {"guidance": 3, "guidance_range": [0.1, 1]}}}
    save_denoiser("model.safetensors", denoiser, description.model, guidance)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.copy_(0.9 * weight)
    save_denoiser("model-early.safetensors", denoiser, description.model)
    edit = ("edit", "ckpt=model.safetensors", *EDIT[2:])
    chosen = ("guidance=3", "guidance_range=0.1,1")
    for out, words in {"own": (), "chosen": chosen, "all": ("guidance=3",), "none": ("guidance=1",)}.items():
        assert command(*edit, *words, f"out={out}").code == 0
    own, same, all_levels, none = (pixels(f"{out}/guide_seed0.png") for out in ("own", "chosen", "all", "none"))
    assert np.array_equal(own, same) and not np.array_equal(own, all_levels) and not np.array_equal(own, none)
    recorded = yaml.safe_load(Path("own/edit.yaml").read_text())
    assert (recorded["guidance"], recorded["guidance_range"]) == (3, [0.1, 1])
    assert "already there" in command(*edit, "out=own").errors
    assert "already there" in command(*edit, "guidance=1", "out=none").errors
    assert command(*edit, "out=none").code == 2
    assert "overwrite=true" in command(*edit, "guidance=3", "out=own").errors
    Path("model-early.safetensors").unlink()
    assert "there is no model-early.safetensors" in command(*edit, "out=alone").errors
    assert np.array_equal(pixels("alone/guide_seed0.png"), none)


@pytest.mark.parametrize(
    ("verb", "guided"),
    [(augment, True), (calibrate, True), (edit, True), (evaluate, True), (detect, False), (sample, False)],
)
def test_only_edits_are_guided_by_default(verb: ModuleType, guided: bool) -> None:
    required = {"ckpt": "tiny.safetensors", "data": "photos", "guide": "guide.png"}
    kept = required.keys() & {field.name for field in fields(verb.COMMAND.arguments)}
    assert verb.COMMAND.parse([f"{key}={required[key]}" for key in kept]).guidance == (None if guided else 1)


def test_given_settings_take_the_place_of_the_trainings_guidance(desk: Path) -> None:
    denoiser, description = load_described("tiny.safetensors")
    for name in ("model", "model-early"):
        chosen = {"config": {"checkpoint": {"guidance": 3}}}
        save_denoiser(f"{name}.safetensors", denoiser, description.model, chosen)
    description = describe("model.safetensors")
    assert GuidanceSettings(guidance=None).for_edits(description).guidance == 3
    for given in ({"guidance": 2.0}, {"guidance": 1.0}, {"label": "cat"}, {"guidance_range": (0.1, 3.0)}):
        settings = GuidanceSettings(**{"guidance": None, **given})
        assert settings.for_edits(description).guidance == given.get("guidance", 1)


@pytest.mark.parametrize(("validation", "far"), [(1e-3, True), (10.0, False)])
def test_a_guide_far_from_the_domain_and_a_model_of_few_steps_are_warned_of(
    validation: float, far: bool, desk: Path, command
) -> None:
    denoiser, description = load_described("tiny.safetensors")
    config = {"validation": {"sigma_edges": [0.05, 0.2, 0.8]}}
    training = {"steps": 999, "val/loss/sigma_mean": validation, "config": config}
    save_denoiser("short.safetensors", denoiser, description.model, training)
    code, _, errors = command("edit", "ckpt=short.safetensors", *EDIT[2:], "samples=1")
    assert code == 0 and "short.safetensors was trained for 999 steps, too few" in errors
    said = re.search(r"guide.png is unlike the images .* error is ([\d.]+) times that of the validation", errors)
    assert (said is not None and float(said[1]) > 100) == far


def test_t0_auto_stays_within_the_allowed_l2(desk: Path, command, refused) -> None:
    code, _, errors = command(*EDIT, "t0=auto", "l2=20", "out=o")
    assert code == 0 and errors.startswith("guide.png: t0 = ")
    guide = pixels("guide.png") / 255
    distances = [((pixels(f"o/guide_seed{seed}.png") / 255 - guide) ** 2).sum() for seed in (0, 1)]
    assert 5 < max(distances) <= 20
    recorded = yaml.safe_load(Path("o/edit.yaml").read_text())
    assert recorded["t0"] == recorded["record"]["samples"]["guide_seed0.png"]["t0"] and recorded["l2"] is None
    assert command("edit", "config=o/edit.yaml", "out=direct").code == 0
    assert np.array_equal(pixels("direct/guide_seed0.png"), pixels("o/guide_seed0.png"))
    assert "already there" in command(*EDIT, "t0=auto", "l2=20", "out=o").errors
    assert "o already holds files" in refused(*EDIT, "t0=auto", "l2=21", "out=o")
    assert "even from t0=0.02, more than the allowed 1e-05" in refused(*EDIT, "t0=auto", "l2=0.00001", "out=new/out")


def test_a_paste_makes_guide_and_mask(desk: Path, command) -> None:
    Image.new("RGBA", (6, 6), (255, 0, 0, 255)).save("object.png")
    assert command(*EDIT, "paste=object.png", "at=8,2", "grow=1", "out=o").code == 0
    edited, guide = pixels("o/guide_seed0.png"), pixels("guide.png")
    assert np.array_equal(edited[:, :7], guide[:, :7])
    assert np.array_equal(edited[10:], guide[10:])
    assert not np.array_equal(edited[3:7, 9:13], guide[3:7, 9:13])
    assert "object.png" in yaml.safe_load(Path("o/edit.yaml").read_text())["record"]["sha256"]
    assert command(*EDIT, "paste=object.png", "at=8,2", "grow=1", "feather=2", "out=soft").code == 0
    assert np.array_equal(pixels("soft/guide_seed0.png")[:, :4], guide[:, :4])


def test_windows_edit_a_guide_at_its_own_size(desk: Path, command) -> None:
    large = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    mask = np.zeros((24, 40), dtype=np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(large).save("large.png")
    Image.fromarray(mask).save("half.png")
    assert command(*EDIT, "guide=large.png", "mask=half.png", "windows=true", "overlap=6", "out=o").code == 0
    edited = pixels("o/large_seed0.png")
    assert edited.shape == (24, 40, 3)
    assert np.array_equal(edited[:, :20], large[:, :20]) and not np.array_equal(edited[:, 20:], large[:, 20:])
    code, _, errors = command(*EDIT, "guide=large.png", "windows=true", "side=16", "out=smaller")
    assert code == 0 and errors == "large.png is 40x24, resized to 27x16\n"
    assert pixels("smaller/large_seed0.png").shape == (16, 27, 3)


def test_focus_edits_parts_of_a_large_photo_and_keeps_the_rest(desk: Path, command) -> None:
    ramp = np.linspace(0, 255, 900).astype(np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (600, 1))] * 3, 2)).save("photo.png")
    mask = Image.new("L", (900, 600))
    regions = ((90, 120, 150, 180), (660, 450, 690, 540))
    for region in regions:
        mask.paste(255, region)
    mask.save("regions.png")
    arguments = ("guide=photo.png", "mask=regions.png", "focus=true", "trajectory=true", "samples=1")
    code, _, errors = command(*EDIT, *arguments, "out=o", "t0=0.6")
    assert code == 0 and errors.startswith("a part of photo.png is ")
    trajectories = [f"photo_part{part}_trajectory.{kind}" for part in (1, 2) for kind in ("png", "webp")]
    assert sorted(os.listdir("o")) == sorted(["edit.yaml", "photo_seed0.png", "sheet.png", *trajectories])
    change = abs(pixels("o/photo_seed0.png") - pixels("photo.png")).sum(2)
    for left, top, right, bottom in regions:
        assert (change[top:bottom, left:right] > 0).mean() > 0.9
        feather = 2 * 2 * max(right - left, bottom - top) // 16 + 1
        change[top - feather : bottom + feather, left - feather : right + feather] = 0
    assert not change.any()
    assert command("edit", "config=o/edit.yaml", "out=again").code == 0
    assert Path("again/photo_seed0.png").read_bytes() == Path("o/photo_seed0.png").read_bytes()
    assert command(*EDIT, "guide=photo.png", "focus=300,150,120,90", "samples=1", "out=box").code == 0
    change = abs(pixels("box/photo_seed0.png") - pixels("photo.png")).sum(2)
    assert change[150:240, 300:420].any()
    change[150:240, 300:420] = 0
    assert not change.any()


def test_samples_are_reduced_to_their_mean_and_deviation(desk: Path, command) -> None:
    arguments = ("samples=3", "mask=mask.png", "reduce=mean,std")
    assert command(*EDIT, *arguments, "out=o").code == 0
    samples = np.stack([pixels(f"o/guide_seed{seed}.png") for seed in range(3)])
    assert abs(pixels("o/guide_mean.png") - samples.mean(0)).max() <= 1
    assert abs(pixels("o/guide_std.png") - samples.std(0, ddof=1)).max() <= 1.5
    assert pixels("o/guide_std.png")[4:12, 4:12].all() and not pixels("o/guide_std.png")[:4].any()
    assert command(*EDIT, "reduce=std", "out=o", "overwrite=true").code == 0 and not Path("o/guide_mean.png").exists()
    Image.open("guide.png").resize((64, 64)).save("photo.png")
    assert command(*EDIT, "guide=photo.png", "focus=16,16,32,32", "reduce=std", "out=part").code == 0
    deviation = pixels("part/photo_std.png")
    assert deviation[24:40, 24:40].any() and not deviation[:16].any()


def test_a_paste_may_be_edited_in_windows(desk: Path, command) -> None:
    Image.new("RGB", (40, 24), "white").save("large.png")
    Image.new("RGB", (10, 10), "red").save("object.png")
    arguments = ("guide=large.png", "paste=object.png", "at=28,4", "windows=16", "out=o", "samples=1")
    assert command(*EDIT, *arguments).code == 0
    edited = pixels("o/large_seed0.png")
    assert edited.shape == (24, 40, 3) and (edited[:, :24] == 255).all()


def test_a_trajectory_is_written_as_an_animation_and_a_strip(desk: Path, command) -> None:
    assert command(*EDIT, "trajectory=true", "out=o").code == 0
    assert {"guide_trajectory.png", "guide_trajectory.webp"} <= set(os.listdir("o"))
    with Image.open("o/guide_trajectory.webp") as animation:
        assert animation.n_frames == 4  # pyright: ignore[reportAttributeAccessIssue]
    assert command(*EDIT, "out=plain").code == 0
    assert np.array_equal(pixels("o/guide_seed1.png"), pixels("plain/guide_seed1.png"))
    assert command(*EDIT, "trajectory=true", "batch=1", "out=one_by_one").code == 0
    assert np.array_equal(pixels("one_by_one/guide_seed1.png"), pixels("plain/guide_seed1.png"))
    assert pixels("one_by_one/guide_trajectory.png").shape < pixels("o/guide_trajectory.png").shape
    # another edit replaces both files
    assert command(*EDIT, "out=o", "overwrite=true").code == 0
    assert sorted(os.listdir("o")) == sorted(os.listdir("plain"))


def test_resampling_annealing_and_low_frequencies_are_options(desk: Path, command) -> None:
    options = ("resample=1,2", "repeats=2", "anneal=0.5", "lowpass=4", "lowpass_range=0.1,0.5")
    assert command(*EDIT, "mask=mask.png", *options, "out=o").code == 0
    assert command("edit", "config=o/edit.yaml", "out=again").code == 0
    assert np.array_equal(pixels("o/guide_seed0.png"), pixels("again/guide_seed0.png"))
    assert command(*EDIT, "mask=mask.png", "out=plain").code == 0
    assert not np.array_equal(pixels("o/guide_seed0.png"), pixels("plain/guide_seed0.png"))


def test_the_network_can_be_compiled_or_run_in_lower_precision(desk: Path, command, monkeypatch) -> None:
    compiled: list[object] = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda module: compiled.append(module))
    assert command(*EDIT, "compile=true", "precision=bfloat16", "out=o").code == 0
    assert len(compiled) == 1


def test_a_t0_beyond_the_models_training_is_refused_before_the_first_edit() -> None:
    denoiser = Denoiser(torch.nn.Identity(), Epsilon(), VPSDE(), t_max=0.5)
    arguments = COMMAND.parse(["ckpt=c", "guide=g", "t0=[0.3,0.9]"])
    with pytest.raises(ValueError, match=r"t0=0\.9 is time 0\.9"):
        edit_tasks(arguments, [SDEdit(0.3), SDEdit(0.9)], denoiser, EditInputs([], [], [], []))


CONTRADICTIONS = {
    "mask=mask.png strength=ramp.png": "mask and strength each say what may change; give one of them",
    "mask=mask.png paste=guide.png at=0,0": "mask and paste each say what may change",
    "paste=guide.png": "paste and at go together",
    "at=3,4": "paste and at go together",
    "paste_mask=mask.png": "paste_mask, scale, grow and feather need an object to paste",
    "mask=mask.png feather=2": "paste_mask, scale, grow and feather need an object to paste",
    "lowpass_range=0.3,1": "lowpass_range=0.3,1.0 requires lowpass",
    "at=3 paste=guide.png": "at must be a valid array or null, got 3",
    "windows=8": "windows of 8 px are smaller than the 16 px images that this model was trained on",
    "windows=17 guide=wide.png": "windows must be a multiple of",
    "windows=several": "windows must be a valid boolean or a valid integer, got 'several'",
    "paste=guide.png at=90,0": "covers no pixel of the guide: pasted at 90,0",
    "paste=guide.png at=0,0 guide=guides": "paste needs exactly one guide, the background, got 2 in guides",
    "focus=true": "focus=true needs a mask, and guide.png has none",
    "focus=0,0,17,17": "box x,y,width,height of at least 8 pixels within guide.png, which is 16x16",
    "focus=true windows=true": "focus goes with a mask, a strength map or a box, not with windows or paste",
    "reduce=mean samples=1": "reduce needs at least 2 samples, got samples=1",
    "reduce=median": "reduce must be 'mean' or 'std'",
    "overlap=4": "overlap and side need windows",
    "windows=true overlap=16": "the overlap of windows of 16 px must lie in [0, 16), got 16",
    "windows=true side=8": "16 pixels, got 8",
    "t0=auto": "t0=auto and l2 go together",
    "l2=4": "t0=auto and l2 go together",
    "t0=[0.3,0.3]": "t0 takes one or more different values, got [0.3, 0.3]",
    "t0=[]": "t0 takes one or more different values, got []",
    "t0=[0.3,2]": "t0 must lie in (0, 1], got 2",
    "t0=[0.3,0.5] trajectory=true": "trajectory shows one t0 at a time",
    "resample=5,2 mask=mask.png": "goes back 5 steps, but there are only 3",
    "resample=2,2": "give a mask",
    "resample=2": "resample must be a valid array or null, got 2",
    "strength=small.png": "guide.png is 16x16, small.png is 4x4",
    "strength=black.png": "the strength map black.png is all black",
    "strength=missing.png": "there is no strength at missing.png",
    "anneal=0.5": "anneal=0.5 requires several repeats",
    "lowpass=40": "lowpass=40 exceeds the 16 pixels",
    "variant=paper lowpass=4": "variant=paper has no anneal",
}


@pytest.mark.parametrize("arguments", CONTRADICTIONS)
def test_contradictions_are_refused(arguments: str, ramp: str, refused) -> None:
    Image.new("L", (4, 4), "white").save("small.png")
    Path("guides").mkdir()
    for name in ("a", "b"):
        Image.open("guide.png").save(f"guides/{name}.png")
    message = refused(*EDIT, *arguments.split(), "out=new/out")
    assert CONTRADICTIONS[arguments] in message, message
