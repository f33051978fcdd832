"""The edits of the paint page: their requests, a queue with one worker, and the folder in which each is kept.

    OUT/NUMBER/     guide.png, mask.png or strength.png, job.json; after success also the files of `sdedit edit`
    OUT/.opened/    files that were opened, for a model with a data.format, whose guides have that format

`edit.yaml` repeats a result to the bit on the command line, which runs the same function.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sdedit_pl.checkpoints.guidance_settings import with_guidance
from sdedit_pl.checkpoints.loading import load_for_editing
from sdedit_pl.configuration.resolving import resolve
from sdedit_pl.data.image_files import open_image
from sdedit_pl.data.image_format import PixelFormat
from sdedit_pl.data.value_decoding import result_suffix
from sdedit_pl.edit_runs.edit_plan import build_edits, default_t0
from sdedit_pl.edit_runs.edit_results import sample_file
from sdedit_pl.edit_runs.edit_run import run_edit
from sdedit_pl.edit_runs.edit_settings import EditSettings
from sdedit_pl.edit_runs.unfinished_edits import EDIT_RECORD
from sdedit_pl.editing.trajectories import LARGEST_SIDE, WatchedDenoiser
from sdedit_pl.editing.windows import window_starts
from sdedit_pl.files import claimed, in_words, write_whole
from sdedit_pl.guides.focus import regions_of
from sdedit_pl.paint.shown_files import OpenedFiles, check_pixels, painted_file
from sdedit_pl.picture_grid import png_bytes, to_picture
from sdedit_pl.typing import Images

logger = logging.getLogger(__name__)

JOB_FILE = "job.json"
GUIDE_FILE = "guide.png"
_PREFIX = "data:image/png;base64,"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PAUSE = 0.08  # seconds between two estimates that are shown

JobState = Literal["waiting", "running", "done", "cancelled", "failed", "interrupted"]


class EditRequest(BaseModel):
    """An edit that the page asks for, with pictures as data URLs of PNG files; `area` None edits everywhere.

    With a model that has a data.format, `guide` is a painted picture of the file at the address `source`.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    guide: str
    source: str | None = None
    area: str | None = None
    kind: Literal["mask", "strength"] = "mask"
    t0: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    samples: Annotated[int, Field(ge=1, le=16)] = 4
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    focus: bool | tuple[int, int, int, int] = False
    windows: bool = False
    match_colours: bool = False
    label: str | None = None
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None


class Cancelled(Exception):
    """The user has cancelled the edit."""


@dataclass
class Job:
    """A requested edit.

    `total` and `done` count estimates: one per sample, step and separately edited part. Each takes `windows` network
    evaluations: all windows, and the guiding network. `first` and `last` are (time, count) at the first and latest one.
    """

    identity: str
    settings: dict[str, Any]
    created: float
    total: int
    windows: int = 1
    guide: str = "guide.png"
    done: int = 0
    state: JobState = "waiting"
    message: str = ""
    estimates: list[str] = field(default_factory=list)
    version: int = 0
    cancelled: bool = False
    first: tuple[float, int] = (0.0, 0)
    last: tuple[float, int] = (0.0, 0)
    shown: float = 0.0
    format: PixelFormat | None = None

    @property
    def finished(self) -> bool:
        return self.state not in ("waiting", "running")

    @property
    def samples(self) -> list[str]:
        seed = self.settings["seed"]
        seeds = range(seed, seed + self.settings["samples"])
        names = [sample_file(Path(self.guide), "", f"seed{number}") for number in seeds]
        return names if self.state == "done" else []

    @property
    def files(self) -> list[str]:
        area = [] if self.settings["kind"] is None else [f"{self.settings['kind']}.png"]
        return [self.guide, *area, *self.samples, *([EDIT_RECORD] if self.samples else [])]

    def described(self) -> dict[str, Any]:
        kept = ("identity", "settings", "created", "total", "windows", "guide", "done", "state", "message")
        return {name: getattr(self, name) for name in kept}

    def watch(self, _: Tensor, x_0: Images) -> None:
        if self.cancelled:
            raise Cancelled
        self.done += len(x_0)
        self.last = (time.monotonic(), self.done)
        if self.first == (0.0, 0):
            self.first = self.last
        if self.last[0] - self.shown > _PAUSE:
            self.estimates = [_data_url(to_picture(image, self.format)) for image in x_0]
            self.shown = time.monotonic()
        self.version += 1


class PaintJobs:
    """A queue of edits with a loaded model, and earlier edits in `out`; raises ValueError if either is unusable."""

    def __init__(self, ckpt: str, out: Path, device: str = "auto") -> None:
        with claimed(out):
            pass  # only to check that it can be written
        self.ckpt, self.out, self.device = ckpt, out, device
        self.denoiser, self.description = load_for_editing(ckpt, device)
        self.image = self.description.image
        self.opened = OpenedFiles(out / ".opened", self.image)
        self.t0 = default_t0(self.description.path)
        self.guidance = self._settings(guide="").for_edits(self.description).guidance
        self.jobs = {job.identity: job for job in _restored(out)}
        self.seconds = self._seconds_per_evaluation()
        self.overhead = 0.3  # seconds of an edit besides its evaluations, until one has been measured
        self._waiting: deque[Job] = deque()
        self._current: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for job in (self._current, *self._waiting):
                if job is not None:
                    job.cancelled = True
            self._changed.notify_all()
        self._worker.join()

    def submit(self, request: EditRequest, source: Path | None = None) -> Job:
        """Stores an edit's pictures and settings and queues it; `source` is as in `EditRequest`.

        Raises ValueError if a picture is unreadable or too large, or the model cannot edit from this t0.
        """
        asked = request.model_dump(exclude={"guide", "source", "area", "kind"})
        settings = self._settings(guide="", **asked).for_edits(self.description)
        (edit,) = build_edits(settings)
        denoiser = with_guidance(self.denoiser, self.description, settings)
        edit.check(denoiser)
        guide = _picture("the guide", request.guide).convert("RGB")
        guide_file = GUIDE_FILE
        if self.image.format is None:
            content = png_bytes(guide, compress_level=1)
        else:
            source = source or self.opened.blank()
            content = painted_file(source, guide, self.image)
            guide_file = f"guide{result_suffix(source)}"
        area = None if request.area is None else _picture("the mask", request.area).convert("L")
        if area is not None and area.size != guide.size:
            raise ValueError(f"the mask must have the size of the guide, {guide.size}, got {area.size}")
        if area is not None and request.kind == "mask":
            area = area.point([255 * (level >= 128) for level in range(256)])
        if area is not None and area.getextrema()[1] == 0:
            raise ValueError("the mask is empty, so nothing may change; paint the part to change, or clear the mask")
        settings = {**asked, "kind": area and request.kind}
        parts = 1
        if request.focus is True and area is not None:
            parts = sum(1 for _ in regions_of(torch.from_numpy(np.array(area)) > 0))
        total = edit.total_steps(self.denoiser.sde) * request.samples * parts
        windows = (self._windows(guide.size) if request.windows else 1) * denoiser.evaluations
        identity = f"{len(self.jobs) + 1:04d}-{secrets.token_hex(3)}"
        job = Job(identity, settings, time.time(), total, windows, guide_file, format=self.image.format)
        folder = self.folder(job)
        folder.mkdir(parents=True)
        (folder / guide_file).write_bytes(content)
        if area is not None:
            area.save(folder / f"{request.kind}.png")
        self._store(job)
        with self._changed:
            self.jobs[job.identity] = job
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Removes a waiting edit from the queue, or ends a running one before its next evaluation."""
        with self._changed:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, "cancelled")

    def position(self, job: Job) -> int:
        """Number of edits that run before a waiting one; 0 for others."""
        with self._changed:
            running = self._current is not None
            return self._waiting.index(job) + running if job in self._waiting else 0

    def queued_seconds(self) -> float:
        with self._changed:
            unfinished = [job for job in (self._current, *self._waiting) if job is not None]
            left = ((job.total - job.done) * job.windows for job in unfinished)
            return sum((self.overhead + self.seconds * evaluations for evaluations in left), 0.0)

    def folder(self, job: Job) -> Path:
        return self.out / job.identity

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._current = job = self._waiting.popleft()
            try:
                self._run(job)
                self._end(job, "done")
            except Cancelled:
                self._end(job, "cancelled")
            except (ValueError, OSError) as error:
                self._end(job, "failed", in_words(error))
            except Exception as error:
                logger.exception("edit %s failed", job.identity)
                self._end(job, "failed", f"{type(error).__name__}: {error}")
            finally:
                self._current = None

    def _run(self, job: Job) -> None:
        if not self.description.path.exists():
            raise ValueError(f"the checkpoint {self.description.path} is gone; put it back and run the edit again")
        for earlier in list(self.jobs.values()):
            if earlier.finished:
                earlier.estimates = []  # their results are in files
        job.state = "running"
        folder, asked = self.folder(job), dict(job.settings)
        kind = asked.pop("kind")
        areas = {} if kind is None else {kind: str(folder / f"{kind}.png")}
        settings = self._settings(
            guide=str(folder / job.guide),
            out=str(folder),
            overwrite=True,  # the folder holds the guide already
            **areas,
            **asked,
        )
        started = time.monotonic()
        run_edit(settings, (WatchedDenoiser(self.denoiser, job.watch), self.description))
        (first, before), (last, done) = job.first, job.last
        if done > before:
            self.seconds = (last - first) / (done - before) / job.windows
            self.overhead = max(0.0, time.monotonic() - started - self.seconds * job.total * job.windows)

    def _windows(self, size: tuple[int, int]) -> int:
        sides, overlap = self.image.sides, min(self.image.sides) // 2
        lengths = zip(reversed(size), sides, strict=True)
        return math.prod(len(window_starts(max(length, window), window, overlap)) for length, window in lengths)

    def _settings(self, **keys: Any) -> EditSettings:
        fixed = {"ckpt": self.ckpt, "device": self.device, "compile": False}
        return resolve(EditSettings, {**fixed, **keys})

    def _end(self, job: Job, state: JobState, message: str = "") -> None:
        try:
            self._store(job, state=state, message=message)
        except OSError as error:
            message = message or f"the end of the edit cannot be recorded: {error}"
        job.message = message
        job.state = state
        job.version += 1

    def _store(self, job: Job, **changes: str) -> None:
        write_whole(self.folder(job) / JOB_FILE, json.dumps({**job.described(), **changes}))

    def _seconds_per_evaluation(self) -> float:
        image = torch.zeros(1, *self.image.tensor_shape, device=next(self.denoiser.parameters()).device)
        seconds = []
        with torch.no_grad():
            for _ in range(4):
                started = time.monotonic()
                self.denoiser(image, image.new_full((1,), self.denoiser.t_max)).cpu()
                seconds.append(time.monotonic() - started)
        return min(seconds)


def _restored(out: Path) -> list[Job]:
    """The edits in a folder, oldest first; an unfinished one is done if it has an edit.yaml, else interrupted."""
    jobs = []
    for file in sorted(out.glob(f"*/{JOB_FILE}")):
        try:
            job = Job(**json.loads(file.read_text(encoding="utf-8")))
            job.identity = file.parent.name
        except (OSError, ValueError, TypeError) as error:
            logger.warning("%s cannot be read, so its edit is not shown: %s", file, error)
            continue
        if not job.finished:
            job.state = "done" if (file.parent / EDIT_RECORD).is_file() else "interrupted"
        jobs.append(job)
    return jobs


def _picture(name: str, url: str) -> Image.Image:
    """The picture in a data URL of a PNG file; raises ValueError if it is none, or too large."""
    try:
        file = base64.b64decode(url.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        file = b""
    if not url.startswith(_PREFIX) or not file.startswith(_SIGNATURE):
        raise ValueError(f"{name} must be a data URL of a PNG file, {_PREFIX}...")
    check_pixels(name, *(int.from_bytes(file[start : start + 4], "big") for start in (16, 20)))  # before decoding
    with open_image(file, name) as image:
        image.load()
        return image


def _data_url(picture: Image.Image) -> str:
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return _PREFIX + base64.b64encode(png_bytes(picture, compress_level=1)).decode()
