"""`sdedit paint` before its page is served: what it refuses, and a port in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdedit_pl.cli import paint
from sdedit_pl.web import listen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ckpt=none"], "there is no checkpoint at none"),
        (["ckpt=tiny.safetensors", "out=guide.png"], "out=guide.png is a file; name a folder"),
        (["ckpt=tiny.safetensors", "out=guide.png/paint"], "out=guide.png/paint cannot be written"),
        (["host=192.0.2.1"], "cannot listen on host=192.0.2.1 port=7860"),
        (["port=-1"], "cannot listen on host=127.0.0.1 port=-1"),
        (["port=70000"], "cannot listen on host=127.0.0.1 port=70000"),
    ],
)
def test_what_cannot_be_served_is_refused(refused, arguments: list[str], message: str) -> None:
    assert message in refused("paint", "browser=false", *arguments)


def test_a_port_in_use_is_replaced_by_the_next_free_one(capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as busy:
        port = busy.getsockname()[1]
        with paint.listening_at("127.0.0.1", port) as other:
            taken = other.getsockname()[1]
    assert port < taken < port + paint.TRIED_PORTS
    assert capsys.readouterr().out == f"port {port} is not available; took {taken}\n"


def test_missing_packages_are_named(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paint, "find_spec", lambda _: None)
    assert refused("paint") == "sdedit paint needs starlette and uvicorn; pip install 'sdedit-pl[paint]'"


def test_no_browser_is_opened_without_a_display(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paint.sys, "platform", "linux")
    assert not paint.has_display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert paint.has_display()
