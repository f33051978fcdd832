"""The requests of the paint page, and pictures to send."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient
from support.tiny import tiny_config

from sdedit_pl.build.model import build_denoiser
from sdedit_pl.checkpoints import save_denoiser
from sdedit_pl.data.image_format import ImageShape, PixelFormat


def data_url(picture: Image.Image, format: str = "PNG") -> str:
    file = io.BytesIO()
    picture.save(file, format)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def painting(width: int = 40, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def mask(box: tuple[int, int, int, int] = (10, 10, 30, 30), size: tuple[int, int] = (40, 40)) -> Image.Image:
    picture = Image.new("L", size)
    picture.paste(255, box)
    return picture


def save_model_of(channels: int, format: PixelFormat) -> None:
    """Saves a model of 24 x 16 pixels of data other than photographs, as tiny.safetensors."""
    model = tiny_config("data.path=a", "data.size=[24,16]", "data.channels=1").model
    model = replace(model, image=ImageShape((24, 16), channels, format=format))
    save_denoiser("tiny.safetensors", build_denoiser(model), model)


class Page(TestClient):
    """The requests of the page."""

    def opened(self, file: Path) -> Any:
        content = base64.b64encode(file.read_bytes()).decode()
        return self.post("api/guides", json={"name": file.name, "content": content})

    def shown(self, address: str) -> Image.Image:
        reply = self.get(f"shown/{address}")
        assert reply.status_code == 200, reply.text
        return Image.open(io.BytesIO(reply.content))

    def submit(self, **changes: Any) -> str:
        reply = self.request_edit(**changes)
        assert reply.status_code == 200, reply.text
        return reply.json()["identity"]

    def request_edit(self, **changes: Any) -> Any:
        body = {"guide": data_url(painting()), "t0": 0.3, "steps": 3, "samples": 2, "seed": 5, **changes}
        return self.post("api/edits", json=body)

    def finished(self, identity: str) -> dict[str, Any]:
        """The job of an edit at its end."""
        return self.job_when(identity, lambda job: job["state"] not in ("waiting", "running"))

    def job_when(self, identity: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits until the job of an edit has reached a condition."""
        for _ in range(3000):
            (job,) = (job for job in self.get("api/state").json()["jobs"] if job["identity"] == identity)
            if reached(job):
                return job
            time.sleep(0.02)
        raise AssertionError(f"{identity} does not get there: {job}")
