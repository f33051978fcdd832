"""Shared parts of the web servers. Errors are {"error": text}, with status 503 if a repeat may help, otherwise 4xx."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

_SHUTDOWN = 5  # seconds that open requests have to finish after Ctrl-C

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src 'self' data: blob:; "
    "script-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Body = TypeVar("Body", bound=BaseModel)


def guarded_app(
    routes: Sequence[BaseRoute], names: Collection[str] = (), exception_handlers: Mapping[Any, Any] | None = None
) -> Starlette:
    """An application whose pages load nothing from other sites.

    Against DNS rebinding, the Host header must be an IP address, localhost, this machine's name or one of `names`.
    """
    known = {"localhost", socket.gethostname().lower(), *(name.lower() for name in names)}

    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        host = (request.url.hostname or "").lower()
        if host in known or is_address(host):
            response = await call_next(request)
        else:
            message = f"this server is not called {host!r}; its operator can add names=[{host}]"
            response = json_reply({"error": message}, 400)
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    return Starlette(
        routes=routes,
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
        exception_handlers={HTTPException: _explained, **(exception_handlers or {})},
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, on any free port if `port` is 0; raises ValueError if the address is not available."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"cannot listen on host={host} port={port}: {reason}; give another port= (0 for any free one) or host="
        ) from error


def page_url(host: str, listening: socket.socket) -> str:
    """The page's address; it has this machine's name if the socket listens on all addresses."""
    name = socket.gethostname() if host in ("", "0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}/"


def serve_app(app: Starlette, listening: socket.socket) -> None:
    """Serves on a socket from `listen` until Ctrl-C, then raises KeyboardInterrupt."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=_SHUTDOWN,
    )
    uvicorn.Server(config).run(sockets=[listening])


async def json_body(request: Request, kind: type[Body], largest: int) -> Body:
    """The request's JSON body of at most `largest` bytes.

    Requires application/json, which another site's page cannot send unless the browser first asks this server.
    """
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send application/json")
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > largest:
                raise HTTPException(413, f"send at most {largest:,} bytes")
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended early") from error
    try:
        return kind.model_validate_json(bytes(content))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in error.errors())
        raise HTTPException(400, "; ".join(problems)) from error


def json_reply(content: Mapping[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse(content, status, {"Cache-Control": "no-store"})


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _explained(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return json_reply({"error": error.detail}, error.status_code)
