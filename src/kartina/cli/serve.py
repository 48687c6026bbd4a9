"""`kartina serve`: the HTTP API and the page, for one person on this machine."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import webbrowser
from typing import Annotated

import typer

from kartina.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def serve(
    host: Annotated[str, typer.Option(help="A loopback address: 127.0.0.1, localhost or ::1.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: the first free port from 8765 on.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    device: Annotated[str, typer.Option(help="What samples: auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads for sampling; 0: one per core.")] = 0,
    jobs: Annotated[bool, typer.Option(help="Also run queued jobs (kartina jobs), one at a time.")] = True,
) -> None:
    """Serve the models on a page and an HTTP API, and run queued jobs, until Ctrl-C."""
    import asyncio

    from kartina import logs
    from kartina.api import server

    if device not in DEVICES:
        raise ConfigError(f"Found --device {device}; expected one of {', '.join(DEVICES)}.")
    logs.configure()
    sock = server.listen(host, port)
    token = secrets.token_urlsafe(24)
    where = server.url(sock, host, token)

    def ready() -> None:
        typer.echo(f"Kartina is at {where}")
        typer.echo("Press Ctrl-C to stop.")
        sys.stdout.flush()
        if not no_open and _has_desktop():
            threading.Thread(target=webbrowser.open, args=(where,), daemon=True).start()

    options = ["--device", device, "--threads", str(threads)]
    with sock:
        asyncio.run(server.run(sock, token, ready, worker=options, jobs=jobs))


def _has_desktop() -> bool:
    """Whether a browser would be a window, and not a text browser in this terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
