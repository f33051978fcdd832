"""The sockets of the web servers."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sdedit_pl.web import json_body, listen


def test_a_client_that_leaves_within_its_request_is_no_error_of_the_server() -> None:
    async def leave() -> dict[str, str]:
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]}, leave)
    with pytest.raises(HTTPException, match="ended early"):
        asyncio.run(json_body(request, BaseModel, 10))


class TestListen:
    def test_a_port_in_use_is_refused(self) -> None:
        with listen("127.0.0.1", 0) as first:
            port = first.getsockname()[1]
            with pytest.raises(ValueError, match=f"host=127.0.0.1 port={port}: Address already in use.*another port="):
                listen("127.0.0.1", port)

    @pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("127.0.0.1", 70000)])
    def test_an_invalid_address_is_refused(self, host: str, port: int) -> None:
        with pytest.raises(ValueError, match=f"cannot listen on host={host} port={port}"):
            listen(host, port)
