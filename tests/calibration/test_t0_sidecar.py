"""The t0 beside a checkpoint: found again, and given up with the weights it was made for."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import yaml

from sdedit_pl.calibration.t0_sidecar import calibrated_t0, sidecar_of, write_calibration
from sdedit_pl.checkpoints.fingerprint import fingerprint
from sdedit_pl.checkpoints.safe_reading import CheckpointError
from sdedit_pl.configuration import ConfigError
from sdedit_pl.files import sha256_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("t0", [0.45, "sigma:1.2", None])
def test_it_comes_back_as_it_was_written(t0: float | str | None, checkpoint: Path) -> None:
    assert calibrated_t0(checkpoint) is None
    write_calibration(sidecar_of(checkpoint), checkpoint, t0, {"levels": [1, 2]})
    assert calibrated_t0(checkpoint) == t0
    written = yaml.safe_load(sidecar_of(checkpoint).read_text())
    assert sidecar_of(checkpoint).name == "model.safetensors.t0.yaml"
    assert written == {
        "t0": t0,
        "checkpoint": "model.safetensors",
        "sha256": sha256_of(checkpoint),
        "levels": [1, 2],
    }


def test_it_stays_with_its_weights_wherever_they_go(checkpoint: Path, tmp_path: Path) -> None:
    write_calibration(sidecar_of(checkpoint), checkpoint, 0.4, {})
    moved = tmp_path / "elsewhere" / "renamed.safetensors"
    moved.parent.mkdir()
    shutil.move(checkpoint, moved)
    shutil.move(sidecar_of(checkpoint), sidecar_of(moved))
    assert calibrated_t0(moved) == 0.4


def test_other_weights_do_not_take_it(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_calibration(sidecar_of(checkpoint), checkpoint, 0.4, {})
    checkpoint.write_bytes(b"trained on")
    with caplog.at_level(logging.WARNING, "sdedit_pl"):
        assert calibrated_t0(checkpoint) is None
    assert "model.safetensors.t0.yaml is ignored: it was made for weights other than those of" in caplog.text


def test_a_folders_weights_are_all_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "diffusers"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights").write_bytes(b"weights")
    before = fingerprint(folder)
    write_calibration(sidecar_of(folder), folder, 0.4, {})
    assert calibrated_t0(folder) == 0.4 and fingerprint(folder) == before
    (folder / "unet" / "weights").rename(folder / "unet" / "other")
    assert fingerprint(folder) != before and calibrated_t0(folder) is None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("t0: 0.4\n", CheckpointError, "not written by `sdedit calibrate`; delete it"),
        ("sha256: abc\n", CheckpointError, "not written by `sdedit calibrate`"),
        ("t0: [0.4]\nsha256: abc\n", CheckpointError, "not written by `sdedit calibrate`"),
        ("t0: 1.5\nsha256: SHA\n", CheckpointError, r"t0 must lie in \(0, 1\], got 1.5.*calibrate again"),
        ("t0: half\nsha256: SHA\n", CheckpointError, "a time in .* or a noise level such as sigma:1.2, got 'half'"),
        ("t0: [", ConfigError, "is not a readable YAML file"),
    ],
)
def test_a_file_that_is_none_of_these_is_refused(
    text: str, error: type[ValueError], message: str, checkpoint: Path
) -> None:
    sidecar_of(checkpoint).write_text(text.replace("SHA", sha256_of(checkpoint)))
    with pytest.raises(error, match=message):
        calibrated_t0(checkpoint)
