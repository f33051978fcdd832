"""`sdedit calibrate`: its results, their use in editing, resumption, and refused arguments."""

from __future__ import annotations

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from PIL import Image
from support.colour_features import ColourFeatures
from support.tiny import write_images

from sdedit_pl.calibration import calibration_run
from sdedit_pl.calibration.sweep import Sweep
from sdedit_pl.calibration.t0_sidecar import calibrated_t0
from sdedit_pl.checkpoints import load_described
from sdedit_pl.checkpoints.native import save_denoiser
from sdedit_pl.files import claimed
from sdedit_pl.metrics.extractor_table import FEATURES

SIDECAR, PLOT, UNFINISHED = (f"tiny.safetensors.t0.{suffix}" for suffix in ("yaml", "png", "unfinished"))
CALIBRATE = (
    "calibrate", "ckpt=tiny.safetensors", "data=photos", "split=all", "features=colour", "steps=2", "batch=4",
    "t0=[0.6,0.3,sigma:30]",
)  # fmt: skip


@pytest.fixture(autouse=True)
def photos(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images of the model's size, and features for them."""
    monkeypatch.setitem(FEATURES, "colour", ColourFeatures)
    return write_images(desk / "photos", count=10, size=16)


def with_knee(monkeypatch: pytest.MonkeyPatch, knee: int | None) -> None:
    """Sets the knee of every sweep."""
    trade_off = calibration_run.trade_off
    monkeypatch.setattr(calibration_run, "trade_off", lambda sweep: replace(trade_off(sweep), knee=knee))


def test_it_writes_the_knee_and_the_curve_where_editing_finds_them(command, monkeypatch: pytest.MonkeyPatch) -> None:
    with_knee(monkeypatch, 2)
    before = set(os.listdir())
    code, output, errors = command(*CALIBRATE)
    assert (code, errors) == (0, "")
    assert set(os.listdir()) - before == {SIDECAR, PLOT}
    lines = output.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["strokes", "0.3", "0.6", "sigma:30"]
    verdict = "knee at t0=0.6 (sigma:6.1), in the paper's range 0.3 to 0.6 of the VP SDE (sigma:1.23 to sigma:6.1)"
    assert verdict in lines
    assert lines[-1] == f"{SIDECAR}, {PLOT}: sdedit edit takes t0 from there"
    found = yaml.safe_load(Path(SIDECAR).read_text())
    assert found["t0"] == 0.6 == calibrated_t0(Path("tiny.safetensors"))
    assert [level["t0"] for level in found["levels"]] == [0.0, 0.3, 0.6, "sigma:30"]
    assert found["levels"][0]["squared_l2"] == [0.0, 0.0, 0.0] and found["levels"][3]["noise_level"] == 30
    assert all(low <= value <= high for level in found["levels"] for value, low, high in [level["squared_l2"]])
    assert found["settings"]["images"] == 10 and found["settings"]["t0"] == [0.3, 0.6, "sigma:30"]
    assert Image.open(PLOT).size[0] > 600


def test_without_a_knee_editing_uses_its_default_t0(command, monkeypatch: pytest.MonkeyPatch) -> None:
    with_knee(monkeypatch, None)
    output = command(*CALIBRATE).output
    assert "no knee: at every t0, edits lose more faithfulness than they gain realism" in output
    assert output.endswith("sdedit edit uses its own default t0\n")
    assert yaml.safe_load(Path(SIDECAR).read_text())["t0"] is None and calibrated_t0(Path("tiny.safetensors")) is None


def test_with_another_folder_it_reports_the_t0_to_pass(command, monkeypatch: pytest.MonkeyPatch) -> None:
    with_knee(monkeypatch, 1)
    output = command(*CALIBRATE, "out=new/out", "images=3").output
    assert output.endswith(f"new/out/{SIDECAR}, new/out/{PLOT}: give sdedit edit t0=0.3\n")
    assert sorted(os.listdir("new/out")) == sorted([SIDECAR, PLOT]) and not Path(SIDECAR).exists()


def test_the_same_command_resumes_an_interrupted_sweep(command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(*CALIBRATE, "out=whole").code == 0
    measured, batches = calibration_run.measure_batch, []

    def interrupted(*arguments: object) -> Sweep:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(len(arguments[2]))
        return measured(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(calibration_run, "measure_batch", interrupted)
        assert command(*CALIBRATE, "out=parts").code == 130
    assert os.listdir("parts") == [UNFINISHED] and batches == [4, 4]
    code, _, errors = command(*CALIBRATE, "out=parts", "batch=1")
    assert (code, errors) == (0, f"resuming after 8 of 10 images: parts/{UNFINISHED}\n")
    assert sorted(os.listdir("parts")) == sorted([SIDECAR, PLOT])
    for name in (SIDECAR, PLOT):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()


def test_a_sweep_with_other_settings_does_not_resume_it(command, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(calibration_run, "trade_off", lambda sweep: (_ for _ in ()).throw(KeyboardInterrupt))
        assert command(*CALIBRATE).code == 130
    message = refused(*CALIBRATE, "steps=3", "seed=1")
    assert UNFINISHED in message and "seed was 0, and is 1 now" in message and "overwrite=true" in message
    assert command(*CALIBRATE, "steps=3", "seed=1", "overwrite=true").code == 0
    assert not Path(UNFINISHED).exists()
    assert "steps was 3, and is 2 now; seed was 1, and is 0 now; give another out=" in refused(*CALIBRATE)
    with claimed(Path(), SIDECAR):
        assert f"is writing {SIDECAR}; wait until it ends" in refused(*CALIBRATE, "overwrite=true")
    Path(PLOT).write_text("my plot")
    assert f". holds {PLOT}: not written by this program, changed since" in refused(*CALIBRATE, "overwrite=true")
    Path(UNFINISHED).write_text("text")
    Path(SIDECAR).unlink()
    Path(PLOT).unlink()
    assert f"{UNFINISHED} cannot be read" in refused(*CALIBRATE)


def test_images_come_from_shards_too(photos: Path, command) -> None:
    with tarfile.open("mine.tar", "w") as shard:
        for file in sorted(photos.iterdir()):
            shard.add(file, file.name)
    assert command(*CALIBRATE, "data=mine.tar", "val_fraction=0", "out=shards").code == 0
    assert command(*CALIBRATE, "val_fraction=0", "out=folder").code == 0
    levels = [yaml.safe_load(Path(out, SIDECAR).read_text())["levels"] for out in ("shards", "folder")]
    assert levels[0] == levels[1]


def test_the_default_levels_end_at_t0_1(command) -> None:
    arguments = [argument for argument in CALIBRATE if not argument.startswith("t0=")]
    assert command(*arguments, "images=3").code == 0
    levels = yaml.safe_load(Path(SIDECAR).read_text())["levels"]
    assert [level["t0"] for level in levels] == [0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]


def test_a_read_only_folder_is_named_with_the_remedy(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: object, **options: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", read_only)
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda place, mode: False)
        assert "the checkpoint's folder . cannot be written; give another as out=FOLDER" in refused(*CALIBRATE)
    assert "out=new cannot be written: Read-only file system; name another folder" in refused(*CALIBRATE, "out=new")


def test_features_that_are_not_installed_are_named(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(ColourFeatures):
        def __init__(self) -> None:
            raise ValueError("features need the package efficientnet_lite_pytorch; pip install it")

    monkeypatch.setitem(FEATURES, "colour", Missing)
    assert "need the package efficientnet_lite_pytorch" in refused(*CALIBRATE)


def test_the_share_held_out_is_that_of_the_models_training(refused) -> None:
    denoiser, description = load_described("tiny.safetensors")
    training = {"config": {"data": {"val_fraction": 0.02}}}
    save_denoiser("held.safetensors", denoiser, description.model, training)
    message = refused(*CALIBRATE, "ckpt=held.safetensors", "split=val")
    assert "with split=val and val_fraction=0.02" in message


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("data=nowhere", ("no data=nowhere", "a folder of images, or shards")),
        ("data=nothing", ("nothing",)),
        ("data=*.tar", ("no shard matches *.tar",)),
        ("data=", ("data= has no value",)),
        ("ckpt=missing", ("no checkpoint at missing",)),
        ("ckpt=text.png", ("text.png",)),
        ("split=test", ("split must be", "'val'", "'test'")),
        ("split=val", ("at least 3 images", "data=photos has 1", "val_fraction=0.05", "split=all")),
        ("val_fraction=2", ("val_fraction must lie in [0, 1)",)),
        ("images=2", ("images must be at least 3, got 2",)),
        ("batch=0", ("batch must be at least 1",)),
        ("steps=0", ("steps must be at least 1",)),
        ("seed=-1", ("seed must be at least 0",)),
        ("features=inception_v9", ("features.name must be one of", "'inception_v9'")),
        ("t0=[0.5]", ("at least two t0, got [0.5]",)),
        ("t0=[0.5,1.5]", ("t0 must lie in (0, 1]", "got 1.5")),
        ("t0=[0.5,0.5]", ("a t0 is given twice in [0.5, 0.5]",)),
        ("t0=[0.5,sigma:1e9]", ("noise levels above", "sigma:1e9")),
        ("t0=[0.5,much]", ("a time in (0, 1] or a noise level", "'much'")),
        ("solver=ddmi", ("did you mean ddim?",)),
        ("out=guide.png", ("out=guide.png is a file",)),
        ("device=quantum", ("device=quantum cannot be used here",)),
        ("imags=3", ("unknown key imags", "did you mean images?")),
    ],
)
def test_wrong_arguments_are_refused(argument: str, words: tuple[str, ...], refused) -> None:
    message = refused(*CALIBRATE, argument)
    assert all(word in message for word in words), message
