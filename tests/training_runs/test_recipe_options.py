"""The recipe's options in whole runs: what is trained, averaged, watched, chosen and written."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.finished_runs import assert_same, logged, read
from support.tiny import tiny_config

from sdedit_pl.checkpoints import describe, load_denoiser, load_described, save_weights
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.resolving import resolve
from sdedit_pl.configuration.training_config import TrainingConfig
from sdedit_pl.configuration.yaml_reading import read_file
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.editing import SDEdit
from sdedit_pl.noise import Gaussian, SeededNoise, Simplex
from sdedit_pl.settings_record import SettingsChanged
from sdedit_pl.training.geometric_augmentation import LABELS
from sdedit_pl.training.weight_averaging import OTHERS
from sdedit_pl.training_runs.starting_weights import MEASURED_GAINS
from sdedit_pl.training_runs.training_run import fit

QUIET = ("preview.count=0", "preview.samples=0")


@pytest.fixture(scope="module")
def trained(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that others start from; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    attention = ("network.channel_multipliers=[1,2]", "network.attention_levels=[1]")
    fit(tiny_config(f"data.path={images}", f"out={folder}", "trainer.max_steps=2", *attention, *QUIET))
    return folder


def test_a_model_of_early_times_knows_where_its_knowledge_ends(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = (f"data.path={images}", f"out={out}", "times.t_max=0.4", "trainer.max_steps=2", "preview.steps=1")
    with pytest.raises(ConfigError, match=r"preview: t0=0.5 is time 0.5 .*trained only up to 0.4"):
        fit(tiny_config(*settings))
    assert not out.exists()
    path = fit(tiny_config(*settings, "preview.t0=0.4", "trainer.val_check_interval=1"))
    assert describe(path).model.t_max == 0.4
    for checkpoint in (path, out / "checkpoints" / "step=00000002.ckpt"):
        denoiser = load_denoiser(checkpoint)
        with pytest.raises(ValueError, match=r"this model was trained only up to 0.4"):
            SDEdit(t0=0.6, steps=1)(denoiser, torch.zeros(1, 3, 8, 8))
        assert SDEdit(t0=0.4, steps=1)(denoiser, torch.zeros(1, 3, 8, 8)).isfinite().all()
    # VP reaches 2.0 at t = 0.4: the range from 0.8 to 3.2 is not trained as a whole
    assert len(logged(out, "val/loss/sigma_0.2-0.8")) == 2
    assert logged(out, "val/loss/sigma_0.8-3.2") == {}


def test_a_model_of_simplex_noise_is_edited_with_it(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = (f"data.path={images}", "trainer.max_steps=2", *QUIET)
    path = fit(tiny_config(*settings, f"out={tmp_path / 'run'}", "noise=simplex", "noise.octaves=3"))
    gaussian = fit(tiny_config(*settings, f"out={tmp_path / 'gaussian'}"))
    weights = [load_denoiser(file).network.state_dict()["head.convolution.weight"] for file in (path, gaussian)]
    assert not torch.equal(*weights)
    denoiser, guide = load_denoiser(path), torch.zeros(2, 3, 8, 8)
    edit, noise = SDEdit(t0=0.5, steps=3), SeededNoise([0, 1], Simplex(3))
    assert denoiser.noise == Simplex(3) == load_denoiser(tmp_path / "run").noise
    assert torch.equal(edit(denoiser, guide, seeds=[0, 1]), edit(denoiser, guide, noise=noise))
    assert "noise" not in describe(gaussian).model.as_data()
    keys = {"ckpt": str(path), "guide": "", "device": "cpu"}
    assert resolve(EditSettings, {**keys, "noise": "simplex"}).load()[0].noise == Simplex(3)
    assert "noise=" not in caplog.text
    assert resolve(EditSettings, {**keys, "noise": "gaussian"}).load()[0].noise == Gaussian()
    assert "noise=gaussian: the model was trained on simplex noise" in caplog.text
    with pytest.raises(ValueError, match="noise is one of gaussian, simplex, got perlin; null is that of the model's"):
        resolve(EditSettings, {**keys, "noise": "perlin"}).load()


def test_everything_at_once_is_resumed_bit_for_bit(images: Path, tmp_path: Path) -> None:
    settings = (
        f"data.path={images}",
        "average.half_life_images=[20,200]",
        "augment.probability=0.5",
        "augment.recolour=0.5",
        "uncertainty=true",
        "weighting=soft_min_snr",
        "optimizer.rate=1e-2",
        "checkpoint.every_steps=1",
        "checkpoint.keep=9",
        "checkpoint.all_averages=true",
        "validation.patience=9",
        "validation.memory_images=99",
        "trainer.val_check_interval=2",
        "preview.count=0",
        "preview.samples=0",
    )
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    path = fit(tiny_config(*settings, f"out={whole}", "trainer.max_steps=6"))
    shutil.copytree(whole, resumed)
    for step in (4, 5, 6):
        (resumed / "checkpoints" / f"step={step:08d}.ckpt").unlink()
    fit(tiny_config(*settings, f"out={resumed}", "trainer.max_steps=6"))
    found, expected = read(resumed, 6), read(whole, 6)
    for part in ("state_dict", "current_model_state", OTHERS):
        assert_same(found[part], expected[part], part)
    assert any(name.startswith("uncertainty.") for name in expected["state_dict"])
    (half_life,) = expected[OTHERS]
    assert half_life == 200
    for folder in (whole, resumed):
        assert_same(load_denoiser(folder / "model-200.safetensors").network.state_dict(), expected[OTHERS][200])
    assert_same(load_denoiser(resumed).state_dict(), load_denoiser(path).state_dict())
    for name in ("val/loss", "val/loss/sigma_mean", "val/loss/sigma_mean/average_200", "val/memory/ratio"):
        assert logged(whole, name) == logged(resumed, name) and len(logged(whole, name)) == 3
    losses = {20: logged(whole, "val/loss/sigma_mean"), 200: logged(whole, "val/loss/sigma_mean/average_200")}
    best = min((loss, step + 1, half_life) for half_life in losses for step, loss in losses[half_life].items())
    facts = describe(path).training
    assert (facts["steps"], facts["average_half_life_images"]) == best[1:]
    assert facts["val/loss/sigma_mean"] == pytest.approx(best[0])


def test_an_augmented_model_edits_and_trains_without_further_settings(images: Path, tmp_path: Path) -> None:
    settings = (f"data.path={images}", "trainer.max_steps=1", *QUIET)
    path = fit(tiny_config(*settings, f"out={tmp_path / 'a'}", "augment.probability=0.5", "uncertainty=true"))
    assert describe(path).model.augmentation_labels == LABELS
    assert not any("uncertainty" in name for name in load_denoiser(path).state_dict())
    edit = SDEdit(t0=0.5, steps=2)(load_denoiser(path), torch.zeros(1, 3, 8, 8))
    assert edit.isfinite().all()
    plain = fit(tiny_config(*settings, f"out={tmp_path / 'b'}", f"ckpt={path}", "optimizer.rate=0"))
    torch.testing.assert_close(SDEdit(t0=0.5, steps=2)(load_denoiser(plain), torch.zeros(1, 3, 8, 8)), edit)


def test_a_part_of_a_model_is_trained_and_the_rest_stays(
    trained: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    shape = ("network.channel_multipliers=[1,2]", "network.attention_levels=[1]")
    settings = (f"data.path={images}", f"out={out}", f"ckpt={trained}", *shape, *QUIET, "trainer.max_steps=2")
    with caplog.at_level(logging.INFO):
        path = fit(tiny_config(*settings, "train.only=[attention]", "optimizer.rate=1e-2"))
    before, after = (load_denoiser(place).network.state_dict() for place in (trained, path))
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed and all(".attention." in name for name in changed)
    moments = read(out, 2)["optimizer_states"][0]["state"]
    frozen = read(out, 2)["current_model_state"]
    assert 0 < len(moments) < len(frozen)
    assert "M trained" in caplog.text
    with pytest.raises(SettingsChanged, match=r"train.only was"):
        fit(tiny_config(*settings, "trainer.max_steps=3"))


def test_the_nearest_of_several_bases_gives_weights_and_network(
    trained: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far, out = tmp_path / "far.safetensors", tmp_path / "run"
    denoiser, description = load_described(trained)
    weights = {name: weight + 0.5 for name, weight in denoiser.network.state_dict().items()}
    save_weights(far, weights, description.model)
    config = tiny_config(f"data.path={images}", f"out={out}", f"ckpt=[{far},{trained}]", *QUIET)
    config = replace(config, network=resolve(TrainingConfig, {"data": {"path": "unused", "size": 8}}).network)
    with caplog.at_level(logging.INFO):
        fit(replace(config, trainer=replace(config.trainer, max_steps=1)))
    assert re.search(rf"6 validation images: {far} [\d.]+, {trained} [\d.]+; starting from {trained}\n", caplog.text)
    recorded = read_file(out / "config.yaml")
    assert (recorded["ckpt"], recorded["network"]["channel_multipliers"]) == (str(trained), [1, 2])
    far.unlink()  # a resumed run does not choose again
    fit(replace(config, trainer=replace(config.trainer, max_steps=2)))
    assert read_file(out / "config.yaml")["ckpt"] == str(trained)
    with pytest.raises(ConfigError, match=r"no validation images by which to choose among .*; give one of them"):
        fit(replace(tiny_config(f"data.path={images}", "data.val_fraction=0"), ckpt=("a", "b"), out=f"{out}2"))


def test_parts_need_a_trained_model_and_have_names(trained: Path, images: Path, tmp_path: Path) -> None:
    settings = (f"data.path={images}", f"out={tmp_path / 'run'}", *QUIET)
    with pytest.raises(ConfigError, match=r"train.only=\['attention'\] trains a part of a trained model; give"):
        fit(tiny_config(*settings, "train.only=[attention]"))
    shape = ("network.channel_multipliers=[1,2]", "network.attention_levels=[1]")
    with pytest.raises(ConfigError, match=r"train.only: parts of a network are attention"):
        fit(tiny_config(*settings, *shape, f"ckpt={trained}", "train.only=[heads]"))
    augmented = ("augment.probability=0.5", f"ckpt={trained}")
    with pytest.raises(ConfigError, match=r"augmentation label.* add label to train.only"):
        fit(tiny_config(*settings, *shape, *augmented, "train.only=[attention]"))
    assert not (tmp_path / "run").exists()


def test_a_part_with_the_label_learns_augmentation(trained: Path, images: Path, tmp_path: Path) -> None:
    shape = ("network.channel_multipliers=[1,2]", "network.attention_levels=[1]", "trainer.max_steps=2")
    settings = (f"data.path={images}", f"out={tmp_path / 'run'}", *shape, *QUIET, "augment.probability=1")
    path = fit(tiny_config(*settings, f"ckpt={trained}", "train.only=[attention,label]", "optimizer.rate=1e-2"))
    assert load_denoiser(path).network.state_dict()["label_embedding.augmentation.weight"].any()


def test_a_run_that_gets_no_better_ends_when_patience_does(images: Path, tmp_path: Path) -> None:
    settings = (f"data.path={images}", f"out={tmp_path / 'run'}", *QUIET, "trainer.val_check_interval=1")
    path = fit(tiny_config(*settings, "trainer.max_steps=20", "optimizer.rate=0", "validation.patience=2"))
    assert len(logged(tmp_path / "run", "val/loss")) == 3
    assert describe(path).training["steps"] == 1
    with pytest.raises(ConfigError, match=r"validation.patience needs validation images"):
        fit(tiny_config(*settings, f"out={tmp_path / 'other'}", "validation.patience=2", "data.val_fraction=0"))


def test_the_last_weights_are_exported_where_that_is_asked_for(images: Path, tmp_path: Path) -> None:
    settings = (f"data.path={images}", f"out={tmp_path / 'run'}", *QUIET, "trainer.val_check_interval=1")
    path = fit(tiny_config(*settings, "trainer.max_steps=3", "optimizer.rate=0", "checkpoint.export=last"))
    assert describe(path).training["steps"] == 3


def test_settings_of_validation_that_mean_nothing_are_refused() -> None:
    for edges in ("[0.5]", "[0.5,0.2]", "[0,1]"):
        with pytest.raises(ConfigError, match="validation: sigma_edges must be at least two increasing"):
            tiny_config("data.path=unused", f"validation.sigma_edges={edges}")


def test_the_gains_reported_at_the_start_are_those_of_the_docs() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    for name, gain in MEASURED_GAINS.items():
        assert name in docs and all(number in docs for number in re.findall(r"\d[\d.,]*\d", gain))
