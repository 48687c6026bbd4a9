"""The service put together: workers, engine, app and HTTP server in one event loop, started and stopped in order."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from kartina.api.app import create_app
from kartina.api.dependencies import Services
from kartina.api.page import STATIC
from kartina.api.security import LocalAccess, check_host, cookie_key
from kartina.errors import ConfigError, ConflictError
from kartina.services.ready import MOST
from kartina.serving.cache import SIZE
from kartina.serving.client import LocalEngine
from kartina.serving.supervisor import Keeper, Supervisor
from kartina.storage.only import only_service

PORT = 8765
TRIED = 20  # ports from PORT on, when none is asked for
JOBS = (sys.executable, "-m", "kartina.cli", "jobs", "work", "--watch-stdin")
PATIENCE = 15  # seconds that the worker of jobs has to end: a training saves what it has
SWITCH = 0.001  # seconds that a thread keeps the interpreter while the event loop waits for it
GRACE = 10  # seconds that responses have to end when the service stops


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
    """uvicorn that ends open streams itself, and leaves what follows a signal to its caller."""

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
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


async def run(
    sock: socket.socket,
    token: str,
    ready: Callable[[], None],
    *,
    worker: Sequence[str] = (),
    cache: int = SIZE,
    deterministic: bool = False,
    jobs: bool = True,
    static: Path = STATIC,
    hosts: Sequence[str] = (),
    ready_models: int = MOST,
) -> None:
    """Serve on a listening socket until SIGINT or SIGTERM; `ready` is called when requests are answered.

    `worker` goes to the sampling worker's command line; `cache` is the size of the cache of results in bytes, 0 for
    none; `deterministic` makes every image byte for byte the same at any load; `jobs` says whether queued jobs are run
    too; `hosts` are the names that others reach this service by (none: local mode); `ready_models` is how many
    models are made ready at the start. Raises ConflictError when another process serves this KARTINA_HOME, or its
    database.
    """
    sys.setswitchinterval(SWITCH)
    access = LocalAccess(port=sock.getsockname()[1], token=token, key=cookie_key(), hosts=tuple(hosts))
    with only_service():
        supervisor = Supervisor(worker)
        engine = LocalEngine(supervisor.socket, cache=cache, deterministic=deterministic)
        app = create_app(engine, access, static=static, ready=ready_models)

        def goodbye() -> None:
            opened: Services | None = getattr(app.state, "services", None)
            if opened is not None:
                opened.generations.say_goodbye()

        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )
        kept: list[Keeper] = [supervisor, *([Keeper(JOBS, patience=PATIENCE)] if jobs else [])]
        for each in kept:
            await each.start()
        try:
            await _Server(config, ready, goodbye).serve([sock])
        finally:
            await engine.close()
            await asyncio.gather(*(each.stop() for each in kept))
