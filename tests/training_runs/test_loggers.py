"""TensorBoard and MLflow in a training run, over restarts and without their packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from support.tiny import tiny_config, write_images

from sdedit_pl.training.module import ScoreModule
from sdedit_pl.training_runs.run_folder import HISTORY_FILE
from sdedit_pl.training_runs.training_run import fit


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    images = write_images(tmp_path / "images")
    return (f"data.path={images}", f"out={tmp_path / 'run'}", "logger=[tensorboard,mlflow,csv]", "trainer.max_steps=5")


def interrupted_at_the_last_step(*settings: str) -> None:
    def failing(self: ScoreModule, batch: object, batch_idx: int) -> object:
        if batch_idx == 4:
            raise RuntimeError("no more")
        return step(self, batch, batch_idx)  # pyright: ignore

    step = ScoreModule.training_step
    with pytest.MonkeyPatch.context() as patched, pytest.raises(RuntimeError, match="no more"):
        patched.setattr(ScoreModule, "training_step", failing)
        fit(tiny_config(*settings))


def test_a_resumed_run_has_every_entry_once_in_each_logger(settings: tuple[str, ...], tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, every = tmp_path / "run", ("trainer.val_check_interval=2", "checkpoint.every_steps=3")
    interrupted_at_the_last_step(*settings, *every)  # after step 4; the checkpoint holds three
    fit(tiny_config(*settings, *every, "seed=0", "trainer.max_steps=6"))

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    client = MlflowClient((folder / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("sdedit_pl").experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    for name, steps in {"train/loss": [0, 1, 2, 3, 4, 5], "val/loss": [1, 3, 5]}.items():
        points = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}
        assert sorted(points) == steps == [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert [(event.step, pytest.approx(event.value)) for event in board.Scalars(name)] == [*points.items()]
    assert (folder / HISTORY_FILE).is_file()

    sheets = ["preview/step-00000002.png", "preview/step-00000004.png", "preview/step-00000006.png"]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "preview")] == sheets
    images = board.Images("preview")
    assert [image.step for image in images] == [2, 4, 6] and images[0].encoded_image_string.startswith(b"\x89PNG")

    assert {name for name in run.data.metrics if name.startswith("val/loss.sigma_")}

    (kept,) = (folder / "mlruns").rglob("artifacts/config.yaml")
    assert yaml.safe_load(kept.read_text()) == yaml.safe_load((folder / "config.yaml").read_text())
    assert run.data.params["trainer/max_steps"] == "5"  # parameters are those of the first start


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_an_absent_package_is_named_with_its_extra(name: str, settings, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=rf"logger={name} needs the package {name}; pip install 'sdedit-pl\[{name}\]'"):
        fit(tiny_config(*settings, f"logger={name}"))
    assert not (tmp_path / "run").exists()


def test_a_server_of_mlflow_that_fails_is_named_and_does_not_end_a_training(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException("no disk\nspace")

    def refuse_previews(self: MlflowClient, run_id: str, *args: object) -> None:
        refuse() if "preview" in args else log_artifact(self, run_id, *args)

    log_artifact = MlflowClient.log_artifact

    with (
        monkeypatch.context() as patched,
        pytest.raises(ValueError, match="logger=mlflow: no disk; check MLFLOW"),
    ):
        patched.setattr(MlflowClient, "create_run", refuse)
        fit(tiny_config(*settings, "logger=mlflow"))
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_artifact", refuse_previews)
        assert fit(tiny_config(*settings, "logger=mlflow", "trainer.max_steps=1")).is_file()
    assert "MLflow did not accept an entry; training continues: no disk" in caplog.text
