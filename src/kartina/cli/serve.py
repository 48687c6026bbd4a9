"""`kartina serve`: the HTTP API and the page, for one person on this machine, or for whoever has an API key."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import webbrowser
from importlib.util import find_spec
from typing import Annotated

import typer

from kartina.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")
RUNTIMES: dict[str, tuple[str, ...]] = {  # and the packages that they need
    "auto": (),
    "eager": (),
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
}


def serve(
    host: Annotated[
        str, typer.Option(help="The address to serve on. Any but a loopback one needs an API key (kartina keys).")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that others reach this service by, where --host is no loopback address."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: the first free port from 8765 on.")
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")] = False,
    device: Annotated[str, typer.Option(help="What samples: auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[
        int, typer.Option(min=0, max=1024, help="CPU threads for sampling; 0: measured for each model.")
    ] = 0,
    batch: Annotated[
        int, typer.Option(min=1, max=4096, help="Images in one evaluation, at most; how many is measured.")
    ] = 64,
    runtime: Annotated[
        str, typer.Option(help="What evaluates networks on a CPU: eager, onnx, openvino, or auto (the fastest).")
    ] = "auto",
    memory: Annotated[
        int, typer.Option(min=1, help="MiB of models that stay in memory while nobody uses them.")
    ] = 2048,
    ready: Annotated[int, typer.Option(min=0, help="Models made ready at the start, in the background; 0: none.")] = 4,
    cache: Annotated[int, typer.Option(min=0, help="MiB of finished images kept to answer repetitions; 0: none.")] = 64,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same image byte for byte at any load: slower.")
    ] = False,
    jobs: Annotated[bool, typer.Option(help="Also run queued jobs (kartina jobs), one at a time.")] = True,
) -> None:
    """Serve the models on a page and an HTTP API, and run queued jobs, until Ctrl-C."""
    import asyncio

    from kartina import logs
    from kartina.api import server
    from kartina.api.security import is_loopback

    if device not in DEVICES:
        raise ConfigError(f"Found --device {device}; expected one of {', '.join(DEVICES)}.")
    if runtime not in RUNTIMES:
        raise ConfigError(f"Found --runtime {runtime}; expected one of {', '.join(RUNTIMES)}.")
    if missing := [name for name in RUNTIMES.get(runtime, ()) if find_spec(name) is None]:
        raise ConfigError(
            f"Found no {' and no '.join(missing)}, which --runtime {runtime} needs. Run: pip install 'kartina[fast]'"
        )
    logs.configure()
    local = is_loopback(host)
    if local and allow_host:
        raise ConfigError(f"Found --allow-host with the address {host}; it is for addresses that others can reach.")
    sock = server.listen(host, port, keys=not local and _has_key())
    token = secrets.token_urlsafe(24) if local else ""
    names = [] if local else [host.strip("[]"), *(allow_host or ())]
    where = server.url(sock, host, token)

    def serving() -> None:
        typer.echo(f"Kartina is at {where}")
        typer.echo("Press Ctrl-C to stop.")
        sys.stdout.flush()
        if not no_open and _has_desktop():
            threading.Thread(target=webbrowser.open, args=(where,), daemon=True).start()

    options = {"--device": device, "--threads": threads, "--batch": batch, "--bytes": memory * 2**20}
    options["--runtime"] = runtime
    worker = [str(part) for option in options.items() for part in option]
    with sock:
        service = server.run(
            sock,
            token,
            serving,
            worker=worker,
            cache=cache * 2**20,
            deterministic=deterministic,
            jobs=jobs,
            hosts=names,
            ready_models=ready,
        )
        asyncio.run(service)


def _has_key() -> bool:
    """Whether any API key works."""
    from kartina.services.keys import Access, pepper
    from kartina.storage.database import open_database
    from kartina.storage.keys import Keys

    database = open_database()
    try:
        return Access(Keys(database), pepper()).exists()
    finally:
        database.close()


def _has_desktop() -> bool:
    """Whether a browser would be a window, and not a text browser in this terminal."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
