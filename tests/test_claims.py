"""Two processes that write to one folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdedit_pl.files import claimed

HOLDER = """
import os, sys, time
from pathlib import Path
from sdedit_pl.files import claimed
with claimed(Path(sys.argv[1])):
    if os.fork() == 0:  # as a data loader does
        os.close(1)
        time.sleep(2)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the claim on a folder."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_learns_who_is_writing_until_the_first_has_died(tmp_path: Path) -> None:
    with other_process(tmp_path / "run") as process:
        refused = pytest.raises(ValueError, match=f"process {process.pid} on .* is writing {tmp_path / 'run'};.* out=")
        with refused, claimed(tmp_path / "run"):
            pass
        with claimed(tmp_path / "other"), claimed(tmp_path / "run", "name"):
            pass
        process.kill()
        process.wait()
        with claimed(tmp_path / "run"):
            pass


def test_only_folders_that_stay_empty_are_removed(tmp_path: Path) -> None:
    for name in ("empty", "used"):
        with pytest.raises(RuntimeError), claimed(tmp_path / name / "run"):
            if name == "used":
                (tmp_path / name / "run" / "config.yaml").touch()
            raise RuntimeError
    left = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))]
    assert left == ["used", "used/run", "used/run/config.yaml"]


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "run", "cannot be written")):
        with pytest.raises(ValueError, match=message), claimed(folder):
            pass
