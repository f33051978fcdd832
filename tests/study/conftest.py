"""A small study: folders of images, the database made from them, and a client of its server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

if TYPE_CHECKING:
    from httpx import Response

    from sdedit_pl.study.study_database import StudyDatabase

ITEMS = ("alder", "birch", "cedar", "dogwood")


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: noise images of 16 px as outputs of three methods for four guides, and real images."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0)
    for folder, ending in (("ours", "_seed0.png"), ("theirs", ".webp"), ("others", ".png"), ("guides", ".png")):
        Path(folder).mkdir()
        for item in ITEMS:
            noise_image(pixels, 16).save(f"{folder}/{item}{ending}")
    Path("real").mkdir()
    for number in range(2):
        noise_image(pixels, 20).save(f"real/{number}.png")
    return tmp_path


def noise_image(pixels: np.random.Generator, size: int) -> Image.Image:
    return Image.fromarray(pixels.integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture
def build(folders: Path) -> Callable[..., Path]:
    """Builds a study of the three methods; keyword arguments change its plan."""
    # Imported here because the hook that checks annotations is not installed yet when this file is read.
    from sdedit_pl.study.study_builder import build_study
    from sdedit_pl.study.study_settings import StudyPlan

    def make(out: str = "study.sqlite", **changes: Any) -> Path:
        methods = {name: name for name in ("ours", "theirs", "others")}
        build_study(StudyPlan(**{"methods": methods, "guides": "guides", "comparisons": 12, **changes}), Path(out))
        return folders / out

    return make


@pytest.fixture
def study(build: Callable[..., Path]) -> Iterator[StudyDatabase]:
    from sdedit_pl.study.study_database import StudyDatabase

    with StudyDatabase(build()) as database:
        yield database


class Browser(TestClient):
    """The requests of the raters' page."""

    def join(self, rater: str) -> list[dict[str, Any]]:
        return self.post("/api/join", json={"rater": rater}).json()["trials"]

    def answer(self, rater: str, trial: str, choice: str, milliseconds: int | None = 900) -> Response:
        body = {"rater": rater, "trial": trial, "choice": choice, "milliseconds": milliseconds}
        return self.post("/api/answers", json=body)


@pytest.fixture
def browser(study: StudyDatabase) -> Browser:
    from sdedit_pl.study.study_server import study_app

    return Browser(study_app(study, ["study.example.org"]), base_url="http://localhost:8000")
