"""Who may ask, and from where: the guard in front of every route. Local mode: one person, on this machine.

`kartina serve` prints a URL with a start-up token; the page exchanges it for a cookie (HttpOnly, SameSite=Strict), a
program sends it as `Authorization: Bearer TOKEN`. The guard refuses by default: only /healthz, the page's own files and
the exchange itself are open. It also refuses what a browser on another site, a name that was rebound to 127.0.0.1, or a
proxy would send, and puts the security headers on every answer.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import time
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kartina.api.problems import TOO_LARGE, answer, problem_of
from kartina.errors import ConfigError, disk_errors

log = structlog.get_logger("kartina.api")

MAX_BODY = 2**20  # bytes of a request's body
COOKIE_AGE = 30 * 24 * 3600  # seconds
UNSAFE = frozenset(("POST", "PUT", "PATCH", "DELETE"))
LOOPBACK = ("127.0.0.1", "localhost", "::1")

PAGE_CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
API_CSP = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox"


def check_host(host: str) -> None:
    """ConfigError for an address that others can reach: this version has no key or password to ask them for."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"Found the address {host!r}, which other machines can reach; serving there needs a key or password, which "
            "this version doesn't have yet. Serve on 127.0.0.1 and use an SSH tunnel: ssh -L PORT:127.0.0.1:PORT HOST."
        )


@dataclass(frozen=True)
class LocalAccess:
    """The secrets of local mode, and the host names that this service answers to."""

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)  # signs cookies

    @property
    def cookie(self) -> str:
        """The cookie's name. Browsers share cookies between ports, so the port is in it."""
        return f"kartina_session_{self.port}"

    def sign_in(self, token: str) -> str | None:
        """A cookie's value for the right token."""
        if not hmac.compare_digest(token.encode(), self.token.encode()):
            return None
        expires = str(int(time.time()) + COOKIE_AGE)
        return f"{expires}.{self._sign(expires)}"

    def admits(self, headers: Headers) -> bool:
        """Whether the request carries the token or a cookie that was made from it."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode()):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        expires, _, signature = (morsel.value if morsel else "").partition(".")
        if not expires.isascii() or not expires.isdigit() or not signature.isascii():
            return False
        return hmac.compare_digest(signature, self._sign(expires)) and int(expires) > time.time()

    def serves(self, host: str) -> bool:
        """Whether a Host header names this service."""
        try:
            parts = urlsplit(f"//{host}")
            return parts.hostname in LOOPBACK and (parts.port or 80) == self.port and "@" not in host
        except ValueError:
            return False

    def _sign(self, expires: str) -> str:
        return hmac.new(self.key, f"{self.port}.{expires}".encode(), hashlib.sha256).hexdigest()


def cookie_key(home: Path) -> bytes:
    """The key that signs cookies, kept in KARTINA_HOME so that an open page outlives a restart of the service."""
    path = home / "session.key"
    with disk_errors("store the key that signs cookies"):
        home.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.stat().st_size != 32:
            temporary = home / f".session.key-{os.getpid()}"
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
            os.replace(temporary, path)
        return path.read_bytes()


class Guard:
    """ASGI middleware: host, proxy, origin and session checks; request ids; security headers; the last net."""

    def __init__(self, app: ASGIApp, access: LocalAccess):
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            else:  # there are no websockets
                await send({"type": "websocket.close", "code": 1008})
            return
        request_id = f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "DENY"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Content-Security-Policy"] = API_CSP if _is_api(scope["path"]) else PAGE_CSP
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        taken = 0

        async def guarded_receive() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY:
                raise HTTPException(413)
            return message

        refusal = self._refuse(scope, Headers(scope=scope))
        try:
            if refusal:
                await answer(problem_of(*refusal, request_id=request_id))(scope, receive, guarded_send)
            else:
                await self.app(scope, guarded_receive, guarded_send)
        except Exception as error:  # the last net: what no route foresaw is logged, and answered where it can be
            log.error("request_crashed", request_id=request_id, path=scope["path"], exc_info=error)
            if not started:
                detail = "Something went wrong inside Kartina; the service's log says more under this request_id."
                await answer(problem_of("error", detail, request_id=request_id))(scope, receive, guarded_send)

    def _refuse(self, scope: Scope, headers: Headers) -> tuple[str, str] | None:
        """(code, detail) of why the request is refused; None when it may pass."""
        port = self.access.port
        host = headers.get("host", "")
        if not self.access.serves(host):
            return "misdirected", (
                f"Found the host {host!r}; this service answers to 127.0.0.1:{port} and localhost:{port} only. "
                f"Through a tunnel use the same port: ssh -L {port}:127.0.0.1:{port} HOST."
            )
        for name in headers:
            if name == "forwarded" or name.startswith("x-forwarded-"):
                return "forbidden", (
                    f"Found the header {name}, which a proxy adds; local mode is for this machine only, and serving "
                    "others needs a key or password, which this version doesn't have yet. Use an SSH tunnel."
                )
        if scope["method"] in UNSAFE:
            origin, site = headers.get("origin"), headers.get("sec-fetch-site")
            if origin is not None and not self._own(origin):
                return "forbidden", f"Found a request from {origin!r}; expected one from this service's page."
            if origin is None and site not in (None, "same-origin", "none"):
                return "forbidden", f"Found a {site} request; expected one from this service's page."
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > MAX_BODY:
            return "too_large", TOO_LARGE
        if _is_open(scope["method"], scope["path"]) or self.access.admits(headers):
            return None
        return "unauthenticated", (
            "Found no valid session; open the URL that `kartina serve` printed, or send its token as "
            "`Authorization: Bearer TOKEN`."
        )

    def _own(self, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        return scheme == "http" and self.access.serves(host)


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/v1", "/healthz", "/openapi.json")


def _is_open(method: str, path: str) -> bool:
    """What needs no session: health, the exchange of the token, and the page's own files."""
    if _is_api(path):
        return path == "/healthz" or (path == "/v1/session" and method == "POST")
    return method in ("GET", "HEAD")
