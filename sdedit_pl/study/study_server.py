"""The web server of a study: the raters' page, its images, and the storage of answers.

    GET  /                          the page, which contains the study's id and questions
    GET  /static/NAME               its style sheet and script
    GET  /images/ID.png             an image
    POST /api/join     {rater}      {"trials": [{"id", "question", "left", "right", "guide", "answered"}]}
    POST /api/answers  {rater, trial, choice, milliseconds}      {"choice": the stored choice}

Both POST requests are idempotent. An answer is acknowledged after it has reached the disk. An error is {"error": text}:
status 4xx if repeating the request cannot help, 503 if it can.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sqlite3
from collections.abc import Collection
from importlib import resources
from typing import Annotated, Any, TypeVar

import jinja2
import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sdedit_pl.study.questions import QUESTIONS
from sdedit_pl.study.study_database import StudyDatabase, UnknownTrial
from sdedit_pl.study.trial_design import Side, StudyError

logger = logging.getLogger(__name__)

_LARGEST_BODY = 4096
_LONGEST_ANSWER = 24 * 60 * 60 * 1000  # milliseconds
_SHUTDOWN = 5  # seconds that open requests have to finish after Ctrl-C

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class JoinRequest(BaseModel):
    """The body of a rater's request for trials."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rater: Annotated[str, Field(pattern=r"\A[A-Za-z0-9_-]{1,64}\z")]


class AnswerRequest(JoinRequest):
    """The body of a rater's answer; `milliseconds` is the time from the images' appearance to the choice."""

    trial: str
    choice: Side
    milliseconds: Annotated[int, Field(ge=0, le=_LONGEST_ANSWER)] | None


Body = TypeVar("Body", bound=BaseModel)


def study_app(study: StudyDatabase, names: Collection[str] = ()) -> Starlette:
    """The web application of a study.

    Against DNS rebinding, a request is refused unless its Host header is an IP address, localhost, the name of this
    machine or one of `names`.
    """
    page = _render_page(study.settings)
    writing = asyncio.Lock()  # answers that wait for the database leave the other threads to images

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page)

    def show_image(request: Request) -> Response:
        image = study.image(request.path_params["identity"])
        if image is None:
            raise HTTPException(404)
        # An image's name is a hash of its content, so browsers may cache it forever.
        return Response(image, 200, {"Cache-Control": "private, max-age=31536000, immutable"}, "image/png")

    async def join(request: Request) -> Response:
        body = await _parsed(request, JoinRequest)
        async with writing:
            trials = await run_in_threadpool(study.join, body.rater)
        return _json({"trials": [trial._asdict() for trial in trials]})

    async def answer(request: Request) -> Response:
        body = await _parsed(request, AnswerRequest)
        async with writing:
            choice = await run_in_threadpool(study.record, body.rater, body.trial, body.choice, body.milliseconds)
        return _json({"choice": choice})

    def unavailable(_: Request, error: Exception) -> Response:
        logger.error("%s: %s", study.path, error)
        return _json({"error": "the study cannot be read or written at the moment"}, 503)

    known = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}

    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        host = (request.url.hostname or "").lower()
        if host in known or _is_address(host):
            response = await call_next(request)
        else:
            response = _json({"error": f"this server is not called {host!r}; its operator can add names=[{host}]"}, 400)
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/images/{identity}.png", show_image),
            Route("/api/join", join, methods=["POST"]),
            Route("/api/answers", answer, methods=["POST"]),
            Mount("/static", StaticFiles(packages=[("sdedit_pl.study", "page/static")])),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={
            sqlite3.Error: unavailable,
            UnknownTrial: lambda _, error: _json({"error": str(error)}, 404),
            HTTPException: _explained,
        },
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        StudyError: if the address is not available.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StudyError(
            f"cannot listen at host={host} port={port}: {reason}; give another port= (0 for any free one) or host="
        ) from error


def page_url(host: str, listening: socket.socket) -> str:
    """The page's address; with this machine's name if the socket listens at all addresses."""
    name = socket.gethostname() if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}/"


def serve_study(study: StudyDatabase, listening: socket.socket, names: Collection[str] = ()) -> None:
    """Serves a study at a socket from `listen` until Ctrl-C, then raises KeyboardInterrupt."""
    config = uvicorn.Config(
        study_app(study, names),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=_SHUTDOWN,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _render_page(settings: dict[str, Any]) -> str:
    environment = jinja2.Environment(autoescape=True)
    text = resources.files("sdedit_pl.study").joinpath("page/index.html.jinja").read_text(encoding="utf-8")
    asked = {name: QUESTIONS[name] for name in settings["questions"]}
    questions = {name: {"text": question.text, "hint": question.hint} for name, question in asked.items()}
    return environment.from_string(text).render(study={"id": settings["id"], "questions": questions})


async def _parsed(request: Request, kind: type[Body]) -> Body:
    """The request's JSON body.

    Only application/json is accepted: a form of another site cannot send it without the browser asking first.
    """
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send application/json")
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _LARGEST_BODY:
            raise HTTPException(413, f"send at most {_LARGEST_BODY} bytes")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in error.errors())
        raise HTTPException(400, "; ".join(problems)) from error


def _explained(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


def _json(content: dict[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, {"Cache-Control": "no-store"})


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
