"""The web server of the paint page.

    GET  /                              the page; its parts are at /static/NAME
    GET  /api/state                     {"model", "guides", "seconds", "overhead", "queued", "jobs"}
    GET  /guides/NAME                   a guide to start from
    POST /api/guides       OpenedFile   {"source"}: the address of a file that was opened, opened/HASH/NAME
    GET  /shown/ADDRESS                 a guide, an opened file or a file of an edit as a picture; shown/blank: a canvas
    POST /api/edits        EditRequest  {"identity"}
    GET  /api/edits/ID/events           server-sent events: {"job", "position", "estimates"}, until the edit ends
    POST /api/edits/ID/cancel  {}       {}
    GET  /results/ID/NAME               a file of an edit
    GET  /thumbs/ID/NAME                the same picture, small

With a token all of these are below /TOKEN.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sdedit_pl.data.array_formats import suffixes_of
from sdedit_pl.data.image_files import list_images
from sdedit_pl.data.image_format import shown_band_numbers
from sdedit_pl.editing import SDEdit
from sdedit_pl.files import whole_file
from sdedit_pl.paint.paint_jobs import EditRequest, Job, PaintJobs
from sdedit_pl.paint.shown_files import LARGEST_PICTURE, painting_rule, shown_picture
from sdedit_pl.picture_grid import png_bytes
from sdedit_pl.web import guarded_app, json_body, json_reply

LARGEST_BODY = 160 * 2**20
_PAGE = Path(__file__).parent / "page"
_FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
_THUMB = 320
_SHOWN_JOBS = 200
_TICK = 0.02  # seconds between two looks at a running edit
_LEVELS = 101  # noise levels that the page knows, at evenly spaced times from 0 to the model's largest
_SHORTEST_TOKEN = 16
Stored = TypeVar("Stored")


class OpenedFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=200)]
    content: Base64Bytes


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


def paint_app(jobs: PaintJobs, guides: Path, token: str = "", names: Collection[str] = ()) -> Starlette:
    """The web application; `guides` is a folder of guides to start from, `names` as in `guarded_app`."""

    def job_of(request: Request) -> Job:
        job = jobs.jobs.get(request.path_params["identity"])
        if job is None:
            raise HTTPException(404, "there is no such edit")
        return job

    def file_of(request: Request) -> Path:
        job, name = job_of(request), request.path_params["name"]
        file = jobs.folder(job) / name
        if name not in job.files or not file.is_file():
            raise HTTPException(404, "there is no such file")
        return file

    def source_of(address: str) -> Path | None:
        kind, _, rest = address.partition("/")
        folder, _, name = rest.rpartition("/")
        if kind == "blank":
            return jobs.opened.blank()
        if kind == "guides":
            return guides / rest if rest in _names(guides, jobs) else None
        if kind == "results":
            job = jobs.jobs.get(folder)
            return jobs.folder(job) / name if job is not None and name in job.files else None
        return jobs.opened.find(rest) if kind == "opened" else None

    def page(request: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    def state(request: Request) -> Response:
        shown = list(jobs.jobs.values())[-_SHOWN_JOBS:]
        return json_reply(
            {
                "model": _model(jobs),
                "guides": _names(guides, jobs),
                "seconds": jobs.seconds,
                "overhead": jobs.overhead,
                "queued": jobs.queued_seconds(),
                "jobs": [_described(job) for job in shown],
            }
        )

    def guide(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _names(guides, jobs):
            raise HTTPException(404, "there is no such guide")
        return FileResponse(guides / name)

    async def stored(function: Callable[..., Stored], *arguments: Any) -> Stored:
        """Calls a function that uses the folder of the results, and turns its errors into replies."""
        try:
            return await run_in_threadpool(function, *arguments)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except OSError as error:
            raise HTTPException(503, f"cannot read or write a file in {jobs.out}: {error.strerror}") from error

    async def submit(request: Request) -> Response:
        body = await json_body(request, EditRequest, LARGEST_BODY)
        source = None if body.source is None else await stored(source_of, body.source)
        if body.source is not None and source is None:
            raise HTTPException(400, f"{body.source} is gone; open the file again")
        job = await stored(jobs.submit, body, source)
        return json_reply({"identity": job.identity})

    async def open_file(request: Request) -> Response:
        body = await json_body(request, OpenedFile, LARGEST_BODY)
        file = await stored(jobs.opened.store, body.name, body.content)
        return json_reply({"source": f"opened/{jobs.opened.address(file)}"})

    async def shown(request: Request) -> Response:
        file = await stored(source_of, request.path_params["address"])
        if file is None:
            raise HTTPException(404, "there is no such file")
        picture = await stored(shown_picture, file, jobs.image)
        return Response(png_bytes(picture, compress_level=1), media_type="image/png")

    def events(request: Request) -> Response:
        return StreamingResponse(_events(jobs, job_of(request)), media_type="text/event-stream")

    async def cancel(request: Request) -> Response:
        await json_body(request, Nothing, 100)
        jobs.cancel(job_of(request))
        return json_reply({})

    def result(request: Request) -> Response:
        return FileResponse(file_of(request), headers=_FOREVER)

    async def thumb(request: Request) -> Response:
        picture = await stored(shown_picture, file_of(request), jobs.image)
        picture.thumbnail((_THUMB, _THUMB))
        return Response(png_bytes(picture), 200, _FOREVER, "image/png")

    routes = [
        Route("/", page),
        Route("/api/state", state),
        Route("/api/edits", submit, methods=["POST"]),
        Route("/api/edits/{identity}/events", events),
        Route("/api/edits/{identity}/cancel", cancel, methods=["POST"]),
        Route("/api/guides", open_file, methods=["POST"]),
        Route("/guides/{name}", guide),
        Route("/shown/{address:path}", shown),
        Route("/results/{identity}/{name}", result),
        Route("/thumbs/{identity}/{name}", thumb),
        Mount("/static", StaticFiles(directory=_PAGE / "static")),
    ]
    return guarded_app([Mount(f"/{token}", routes=routes)] if token else routes, names)


def access_token(out: Path) -> str:
    """The token of the page's address, kept in a file so that a restarted server has the same one."""
    file = out / ".token"
    if not file.is_file() or len(file.read_text()) < _SHORTEST_TOKEN:  # shorter if the process that wrote it was killed
        with whole_file(file) as unfinished, open(os.open(unfinished, os.O_CREAT | os.O_WRONLY, 0o600), "w") as stream:
            stream.write(secrets.token_urlsafe(_SHORTEST_TOKEN))
    return file.read_text()


async def _events(jobs: PaintJobs, job: Job) -> AsyncIterator[str]:
    """A message whenever an edit has changed; the last one reports its end."""
    sent = None
    while True:
        changes = (job.version, job.state, jobs.position(job))
        if changes != sent:
            sent = changes
            content = {"job": _described(job), "position": changes[2], "estimates": job.estimates}
            yield f"data: {json.dumps(content)}\n\n"
            if job.finished:
                return
        await asyncio.sleep(_TICK)


def _described(job: Job) -> dict[str, Any]:
    return {**job.described(), "samples": job.samples}


def _names(guides: Path, jobs: PaintJobs) -> list[str]:
    return list_images(guides, suffixes=suffixes_of(jobs.image)) if guides.is_dir() else []


def _model(jobs: PaintJobs) -> dict[str, Any]:
    denoiser = jobs.denoiser
    times = torch.linspace(0, denoiser.t_max, _LEVELS, dtype=torch.float64)
    return {
        "name": jobs.description.path.stem,
        "width": jobs.image.width,
        "height": jobs.image.height,
        "bands": len(shown_band_numbers(jobs.image.channels, jobs.image.format)),
        "rule": painting_rule(jobs.image),
        "labels": list(denoiser.labels.examples),
        "known": denoiser.labels.known if denoiser.labels.size else "",
        "t0": jobs.t0,
        "guidance": jobs.guidance,
        "steps": SDEdit().step_count,
        "levels": [0.0, *denoiser.sde.noise_level(times[1:]).tolist()],
        "t_max": denoiser.t_max,
        "pixels": LARGEST_PICTURE,
    }
