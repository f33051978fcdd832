"""Two trainings in one folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdedit_pl.training.run_lock import LOCK_FILE, run_lock

HOLDER = """
import os, sys, time
from pathlib import Path
from sdedit_pl.training.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    if os.fork() == 0:  # as a data loader does
        os.close(1)
        time.sleep(2)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def other_training(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a folder."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_training_is_refused_until_the_first_has_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with other_training(tmp_path / "run") as process:
        refused = pytest.raises(ValueError, match=f"another training is running in {tmp_path / 'run'};.* out=")
        with refused, run_lock(tmp_path / "run", seconds=0.1):
            pass
        with run_lock(tmp_path / "other", seconds=0.1):
            pass
        with monkeypatch.context() as second_device:
            second_device.setattr("sdedit_pl.training.run_lock.rank_zero_only.rank", 1)
            with run_lock(tmp_path / "run", seconds=0.1):
                pass
        process.kill()
        process.wait()
        with run_lock(tmp_path / "run"):
            pass


def test_only_folders_that_stay_empty_are_removed(tmp_path: Path) -> None:
    for name in ("empty", "used"):
        with pytest.raises(RuntimeError), run_lock(tmp_path / name / "run"):
            if name == "used":
                (tmp_path / name / "run" / "config.yaml").touch()
            raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    assert {path.name for path in (tmp_path / "used" / "run").iterdir()} == {LOCK_FILE, "config.yaml"}


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "run", "cannot be written")):
        with pytest.raises(ValueError, match=message), run_lock(folder):
            pass
