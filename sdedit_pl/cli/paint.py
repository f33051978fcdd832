"""`sdedit paint`: paint guides and masks in a browser and edit them."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sdedit_pl.cli import say
from sdedit_pl.configuration import ConfigError
from sdedit_pl.configuration.schema import Command

if TYPE_CHECKING:
    import socket

USAGE = """sdedit paint [ckpt=FILE] [key=value ...]

Serves a page for painting guides and masks and for editing them, until Ctrl-C. Every result is a folder in `out` with
its guide, mask, samples and edit.yaml, which repeats it: sdedit edit config=outputs/paint/.../edit.yaml out=..."""
TRIED_PORTS = 20
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass
class Arguments:
    """The paint page.

    Args:
        ckpt: the model's checkpoint, as for sdedit edit.
        out: folder of the results, which the page shows again after a restart.
        guides: folder of guides to start from.
        host: address to listen on; 127.0.0.1, localhost and ::1 serve browsers on this machine only. Any other, such
            as 0.0.0.0, puts a token into the page's address.
        port: port to listen on, or the next free one; 0 for any free one.
        names: further host names by which browsers reach the server, as behind a proxy.
        device: auto, cpu, cuda, cuda:1, mps.
        browser: open the page in a browser, if this machine has a display.
    """

    ckpt: str = "portraits64"
    out: str = "outputs/paint"
    guides: str = "data/guides"
    host: str = "127.0.0.1"
    port: int = 7860
    names: tuple[str, ...] = ()
    device: str = "auto"
    browser: bool = True


COMMAND = Command(USAGE, Arguments)


def run(words: list[str]) -> None:
    arguments = COMMAND.parse(words)
    missing = [package for package in ("starlette", "uvicorn") if find_spec(package) is None]
    if missing:
        raise ConfigError(f"sdedit paint needs {' and '.join(missing)}; pip install 'sdedit-pl[paint]'")
    from sdedit_pl.paint.paint_jobs import PaintJobs
    from sdedit_pl.paint.paint_server import access_token, paint_app
    from sdedit_pl.web import page_url, serve_app

    out = Path(arguments.out)
    with listening_at(arguments.host, arguments.port) as listening:
        jobs = PaintJobs(arguments.ckpt, out, arguments.device)
        token = "" if arguments.host in LOCAL else access_token(out)
        url = page_url(arguments.host, listening) + (f"{token}/" if token else "")
        say(f"the page is at {url}; Ctrl-C stops the server")
        sys.stdout.flush()  # a program that reads the address from a pipe gets it now
        if arguments.browser and has_display():
            webbrowser.open(url)
        with suppress(KeyboardInterrupt):
            serve_app(paint_app(jobs, Path(arguments.guides), token, arguments.names), listening)
        jobs.close()
    say(f"the results are in {out}")


def listening_at(host: str, port: int) -> socket.socket:
    """A socket at the port or the next free one; raises ValueError if there is none."""
    from sdedit_pl.web import listen

    for candidate in range(port, port + (TRIED_PORTS if port > 0 else 1)):
        with suppress(ValueError):
            listening = listen(host, candidate)
            if candidate != port:
                say(f"port {port} is not available; took {candidate}")
            return listening
    return listen(host, port)


def has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
