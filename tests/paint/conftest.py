"""A server of the paint page with a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.paint_page import Page, painting

if TYPE_CHECKING:
    from sdedit_pl.paint.paint_jobs import PaintJobs


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path) -> Path:
    """The working directory, with the model and a folder of guides."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.safetensors").write_bytes(tiny_checkpoint.read_bytes())
    Path("guides").mkdir()
    painting().save("guides/noise.png")
    return tmp_path


@pytest.fixture
def open_jobs(desk: Path) -> Iterator[Callable[[], PaintJobs]]:
    """Loads the model and the earlier edits, as a new server does."""
    from sdedit_pl.paint.paint_jobs import PaintJobs

    opened = []

    def open_them() -> PaintJobs:
        opened.append(PaintJobs("tiny.safetensors", Path("out"), "cpu"))
        return opened[-1]

    yield open_them
    for jobs in opened:
        jobs.close()


@pytest.fixture
def page(open_jobs: Callable[[], PaintJobs]) -> Page:
    from sdedit_pl.paint.paint_server import paint_app

    return Page(paint_app(open_jobs(), Path("guides")), base_url="http://localhost:7860/")
