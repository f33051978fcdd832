"""The web server of a study: the raters' page, its images, and the storage of answers.

    GET  /                          the page, which contains the study's id and questions
    GET  /static/NAME               its style sheet and script
    GET  /images/ID.png             an image
    POST /api/join     {rater}      {"trials": [{"id", "question", "left", "right", "guide", "answered"}]}
    POST /api/answers  {rater, trial, choice, milliseconds}      {"choice": the stored choice}

Both POST requests are idempotent. An answer is acknowledged after it has reached the disk.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Collection
from importlib import resources
from typing import Annotated, Any

import jinja2
from pydantic import BaseModel, ConfigDict, Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sdedit_pl.study.questions import QUESTIONS
from sdedit_pl.study.study_database import StudyDatabase, UnknownTrial
from sdedit_pl.study.trial_design import Side
from sdedit_pl.web import guarded_app, json_body, json_reply

logger = logging.getLogger(__name__)

_LARGEST_BODY = 4096
_LONGEST_ANSWER = 24 * 60 * 60 * 1000  # milliseconds


class JoinRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    rater: Annotated[str, Field(pattern=r"\A[A-Za-z0-9_-]{1,64}\z")]


class AnswerRequest(JoinRequest):
    """`milliseconds` is the time from the images' appearance to the choice."""

    trial: str
    choice: Side
    milliseconds: Annotated[int, Field(ge=0, le=_LONGEST_ANSWER)] | None


def study_app(study: StudyDatabase, names: Collection[str] = ()) -> Starlette:
    page = _render_page(study.settings)
    writing = asyncio.Lock()  # one answer at a time waits for the database, so that other threads can send images

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page)

    def show_image(request: Request) -> Response:
        image = study.image(request.path_params["identity"])
        if image is None:
            raise HTTPException(404)
        # An image's name is a hash of its content, so browsers may cache it forever.
        return Response(image, 200, {"Cache-Control": "private, max-age=31536000, immutable"}, "image/png")

    async def join(request: Request) -> Response:
        body = await json_body(request, JoinRequest, _LARGEST_BODY)
        async with writing:
            trials = await run_in_threadpool(study.join, body.rater)
        return json_reply({"trials": [trial._asdict() for trial in trials]})

    async def answer(request: Request) -> Response:
        body = await json_body(request, AnswerRequest, _LARGEST_BODY)
        async with writing:
            choice = await run_in_threadpool(study.record, body.rater, body.trial, body.choice, body.milliseconds)
        return json_reply({"choice": choice})

    def unavailable(_: Request, error: Exception) -> Response:
        logger.error("%s: %s", study.path, error)
        return json_reply({"error": "the study cannot be read or written at the moment"}, 503)

    return guarded_app(
        [
            Route("/", show_page),
            Route("/images/{identity}.png", show_image),
            Route("/api/join", join, methods=["POST"]),
            Route("/api/answers", answer, methods=["POST"]),
            Mount("/static", StaticFiles(packages=[("sdedit_pl.study", "page/static")])),
        ],
        names,
        {
            sqlite3.Error: unavailable,
            UnknownTrial: lambda _, error: json_reply({"error": str(error)}, 404),
        },
    )


def _render_page(settings: dict[str, Any]) -> str:
    environment = jinja2.Environment(autoescape=True)
    text = resources.files("sdedit_pl.study").joinpath("page/index.html.jinja").read_text(encoding="utf-8")
    asked = {name: QUESTIONS[name] for name in settings["questions"]}
    questions = {name: {"text": question.text, "hint": question.hint} for name, question in asked.items()}
    return environment.from_string(text).render(study={"id": settings["id"], "questions": questions})
