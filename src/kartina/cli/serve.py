"""`kartina serve`: the HTTP API and the page, for one person on this machine, or for whoever has an API key."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from kartina.cli.settings import CONFIG
from kartina.errors import ConfigError
from kartina.process import loading
from kartina.settings import WHERE, Settings, default, load, show, variable

NEEDS: dict[str, tuple[str, ...]] = {  # the packages of a runtime
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnx", "onnxscript"),
}


def _option(name: str, *words: str) -> Any:
    """The option of a setting: its meaning and default are the model's."""
    field = Settings.model_fields[name]
    without = "Default: " in (field.description or "") or default(name) in (None, ())
    told = "" if without else f" Default: {show(default(name))}."
    return typer.Option(*words, help=f"{(field.description or '').rstrip('.')}.{told}", show_default=False)


def serve(
    config: Annotated[Path | None, CONFIG] = None,
    host: Annotated[str | None, _option("host")] = None,
    allow_host: Annotated[list[str] | None, _option("allow_host")] = None,
    port: Annotated[int | None, _option("port")] = None,
    open: Annotated[bool | None, _option("open", "--open/--no-open")] = None,
    device: Annotated[str | None, _option("device")] = None,
    threads: Annotated[int | None, _option("threads")] = None,
    batch: Annotated[int | None, _option("batch")] = None,
    runtime: Annotated[str | None, _option("runtime")] = None,
    precision: Annotated[str | None, _option("precision")] = None,
    memory: Annotated[int | None, _option("memory")] = None,
    ready: Annotated[int | None, _option("ready")] = None,
    cache: Annotated[int | None, _option("cache")] = None,
    queue: Annotated[int | None, _option("queue")] = None,
    deterministic: Annotated[bool | None, _option("deterministic", "--deterministic/--no-deterministic")] = None,
    jobs: Annotated[bool | None, _option("jobs", "--jobs/--no-jobs")] = None,
    drain: Annotated[float | None, _option("drain")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
    log_format: Annotated[str | None, _option("log_format")] = None,
) -> None:
    """Serve the models on a page and an HTTP API, and run queued jobs, until Ctrl-C.

    Each option can also be set by the environment or a file: see `kartina settings`.
    """
    flags = {name: value for name, value in locals().items() if name != "config"}
    flags["allow_host"] = tuple(allow_host) if allow_host else None
    settings = load(flags, config=config, strict=True)
    if config is not None:
        os.environ[WHERE] = str(config.absolute())  # the processes that this one starts
    for name in ("log_level", "log_format"):
        os.environ[variable(name)] = getattr(settings, name)
    import asyncio

    with loading():
        from kartina import logs
        from kartina.api import server
        from kartina.api.security import is_loopback

    if missing := [name for name in NEEDS.get(settings.runtime, ()) if find_spec(name) is None]:
        raise ConfigError(
            f"Found no {' and no '.join(missing)}, which the runtime {settings.runtime} needs. Run: "
            "pip install 'kartina[fast]'"
        )
    logs.configure(settings)
    local = is_loopback(settings.host)
    if local and settings.allow_host:
        raise ConfigError(
            f"Found --allow-host with the address {settings.host}; it is for addresses that others can reach."
        )
    sock = server.listen(settings.host, settings.port, keys=not local and _has_key())
    token = secrets.token_urlsafe(24) if local else ""
    where = server.url(sock, settings.host, token)

    def serving() -> None:
        typer.echo(f"Kartina is at {where}")
        typer.echo("Press Ctrl-C to stop.")
        sys.stdout.flush()
        if settings.open and _has_desktop():
            threading.Thread(target=webbrowser.open, args=(where,), daemon=True).start()

    with sock:
        asyncio.run(server.run(sock, token, serving, settings))


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
