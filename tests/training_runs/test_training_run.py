"""Training runs from a folder of images to an editing checkpoint, in their folder and over restarts."""

from __future__ import annotations

import os
import shutil
import signal
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.finished_runs import assert_same, logged, read, resumable
from support.full_disk import full_disk
from support.tiny import tiny_config
from torch import Tensor

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.build.training_parts import build_data
from sdedit_pl.checkpoints import describe, load_denoiser
from sdedit_pl.configuration import ConfigError
from sdedit_pl.editing import SDEdit
from sdedit_pl.files import claimed
from sdedit_pl.losses import TIME_SAMPLERS, WEIGHTINGS
from sdedit_pl.machine import Machine
from sdedit_pl.parameterisations import PARAMETERISATIONS
from sdedit_pl.picture_grid import cell_side
from sdedit_pl.sde import SDES
from sdedit_pl.settings_record import SettingsChanged
from sdedit_pl.training.divergence_watch import Diverged
from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training_runs.run_folder import newest_whole
from sdedit_pl.training_runs.training_run import fit, warn_of_hours

NO_PREVIEWS = ("preview.count=0", "preview.samples=0", "trainer.val_check_interval=1000")


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 4 steps; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(tiny_config(f"data.path={images}", f"out={folder}", "trainer.val_check_interval=2"))
    return folder


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_a_run_leaves_its_configuration_checkpoints_previews_and_logs(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 4 and config["sde"] == {"name": "vp", "beta_min": 0.1, "beta_max": 20.0}
    assert checkpoints(finished) == ["best.ckpt", "step=00000002.ckpt", "step=00000004.ckpt"]
    sheets = sorted((finished / "previews").iterdir())
    assert [path.name for path in sheets] == ["step-00000002.png", "step-00000004.png"]
    assert np.asarray(Image.open(sheets[0])).std() > 10
    losses, val_losses = logged(finished, "train/loss"), logged(finished, "val/loss")
    assert len(losses) == 4 and len(val_losses) == 2
    assert all(0 < loss < 10 for loss in [*losses.values(), *val_losses.values()])
    assert list(logged(finished, "train/images").values()) == [4, 8, 12, 16]
    assert all(rate > 0 for rate in logged(finished, "train/images_per_second").values())
    assert list(logged(finished, "train/rate").values()) == [1e-3] * 4
    assert not list(finished.rglob("*.tmp")) and not (finished / "wandb").exists()


def test_the_editing_checkpoint_holds_the_average_and_says_what_it_is(finished: Path) -> None:
    description = describe(finished)
    assert description.path == finished / "model.safetensors"
    assert description.training["steps"] == 4 and description.training["images_seen"] == 16
    denoiser, state = load_denoiser(finished), read(finished, 4)
    for name, weight in denoiser.state_dict().items():
        assert torch.equal(weight, state["state_dict"][f"denoiser.{name}"])
    edit = SDEdit(t0=0.5, steps=2)(denoiser, torch.zeros(1, 3, 8, 8), seeds=[0])
    assert edit.shape == (1, 3, 8, 8) and edit.isfinite().all()


def test_a_checkpoint_is_plain_data_with_the_average_beside_the_trained_weights(finished: Path) -> None:
    state = read(finished, 4)
    assert state["sdedit_config"] == yaml.safe_load((finished / "config.yaml").read_text())
    assert state["sdedit_batches_done"] == 4 and state["global_step"] == 4
    assert state["state_dict"].keys() == state["current_model_state"].keys()
    trained = state["current_model_state"]
    assert any(not torch.equal(trained[name], weight) for name, weight in state["state_dict"].items())
    assert state["averaging_state"]["n_averaged"] == 4
    from_both = [load_denoiser(path).state_dict() for path in (finished, resumable(finished, 4))]
    assert_same(*from_both)


@pytest.mark.parametrize(("workers", "stops", "on_device"), [(0, (2, 3, 4), False), (2, (3,), False), (0, (3,), True)])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    workers: int, stops: tuple[int, ...], on_device: bool, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        f"data.path={images}",
        f"data.workers={workers}",
        "data.cache=false",
        "data.flip=true",
        "schedule=cosine",
        "trainer.max_steps=8",
        "trainer.accumulate_grad_batches=2",
        "trainer.val_check_interval=3",
        "checkpoint.every_steps=1",
        "checkpoint.keep=8",
    )
    whole = tmp_path / "whole"
    fit(tiny_config(*settings, f"out={whole}"))
    expected = read(whole, 8)
    val_losses = logged(whole, "val/loss")
    assert list(val_losses) == [2, 5, 7]
    if on_device:  # only the resumed run keeps its images on the device
        monkeypatch.setattr("sdedit_pl.data.datamodule.room_on", lambda device, images: True)
        settings += ("data.cache=true",)
    for stop in stops:
        resumed = tmp_path / f"resumed{stop}"
        shutil.copytree(whole, resumed)
        for step in range(stop + 1, 9):
            resumable(resumed, step).unlink()
        fit(tiny_config(*settings, f"out={resumed}"))
        found = read(resumed, 8)
        assert resumable(resumed, stop).read_bytes() == resumable(whole, stop).read_bytes()  # not written again
        for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
            assert_same(found[part], expected[part], part)
        assert found["sdedit_batches_done"] == 16
        for name in ("train/loss", "train/images", "train/rate"):
            assert logged(resumed, name) == logged(whole, name)
        assert logged(resumed, "val/loss") == val_losses
        assert_same(load_denoiser(resumed).state_dict(), load_denoiser(whole).state_dict())


def test_a_run_resumes_to_a_later_end_with_the_new_settings(finished: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    settings = ("trainer.max_steps=6", "optimizer.rate=2e-3", "optimizer.betas=[0.8,0.9]", "network.dropout=0.3")
    settings += ("checkpoint.export=last", "schedule=trapezoid", "schedule.decay_steps=4")
    fit(tiny_config(f"data.path={images}", f"out={folder}", *settings))
    assert list(logged(folder, "train/images").values()) == [4, 8, 12, 16, 20, 24]
    assert list(logged(folder, "train/rate").values())[4:] == pytest.approx([2e-3 * 0.5, 2e-3 * 0.25])
    assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["rate"] == 2e-3
    assert describe(folder).model.network.values["dropout"] == 0.3
    assert read(folder, 6)["optimizer_states"][0]["param_groups"][0]["betas"] == (0.8, 0.9)
    assert describe(folder).training["images_seen"] == 24


def test_the_last_step_is_in_a_checkpoint_whatever_the_interval(images: Path, tmp_path: Path) -> None:
    settings = (f"data.path={images}", f"out={tmp_path / 'run'}", "checkpoint.every_steps=3", "checkpoint.best=false")
    fit(tiny_config(*settings, "trainer.max_steps=4"))
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert names == ["step=00000003.ckpt", "step=00000004.ckpt"]
    fit(tiny_config(*settings, "trainer.max_steps=6", "checkpoint.keep=2", "checkpoint.every_steps=5"))
    whole = tmp_path / "whole"
    fit(tiny_config(*settings, f"out={whole}", "trainer.max_steps=6"))
    names = [path.name for path in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert names == ["step=00000005.ckpt", "step=00000006.ckpt"]
    for part in ("current_model_state", "state_dict"):
        assert_same(read(tmp_path / "run", 6)[part], read(whole, 6)[part])
    assert logged(tmp_path / "run", "train/loss") == logged(whole, "train/loss")


def test_a_finished_run_trains_no_more_but_lacks_nothing(
    finished: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sdedit_pl")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "model.safetensors").unlink()  # as where the process ended in the last validation
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".ckpt", ".png")}
    path = fit(tiny_config(f"data.path={images}", f"out={folder}", "trainer.val_check_interval=2"))
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert_same(load_denoiser(path).state_dict(), load_denoiser(finished).state_dict())
    assert describe(path).training["images_seen"] == 16
    assert f"{folder} holds a finished run of 4 steps: a larger trainer.max_steps trains it further" in caplog.text


@pytest.mark.parametrize(("interval", "validated"), [(1000, [3]), (3, [3]), (2, [2, 3])])
def test_a_run_validates_after_its_last_step(images: Path, interval: int, validated: list[int], tmp_path: Path) -> None:
    out = tmp_path / "run"
    batches = ("data.batch_size=2", "trainer.accumulate_grad_batches=2")
    every = f"trainer.val_check_interval={interval}"
    fit(tiny_config(f"data.path={images}", f"out={out}", "trainer.max_steps=3", every, *batches))
    assert list(logged(out, "val/loss")) == [step - 1 for step in validated]
    assert sorted(p.name for p in (out / "previews").iterdir()) == [f"step-{step:08d}.png" for step in validated]


def test_a_second_training_in_the_same_folder_is_refused(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(f"data.path={images}", f"out={tmp_path}")
    with claimed(tmp_path):
        with pytest.raises(ValueError, match=f"process {os.getpid()} on .* is writing {tmp_path}; .* out="):
            fit(config)
        monkeypatch.setattr("sdedit_pl.training_runs.training_run.rank_zero_only.rank", 1)
        monkeypatch.setattr(
            "sdedit_pl.training_runs.training_run.train", lambda config, signals: Path("on the second device")
        )
        assert fit(config) == Path("on the second device")


def test_runs_that_do_not_go_together_are_refused(finished: Path, images: Path, tmp_path: Path) -> None:
    same = (f"data.path={images}", f"out={finished}")
    before = (finished / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="already holds a run and resume=false"):
        fit(tiny_config(*same, "resume=false"))
    with pytest.raises(SettingsChanged, match=r"image.size was 8, .* 16 now; network.channels was 8, .* another out="):
        fit(tiny_config(*same, "data.size=16", "network.channels=16"))
    with pytest.raises(SettingsChanged, match=r"sde.name was vp, .* ve now"):
        fit(tiny_config(*same, "sde=ve"))
    with pytest.raises(SettingsChanged, match=r"optimizer.name was adam or adamw, and is muon now; .* another out="):
        fit(tiny_config(*same, "optimizer=muon"))
    with pytest.raises(SettingsChanged, match="seed was 0, and is 7 now"):
        fit(tiny_config(*same, "seed=7"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        fit(tiny_config(*same, f"out={tmp_path / 'file'}"))
    assert (finished / "config.yaml").read_text() == before


def test_weights_can_start_from_an_editing_checkpoint(finished: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = (f"data.path={images}", f"out={out}", f"ckpt={finished}", *NO_PREVIEWS)
    fit(tiny_config(*settings, "trainer.max_steps=1", "optimizer.rate=0"))
    assert_same(load_denoiser(out).state_dict(), load_denoiser(finished).state_dict())
    fit(tiny_config(*settings, "trainer.max_steps=2", "ckpt=gone.safetensors"))  # resumed: not read again
    with pytest.raises(ConfigError, match="has a different network from this configuration"):
        fit(tiny_config(*settings, f"out={tmp_path / 'other'}", "network.channels=16"))


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    finished: Path, images: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1234)
    again, other = tmp_path / "again", tmp_path / "other"
    fit(tiny_config(f"data.path={images}", f"out={again}", "trainer.val_check_interval=2"))
    assert_same(load_denoiser(again).state_dict(), load_denoiser(finished).state_dict())
    assert logged(again, "train/loss") == logged(finished, "train/loss")
    fit(tiny_config(f"data.path={images}", f"out={other}", "seed=1", *NO_PREVIEWS))
    assert logged(other, "train/loss") != logged(finished, "train/loss")


@pytest.mark.parametrize(
    "option", ["trainer.precision=bf16-mixed", "channels_last=true", "checkpoint.dtype=float16", "reduction=sum"]
)
def test_options_of_a_run(option: str, finished: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(tiny_config(f"data.path={images}", f"out={out}", option))
    losses, reference = (list(logged(folder, "train/loss").values()) for folder in (out, finished))
    scale = 3 * 8 * 8 if option == "reduction=sum" else 1
    assert losses[0] == pytest.approx(reference[0] * scale, rel=0.05)
    assert describe(out).dtypes == (("float16",) if "float16" in option else ("float32",))
    weights, expected = load_denoiser(out).state_dict(), load_denoiser(finished).state_dict()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0.1, atol=5e-3)
    if option == "channels_last=true":
        convolutions = [weight for weight in read(out, 4)["current_model_state"].values() if weight.dim() == 4]
        assert any(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)


def test_the_gradient_is_clipped(images: Path, tmp_path: Path) -> None:
    # After one step, Adam's first moment is a tenth of the gradient that it was given.
    norms = {}
    for clip in ("null", "0.01"):
        out = tmp_path / clip
        settings = (f"data.path={images}", f"out={out}", "trainer.max_steps=1", *NO_PREVIEWS)
        fit(tiny_config(*settings, f"trainer.gradient_clip_val={clip}", "reduction=sum"))
        moments = [state["exp_avg"] for state in read(out, 1)["optimizer_states"][0]["state"].values()]
        norms[clip] = torch.stack([moment.norm() for moment in moments]).norm().item() / 0.1
    assert norms["0.01"] == pytest.approx(0.01, rel=1e-3) and norms["null"] > 1


def test_a_run_takes_every_name_of_the_tables(images: Path, tmp_path: Path) -> None:
    trainable = [name for name, kind in PARAMETERISATIONS.items() if not kind().learned_variance]
    names = [list(SDES), trainable, list(WEIGHTINGS), list(TIME_SAMPLERS)]
    for turn in range(max(map(len, names))):
        sde, parameterisation, weighting, times = (table[turn % len(table)] for table in names)
        out = tmp_path / str(turn)
        choice = (f"sde={sde}", f"parameterisation={parameterisation}", f"weighting={weighting}", f"times={times}")
        if PARAMETERISATIONS[parameterisation]().label == "time":
            choice += ("network.label_embedding=positional",)
        settings = (f"data.path={images}", f"out={out}", *NO_PREVIEWS)
        fit(tiny_config(*settings, *choice, "trainer.max_steps=1"))
        (loss,) = logged(out, "train/loss").values()
        assert 0 < loss < float("inf")
        assert all(weight.isfinite().all() for weight in load_denoiser(out).state_dict().values())


@pytest.mark.parametrize("parameterisation", ["epsilon", "v"])
def test_times_that_a_network_cannot_tell_apart_are_refused(
    parameterisation: str, images: Path, tmp_path: Path
) -> None:
    settings = (f"data.path={images}", f"out={tmp_path / 'run'}", f"parameterisation={parameterisation}")
    with pytest.raises(ConfigError, match=f"={parameterisation} go up to 999; .*=positional"):
        fit(tiny_config(*settings))
    assert not (tmp_path / "run").exists()


def test_a_run_without_validation_images_trains(images: Path, tmp_path: Path) -> None:
    path = fit(tiny_config(f"data.path={images}", f"out={tmp_path / 'run'}", "data.val_fraction=0"))
    assert describe(path).training["steps"] == 4
    assert logged(tmp_path / "run", "val/loss") == {}


def test_previews_take_given_guides(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fit(tiny_config(f"data.path={images}", f"out={out}", f"preview.guides={images}", "preview.count=3"))
    width, _ = Image.open(out / "previews" / "step-00000004.png").size
    cell = cell_side(Image.new("RGB", (8, 8)))
    assert 3 * cell < width < 4 * cell


def test_a_folder_without_images_leaves_no_run_behind(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        fit(tiny_config(f"data.path={tmp_path / 'empty'}", f"out={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
def damaged(finished: Path, tmp_path: Path) -> Path:
    """A run whose newest checkpoint was cut off."""
    folder = tmp_path / "damaged"
    shutil.copytree(finished, folder)
    newest = resumable(folder, 4)
    newest.write_bytes(newest.read_bytes()[:-1000])
    return folder


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_resumed(
    damaged: Path, finished: Path, images: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tiny_config(f"data.path={images}", f"out={damaged}", "trainer.val_check_interval=2"))
    assert "step=00000004.ckpt is damaged" in caplog.text
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert_same(read(damaged, 4)[part], read(finished, 4)[part], part)
    assert logged(damaged, "val/loss") == logged(finished, "val/loss")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        *((entry, f"it lacks {entry}") for entry in ("optimizer_states", "lr_schedulers", "epoch", "global_step")),
        *((entry, f"it lacks {entry}") for entry in ("sdedit_batches_done", "pytorch-lightning_version")),
        ("current_model_state", "it lacks current_model_state"),
        ("callbacks/ImageHalfLifeAveraging", "it lacks ImageHalfLifeAveraging"),
        ("archive/data/3", "is not a complete checkpoint"),
    ],
)
def test_a_checkpoint_without_an_entry_is_damaged_even_if_its_checksums_are_right(
    entry: str, problem: str, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    newest = resumable(out, 4)
    if entry.startswith("archive/"):
        with zipfile.ZipFile(resumable(finished, 4)) as whole, zipfile.ZipFile(newest, "w") as archive:
            for name in whole.namelist():
                if name != entry:
                    archive.writestr(name, whole.read(name))
    else:
        checkpoint = read(out, 4)
        place, _, name = entry.rpartition("/")
        del (checkpoint[place] if place else checkpoint)[name]
        torch.save(checkpoint, newest)
    assert newest_whole(out) == resumable(out, 2)
    assert "step=00000004.ckpt is damaged" in caplog.text and problem in caplog.text


def test_a_second_interrupt_ends_a_run_as_an_interrupt(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def insist(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ScoreModule, "training_step", insist)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(tiny_config(f"data.path={images}", f"out={tmp_path / 'run'}"))
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(damaged: Path, images: Path) -> None:
    resumable(damaged, 2).write_bytes(b"")
    before = {path: path.read_bytes() for path in damaged.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"all checkpoints in .* are damaged"):
        fit(tiny_config(f"data.path={images}", f"out={damaged}"))
    assert before == {path: path.read_bytes() for path in damaged.rglob("*") if path.is_file()}


def test_a_full_disk_does_not_stop_a_run_but_is_reported_at_its_end(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    settings = (f"data.path={images}", f"out={out}", "trainer.val_check_interval=2")
    refused = pytest.raises(OSError, match=r"model.safetensors.*step=00000004.ckpt.*make room")
    with full_disk(30_000), refused:  # room for the log, the sheets, no weights
        fit(tiny_config(*settings))
    assert "step=00000002.ckpt cannot be written: File too large" in caplog.text
    assert not list(out.rglob("*.ckpt")) and not list(out.rglob("*.safetensors")) and not list(out.rglob("*.tmp"))
    assert len(logged(out, "train/loss")) == 4
    assert fit(tiny_config(*settings)).is_file()  # with room again


def test_a_disk_with_room_for_the_model_alone(finished: Path, images: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "run", finished / "model.safetensors"
    refused = pytest.raises(OSError, match=r"4\.ckpt cannot be written.*model after step 4; .* ckpt=")
    with full_disk(2 * model.stat().st_size), refused:
        fit(tiny_config(f"data.path={images}", f"out={out}"))
    assert not list(out.rglob("*.ckpt"))
    assert_same(load_denoiser(out).state_dict(), load_denoiser(model).state_dict())


def test_a_run_resumes_with_other_batches_to_a_step(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = ScoreModule.training_step, list[tuple[int, Tensor]]()

    def noting(self: ScoreModule, batch: Tensor, batch_idx: int) -> Tensor:
        seen.append((self.global_step, batch))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ScoreModule, "training_step", noting)
    settings = (f"data.path={images}", f"out={tmp_path / 'run'}", "trainer.val_check_interval=2")
    for end, batch_size, accumulated in ((3, 4, 1), (5, 2, 2), (8, 1, 4), (10, 4, 1)):
        given = (f"trainer.max_steps={end}", f"data.batch_size={batch_size}")
        fit(tiny_config(*settings, *given, f"trainer.accumulate_grad_batches={accumulated}"))
    assert [number for number, _ in seen] == [0, 1, 2, 3, 3, 4, 4, *[5] * 4, *[6] * 4, *[7] * 4, 8, 9]
    data = build_data(tiny_config(*settings, "data.batch_size=40"))
    data.setup()
    expected = data.on_after_batch_transfer(next(iter(data.training_loader())), 0)
    assert torch.equal(torch.cat([batch for _, batch in seen]), expected)
    assert list(logged(tmp_path / "run", "val/loss")) == [1, 2, 3, 4, 5, 7, 9]
    assert list(logged(tmp_path / "run", "train/images").values()) == [4.0 * step for step in range(1, 11)]


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_in_which_no_average_moves_is_refused(precision: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"={precision} .*={precision[:-5]}-mixed"):
        fit(tiny_config(f"data.path={images}", f"out={tmp_path / 'run'}", f"trainer.precision={precision}"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [("precision=transformer-engine", "^trainer: .*transformer_engine"), ("strategy=ddp_spawn", "use ddp$")],
)
def test_trainer_settings_that_cannot_work_are_refused(
    setting: str, message: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(tiny_config(f"data.path={images}", f"out={tmp_path / 'run'}", f"trainer.{setting}"))


@pytest.mark.parametrize("every", [1, 100])
def test_a_loss_that_is_not_finite_ends_the_run_and_spoils_nothing(
    every: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = ScoreModule.training_step

    def failing(self: ScoreModule, batch: Tensor, batch_idx: int) -> Tensor:
        loss = step(self, batch, batch_idx)
        if batch_idx == 4:
            self.batch_loss = self.batch_loss * float("nan")
        return loss * (float("nan") if batch_idx == 4 else 1)

    monkeypatch.setattr(ScoreModule, "training_step", failing)
    out = tmp_path / "run"
    settings = ("trainer.max_steps=9", "trainer.val_check_interval=2", f"trainer.log_every_n_steps={every}")
    with pytest.raises(Diverged, match=r"loss of step 5 is not finite; .*the last good checkpoint is .*00000004.ckpt"):
        fit(tiny_config(f"data.path={images}", f"out={out}", *settings))
    assert checkpoints(out) == ["best.ckpt", "step=00000002.ckpt", "step=00000004.ckpt"]
    for weights in (load_denoiser(out).state_dict(), read(out, 4)["current_model_state"], read(out, 4)["state_dict"]):
        assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(finished: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = (f"data.path={images}", f"out={out}", "trainer.val_check_interval=2", "network.dropout=0")
    fit(tiny_config(*settings, "compile=true"))
    plain = tmp_path / "plain"
    fit(tiny_config(*settings, f"out={plain}"))
    assert not any("_orig_mod" in name for name in read(out, 4)["state_dict"])
    losses, expected = (list(logged(folder, "train/loss").values()) for folder in (out, plain))
    assert losses == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("room", "advice"), [(1, "batch_size=1 trainer.accumulate_grad_batches=8 .* 8 images"), (0, "checkpoint_gradients")]
)
def test_a_run_without_memory_names_the_batch_that_fits(
    room: int, advice: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = ScoreModule.losses

    def limited(self: ScoreModule, denoiser: Any, batch: Tensor, *others: Any) -> Tensor:
        if len(batch) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(self, denoiser, batch, *others)

    monkeypatch.setattr(ScoreModule, "losses", limited)
    settings = (f"data.path={images}", f"out={tmp_path / 'run'}", "trainer.accumulate_grad_batches=2")
    with pytest.raises(ConfigError, match=f"memory for data.batch_size=4.*{advice}"):
        fit(tiny_config(*settings, "augment.probability=0.5"))


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2"])
def test_strategies_that_share_out_the_network_are_refused(strategy: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"strategy={strategy} .* use ddp"):
        fit(tiny_config(f"data.path={images}", f"out={tmp_path / 'run'}", f"trainer.strategy={strategy}"))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("trainer.devices=8", "trainer: devices=8, .* has room for 1 .*devices=1"),
        ("trainer.precision=bf16-mixed", "trainer.precision=bf16-mixed .*V100.* 16-mixed"),
        ("compile=true", "compile=true .*triton.* compile=false"),
    ],
)
def test_what_the_gpu_cannot_do_is_refused_before_anything_is_written(
    option: str, words: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Machine("cuda", "NVIDIA V100", bf16=False, missing_compiler="the package triton", count=1)
    monkeypatch.setattr("sdedit_pl.training_runs.training_run.this_machine", lambda accelerator: gpu)
    with pytest.raises(ConfigError, match=words):
        fit(tiny_config(f"data.path={images}", f"out={tmp_path / 'run'}", option))
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.yaml"))


def test_the_resolved_arithmetic_is_recorded_and_printed(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sdedit_pl")
    fit(tiny_config(f"data.path={images}", f"out={tmp_path / 'run'}", "trainer.max_steps=1", *NO_PREVIEWS))
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["trainer"]["precision"], config["compile"], config["channels_last"]) == ("32-true", False, False)
    assert "arithmetic: 32-true, NCHW (CPU" in caplog.text


@pytest.mark.parametrize(("steps", "ckpt", "warned"), [(10**10, None, True), (10**10, "a", True), (1000, None, False)])
def test_a_run_of_days_on_a_cpu_names_shorter_ways(
    steps: int, ckpt: str | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(tiny_config("data.path=unused", f"trainer.max_steps={steps}"), ckpt=ckpt)
    warn_of_hours(build_denoiser(config.model), config)
    words = ("meant for a GPU", "40,000,000,000 images", "hours", "data.batch_size")
    assert [word in caplog.text for word in words] == [warned] * 4
    assert ("config=finetune64" in caplog.text) == (warned and not ckpt)


def test_each_phase_of_a_run_is_logged(images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sdedit_pl")
    settings = ("validation.memory_images=9", "trainer.enable_progress_bar=true")
    fit(tiny_config(f"data.path={images}", f"out={tmp_path}", *settings))
    phases = ("train images: ", "preparing the check for memorised", "network: ", "step 4: preview ", "step 4: wrote ")
    places = [caplog.text.index(phase) for phase in phases]
    assert places == sorted(places)
