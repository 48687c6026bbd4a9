"""The service put together: workers, engine, app and HTTP server in one event loop, started and stopped in order."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvicorn

from kartina.api.app import create_app
from kartina.api.dependencies import Services
from kartina.api.page import STATIC
from kartina.api.security import LocalAccess, check_host, cookie_key, served_names
from kartina.errors import ConfigError, ConflictError
from kartina.memory import one_heap
from kartina.process import loading
from kartina.serving.cache import ResultCache
from kartina.serving.client import LocalEngine, Room
from kartina.serving.fleet import Fleet
from kartina.serving.supervisor import Keeper, Supervisor
from kartina.settings import Settings
from kartina.storage.only import only_service

log = structlog.get_logger("kartina.api")

PORT = 8765
TRIED = 20  # ports from PORT on, when none is asked for
JOBS = (sys.executable, "-m", "kartina.cli", "jobs", "work", "--watch-stdin")
LANES = ("device", "data")  # workers of jobs: a data set is imported while a model is trained
SWITCH = 0.001  # seconds that a thread keeps the interpreter while the event loop waits for it


def listen(host: str, port: int | None, keys: bool = False) -> socket.socket:
    """A listening socket; without a port, the first free one from PORT on. `keys`: whether there are API keys.

    Raises ConfigError for an address that others can reach where there are none, ConflictError for a port that is
    taken.
    """
    check_host(host, keys)
    tried = range(PORT, PORT + TRIED) if port is None else (port,)
    for number in tried:
        family, kind, proto, _, address = socket.getaddrinfo(host.strip("[]"), number, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
            return found
        except OSError as error:
            found.close()
            if error.errno == errno.EACCES:
                raise ConfigError(f"Found the port {number}, which needs more rights; use one above 1023.") from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(f"Found the address {host!r}, which this machine does not have.") from None
            if error.errno != errno.EADDRINUSE:
                raise
    if port is None:
        raise ConflictError(f"Found the ports {PORT} to {PORT + TRIED - 1} all taken; give a free one with --port.")
    raise ConflictError(f"Found the port {port} taken by another program; give another with --port, or none.")


def url(sock: socket.socket, host: str, token: str) -> str:
    """Where the page is, with the token that opens it."""
    name = f"[{host.strip('[]')}]" if ":" in host else host
    where = f"http://{name}:{sock.getsockname()[1]}/"
    return f"{where}?token={token}" if token else where


class _Server(uvicorn.Server):
    """uvicorn that says when it answers and when it is about to stop; signals are its caller's."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], goodbye: Callable[[], None]):
        super().__init__(config)
        self.ready = ready
        self.goodbye = goodbye

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.goodbye()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self, number: int) -> None:
        """SIGINT or SIGTERM: the first one drains, the next one ends this process and its children at once."""
        if self.should_exit or not self.started:
            os._exit(128 + number)
        self.should_exit = True


async def run(
    sock: socket.socket, token: str, ready: Callable[[], None], settings: Settings, *, static: Path = STATIC
) -> None:
    """Serve on a listening socket until SIGINT or SIGTERM; `ready` is called when requests are answered.

    Then no connection is taken any more, streams of events end with `reconnect`, running jobs save and go back to the
    queue, and responses have `settings.drain` seconds to end; generations that are left are made by the next service.
    Raises ConflictError when another process serves this KARTINA_HOME, or its database.
    """
    one_heap()
    sys.setswitchinterval(SWITCH)
    hosts = served_names(settings.host, settings.allow_host)
    access = LocalAccess(port=sock.getsockname()[1], token=token, key=cookie_key(), hosts=hosts)
    with only_service():
        sampling = {name: Supervisor(_worker_options(settings, device)) for name, device in _workers(settings.device)}
        room, cache = Room(settings.queue), ResultCache(settings.cache * 2**20)
        engines = [
            LocalEngine(each.socket, room=room, cache=cache, deterministic=settings.deterministic)
            for each in sampling.values()
        ]
        engine = Fleet(engines) if len(engines) > 1 else engines[0]
        kept: dict[str, Keeper] = {**sampling}
        if settings.jobs:
            kept |= {f"jobs_{lane}": Keeper((*JOBS, "--lane", lane), patience=settings.drain) for lane in LANES}
        with loading():
            app = create_app(engine, access, static=static, workers=kept, ready=settings.ready)
        stopping: list[asyncio.Task[None]] = []

        def goodbye() -> None:
            log.info("draining", seconds=settings.drain)
            opened: Services | None = getattr(app.state, "services", None)
            if opened is not None:
                opened.drain()
            stopping.extend(asyncio.create_task(kept[name].stop()) for name in kept if name not in sampling)

        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=settings.drain,
        )
        server = _Server(config, ready, goodbye)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, server.stop, number)
        for each in kept.values():
            await each.start()
        try:
            await server.serve([sock])
        finally:
            await engine.close()
            await asyncio.gather(*stopping, *(each.stop() for each in kept.values()))


def _workers(devices: Sequence[str]) -> list[tuple[str, str]]:
    """(name, device) of each sampling worker; a device that is named twice has two."""
    if len(devices) == 1:
        return [("sampling", devices[0])]
    return [(f"sampling_{i}", device) for i, device in enumerate(devices)]


def _worker_options(settings: Settings, device: str) -> list[str]:
    """A sampling worker's command line."""
    options = {"--device": device, "--threads": settings.threads, "--batch": settings.batch,
               "--bytes": settings.memory * 2**20, "--runtime": settings.runtime,
               "--precision": settings.precision}  # fmt: skip
    return [str(part) for option in options.items() for part in option]
