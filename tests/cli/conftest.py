"""The command line as a user meets it: what it prints, what it returns, what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from sdedit_pl.cli import main


class Outcome(NamedTuple):
    code: int
    output: str
    errors: str


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> Path:
    """A working directory with a checkpoint, a guide and a mask of 16 px, and things that are neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDEDIT_TRACEBACK", raising=False)
    (tmp_path / "tiny.safetensors").symlink_to(tiny_checkpoint)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(pixels).save("guide.png")
    Image.fromarray(mask).save("mask.png")
    Image.fromarray(0 * mask).save("black.png")
    Image.new("RGB", (20, 12), "white").save("wide.png")
    Path("empty.png").touch()
    Path("text.png").write_text("no image")
    Path("cut.png").write_bytes(Path("guide.png").read_bytes()[:300])
    Path("nothing").mkdir()
    Path("elsewhere").mkdir()
    Image.fromarray(mask).save("elsewhere/another.png")
    return tmp_path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command line."""

    def run(*arguments: str) -> Outcome:
        code = main(arguments)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(desk: Path, command: Callable[..., Outcome]) -> Callable[..., str]:
    """Runs a command line that has to end in one line of error and leave the working directory as it was."""

    def refuse(*arguments: str) -> str:
        before = files(desk)
        code, output, errors = command(*arguments)
        assert code == 2 and output == ""
        assert errors.startswith("error: ") and errors.endswith("\n") and errors.count("\n") == 1, errors
        assert files(desk) == before, "a refused command must leave nothing behind"
        return errors.removeprefix("error: ").rstrip()

    return refuse


def files(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: contents of files, None for folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
