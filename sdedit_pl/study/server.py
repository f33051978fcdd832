"""The server of a study: the raters' page, the images, and the answers that come back.

    GET  /                          the page, with its /study.css and /study.js
    GET  /api/study                 {"study": id, "questions": {name: {"text", "hint"}}}
    POST /api/join     {rater}      {"trials": [{"id", "question", "left", "right", "guide", "answered"}]}
    POST /api/answers  {rater, trial, choice, milliseconds}      {"choice"}: the one that is stored
    GET  /images/ID.png             an image

Both POSTs may be sent again, any number of times, to the same effect. An answer is acknowledged when it is on the disk.
A refusal is {"error": text}: 4xx for what will not do however often it is sent, 503 for what may do later.

The standard library's threaded server carries this: a study has tens of raters, and each asks a few files a minute.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from socketserver import TCPServer
from typing import Any, NamedTuple, cast, get_args

from sdedit_pl.study.design import Side, StudyError
from sdedit_pl.study.questions import QUESTIONS
from sdedit_pl.study.store import Study, UnknownTrial

logger = logging.getLogger(__name__)

_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/study.css": ("study.css", "text/css; charset=utf-8"),
    "/study.js": ("study.js", "text/javascript; charset=utf-8"),
}
_IMAGE = re.compile(r"/images/([0-9a-f]+)\.png")
_RATER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LENGTH = re.compile(r"[0-9]{1,9}")
_LARGEST_BODY = 4096
_LONGEST_ANSWER = 24 * 60 * 60 * 1000
"""Milliseconds that an answer can be said to have taken."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; "
    "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Images are named by their content, so that a browser need not ask for one again.
_FOREVER = "private, max-age=31536000, immutable"


class StudyServer(ThreadingHTTPServer):
    """Serves a study; `serve_forever` answers each connection in a thread of its own.

    Args:
        study: what to serve.
        host: name or address to listen at.
        port: to listen at; 0 for any that is free.

    Raises:
        StudyError: if the address cannot be had.
    """

    allow_reuse_port = False  # two servers at one port would share out the raters between them
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, study: Study, host: str, port: int) -> None:
        try:
            super().__init__((host, port), _Exchange)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StudyError(
                f"cannot listen at host={host} port={port}: {reason}; give another port= (0 for any free one) or host="
            ) from error
        self.study = study

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.server_address[1]

    def server_bind(self) -> None:
        """Takes the address, without HTTPServer's question to the name service, which can take seconds."""
        TCPServer.server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Notes what went wrong with a connection, unless it is that the other side has gone."""
        if not isinstance(sys.exc_info()[1], OSError):
            logger.exception("a request from %s failed", client_address[0])


class _Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class SentAnswer(NamedTuple):
    """An answer as the page sends it.

    Args:
        rater: what the browser calls itself.
        trial: id of the trial.
        choice: the side chosen.
        milliseconds: from the images' appearance to the choice, None where it is not known.
    """

    rater: str
    trial: str
    choice: Side
    milliseconds: int | None


def read_answer(body: dict[str, Any]) -> SentAnswer:
    """What came as an answer, if it is one.

    Raises:
        ValueError: if it is not.
    """
    if body.keys() != set(SentAnswer._fields):
        raise ValueError(f"an answer has {', '.join(SentAnswer._fields)}, got {', '.join(body) or 'nothing'}")
    if not isinstance(body["trial"], str) or body["choice"] not in get_args(Side):
        raise ValueError("an answer has a trial's id, and left or right as its choice")
    took = body["milliseconds"]
    if took is not None and (type(took) is not int or not 0 <= took <= _LONGEST_ANSWER):
        raise ValueError(f"milliseconds must be a whole number from 0 to {_LONGEST_ANSWER}, or null")
    return SentAnswer(read_rater(body), body["trial"], body["choice"], took)


def read_rater(body: dict[str, Any]) -> str:
    """Who the rater is.

    Raises:
        ValueError: if it is nobody.
    """
    token = body.get("rater")
    if not isinstance(token, str) or not _RATER.fullmatch(token):
        raise ValueError("a rater is called by 1 to 64 letters, digits, - and _")
    return token


class _Exchange(BaseHTTPRequestHandler):
    """One connection of a browser."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "sdedit", ""
    timeout = 60
    disable_nagle_algorithm = True
    wbufsize = -1  # header and body leave together

    @property
    def study(self) -> Study:
        return cast(StudyServer, self.server).study

    @property
    def _path(self) -> str:
        """What is asked for, without what the page alone reads of its address."""
        return self.path.partition("?")[0]

    def do_GET(self) -> None:
        path = self._path
        try:
            if path in _PAGE:
                name, kind = _PAGE[path]
                page = resources.files("sdedit_pl.study") / "page" / name
                self._send(HTTPStatus.OK, page.read_bytes(), kind, "no-cache")
            elif path == "/api/study":
                self._send_json(HTTPStatus.OK, self._study_as_shown())
            elif (found := _IMAGE.fullmatch(path)) and (image := self.study.image(found[1])) is not None:
                self._send(HTTPStatus.OK, image, "image/png", _FOREVER)
            else:
                self._send_json(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})
        except sqlite3.Error as error:
            self._send_later(error)

    def do_POST(self) -> None:
        try:
            self._send_json(HTTPStatus.OK, self._posted(self._path, self._body()))
        except _Refused as refusal:
            self._send_json(refusal.status, {"error": str(refusal)})
        except sqlite3.Error as error:
            self._send_later(error)

    def _posted(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Does what a POST asks for, and returns the reply."""
        try:
            if path == "/api/join":
                return {"trials": [trial._asdict() for trial in self.study.join(read_rater(body))]}
            if path == "/api/answers":
                return {"choice": self.study.record(*read_answer(body))}
        except UnknownTrial as error:
            raise _Refused(HTTPStatus.NOT_FOUND, str(error)) from error
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")

    def _body(self) -> dict[str, Any]:
        """The JSON object that a request brings; one of another site's forms is none."""
        length = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(length) or int(length) > _LARGEST_BODY:
            self.close_connection = True  # what it goes on to send is not read, and would be taken for a request
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"send at most {_LARGEST_BODY} bytes, and say how many")
        content = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send application/json")
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"not JSON: {error}") from error
        if not isinstance(body, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "send a JSON object")
        return body

    def _study_as_shown(self) -> dict[str, Any]:
        questions = {name: QUESTIONS[name] for name in self.study.settings["questions"]}
        return {
            "study": self.study.settings["id"],
            "questions": {name: {"text": asked.text, "hint": asked.hint} for name, asked in questions.items()},
        }

    def _send_later(self, error: sqlite3.Error) -> None:
        """Asks the page to keep what it has and to try again."""
        logger.error("%s: %s", self.study.path, error)
        self._send_json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the study cannot be read or written at the moment"})

    def _send_json(self, status: HTTPStatus, reply: dict[str, Any]) -> None:
        self._send(status, json.dumps(reply).encode(), "application/json", "no-store")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, caching: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": caching, **_HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keeps quiet: a line for each file of each rater tells nobody anything."""
