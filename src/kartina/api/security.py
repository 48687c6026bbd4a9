"""Who may ask, and from where: the guard in front of every route. Local mode: one person, on this machine.

`kartina serve` prints a URL with a start-up token; the page exchanges it for a cookie (HttpOnly, SameSite=Strict), a
program sends it as `Authorization: Bearer TOKEN`. API keys come the same two ways, and are all that opens a service on
an address that others reach. The guard finds out who asks (`caller` in the request's state) and how often. It refuses
by default: only /healthz, the page's own files and the exchange itself are open. It also refuses what a browser on
another site, a name that was rebound to 127.0.0.1, or a proxy would send, and puts the security headers on every
answer.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from asyncio import to_thread
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog
from anyio import BrokenResourceError, ClosedResourceError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kartina.api.problems import TOO_LARGE, answer, extra_headers, problem_of
from kartina.data.sandbox import MAX_BYTES as MAX_UPLOAD
from kartina.errors import ConfigError, KartinaError
from kartina.models.package import MAX_BYTES
from kartina.services.access import LOCAL, Caller
from kartina.services.archives import MAX_PART
from kartina.services.keys import GUESSES, secret_file
from kartina.services.metrics import Metrics

if TYPE_CHECKING:
    from kartina.api.dependencies import Services

log = structlog.get_logger("kartina.api")

MAX_BODY = 2**20  # bytes of a request's body
COOKIE_AGE = 30 * 24 * 3600  # seconds
MAX_PACKAGE = MAX_BYTES + 64 * 2**20  # of a model package's ZIP
UNKNOWN = (
    "Found no valid session; open the URL that `kartina serve` printed, or send its token or an API key as "
    "`Authorization: Bearer ...`."
)
UNSAFE = frozenset(("POST", "PUT", "PATCH", "DELETE"))
PROBES = ("/healthz", "/readyz", "/metrics")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

PAGE_CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_CONTROLS = frozenset(map(chr, (*range(32), 127)))
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
API_CSP = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; sandbox"
REPORT_CSP = f"{API_CSP}; img-src data:; style-src 'unsafe-inline'"  # a study's report: pictures and styles of its own


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(host: str, keys: bool = False) -> None:
    """ConfigError for an address that others can reach, where there is no API key to ask them for."""
    if not is_loopback(host) and not keys:
        raise ConfigError(
            f"Found the address {host!r}, which other machines can reach; serving there needs an API key. Make one "
            "with `kartina keys create NAME`, or serve on 127.0.0.1 and use an SSH tunnel: "
            "ssh -L PORT:127.0.0.1:PORT HOST."
        )


def served_names(host: str, more: Sequence[str] = ()) -> tuple[str, ...]:
    """The names that a service on the address `host` answers to beside loopback, as requests are compared with; ()
    where only this machine reaches it."""
    return () if is_loopback(host) else tuple(name.strip("[]").lower() for name in (host, *more))


@dataclass(frozen=True)
class LocalAccess:
    """The secrets of sessions, and the host names that this service answers to.

    On a loopback address the start-up token opens everything, as who has this machine may do. Elsewhere (`hosts` says
    where) there is no such token: API keys are asked for.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)  # signs cookies
    hosts: tuple[str, ...] = ()  # names that are served beside loopback; () is local mode

    @property
    def local(self) -> bool:
        return not self.hosts

    @property
    def cookie(self) -> str:
        """The cookie's name. Browsers share cookies between ports, so the port is in it."""
        return f"kartina_session_{self.port}"

    def is_token(self, given: str) -> bool:
        """Whether this is the start-up token, and opens anything here."""
        return self.local and hmac.compare_digest(given.encode(), self.token.encode())

    def sign_in(self, token: str) -> str | None:
        """A cookie's value for the right token."""
        return self.cookie_for(LOCAL.owner) if self.is_token(token) else None

    def cookie_for(self, owner: str) -> str:
        """A cookie's value that says who bears it: the local session, or the owner of a key."""
        expires = str(int(time.time()) + COOKIE_AGE)
        return f"{expires}.{owner}.{self._sign(expires, owner)}"

    def admits(self, headers: Headers) -> str | None:
        """Who bears the token or a cookie of ours; None for nobody."""
        given = bearer(headers)
        if given and self.is_token(given):
            return LOCAL.owner
        # As browsers send them: other programs on this host have cookies here, too, and not each is one by the book.
        expires, _, rest = cookie_parser(headers.get("cookie", "")).get(self.cookie, "").partition(".")
        owner, _, signature = rest.partition(".")
        if not expires.isascii() or not expires.isdigit() or not rest.isascii() or len(expires) > 15:
            return None
        if not hmac.compare_digest(signature, self._sign(expires, owner)) or int(expires) <= time.time():
            return None
        return owner if self.local or owner != LOCAL.owner else None

    def serves(self, host: str) -> bool:
        """Whether a Host header names this service."""
        try:
            parts = urlsplit(f"//{host}")
            if "@" in host:
                return False
            if not self.local and parts.hostname in self.hosts:
                return True  # at any port: a proxy may have another
            return parts.hostname in LOOPBACK and (parts.port or 80) == self.port
        except ValueError:
            return False

    def own(self, origin: str, host: str) -> bool:
        """Whether an Origin header is that of this service's page."""
        scheme, _, name = origin.partition("://")
        if self.local:
            return scheme == "http" and self.serves(name)
        return scheme in ("http", "https") and name == host and self.serves(name)

    def _sign(self, expires: str, owner: str) -> str:
        return hmac.new(self.key, f"{self.port}.{expires}.{owner}".encode(), hashlib.sha256).hexdigest()


def bearer(headers: Headers) -> str:
    """The credentials of `Authorization: Bearer ...`; "" for none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def cookie_key() -> bytes:
    """The key that signs cookies, kept in KARTINA_HOME so that an open page outlives a restart of the service."""
    return secret_file("session.key")


def body_limit(method: str, path: str) -> int:
    """Bytes that the body of a request may have."""
    if method == "POST":
        if path in ("/v1/assets", "/v1/generations/from-file"):
            return MAX_UPLOAD + MAX_BODY
        if path == "/v1/images/edits":
            return 2 * MAX_UPLOAD + MAX_BODY
        if path == "/v1/models":
            return MAX_PACKAGE
    if method == "PATCH" and path.startswith("/v1/uploads/"):
        return MAX_PART
    return MAX_BODY


class Guard:
    """ASGI middleware: host, proxy, origin and session checks; request ids; security headers; the last net."""

    def __init__(self, app: ASGIApp, access: LocalAccess, metrics: Metrics):
        self.app = app
        self.access = access
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            else:  # there are no websockets
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id), self._watched(scope, send) as watched:
            await self._guarded(scope, receive, watched, headers, request_id)

    @contextmanager
    def _watched(self, scope: Scope, send: Send) -> Iterator[Send]:
        """`send`, measured: a line in the log and a count for every request."""
        begun, status, stream = time.perf_counter(), 0, False

        async def watched(message: Message) -> None:
            nonlocal status, stream
            if message["type"] == "http.response.start":
                status = message["status"]
                stream = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
                if stream:
                    self.metrics.streams.inc()
            await send(message)

        try:
            yield watched
        finally:
            if stream:
                self.metrics.streams.dec()
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "page" if not _is_api(scope["path"]) else "none")
            self.metrics.answered(scope["method"], route, status, seconds)
            who = scope["state"].get("caller")
            tell = log.debug if route in PROBES else log.info
            tell(
                "request", method=scope["method"], route=route, status=status, ms=round(seconds * 1e3, 1),
                key=who.prefix if who is not None else None,
            )  # fmt: skip

    async def _guarded(self, scope: Scope, receive: Receive, send: Send, headers: Headers, request_id: str) -> None:
        started = lost = False

        async def guarded_send(message: Message) -> None:
            nonlocal started, lost
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["X-Frame-Options"] = "DENY"
                headers["Referrer-Policy"] = "no-referrer"
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Cross-Origin-Opener-Policy"] = "same-origin"
                headers["Content-Security-Policy"] = _policy(scope["path"])
                headers.setdefault("Cache-Control", "no-store")
            try:
                await send(message)
            except Exception:  # whatever the server met: the caller sent no HTTP, or is gone
                lost = True
                raise

        taken, most = 0, body_limit(scope["method"], scope["path"])

        async def guarded_receive() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise HTTPException(413)
            return message

        try:
            refusal = self._refuse(scope, headers, most)
            if refusal:
                await answer(problem_of(*refusal, request_id=request_id))(scope, receive, guarded_send)
                return
            try:
                scope["state"]["caller"] = await self._caller(scope, headers)
            except KartinaError as error:
                problem = problem_of(error.code, str(error), request_id=request_id)
                await answer(problem, extra_headers(error))(scope, receive, guarded_send)
                return
            if scope["state"]["caller"] is None and not _is_open(scope["method"], scope["path"]):
                await answer(problem_of("unauthenticated", UNKNOWN, request_id=request_id))(
                    scope, receive, guarded_send
                )
                return
            await self.app(scope, guarded_receive, guarded_send)
        except Exception as error:  # the last net: what no route foresaw is logged, and answered where it can be
            if lost or (started and _is_of_a_lost_reader(error)):
                log.warning("caller_lost", path=scope["path"], error=str(error))
                return
            log.error("request_crashed", path=scope["path"], exc_info=error)
            if not started:
                detail = "Something went wrong inside Kartina; the service's log says more under this request_id."
                await answer(problem_of("error", detail, request_id=request_id))(scope, receive, guarded_send)

    async def _caller(self, scope: Scope, headers: Headers) -> Caller | None:
        """Who asks. Raises RateError for one who asks, or guesses, too often."""
        if not _is_api(scope["path"]):
            return None  # the page's own files
        services: Services | None = getattr(scope["app"].state, "services", None)
        owner = self.access.admits(headers)
        if owner == LOCAL.owner:
            return LOCAL
        if services is None:
            return None
        given = bearer(headers)
        found = None
        if owner is not None:
            found = await to_thread(services.keys.by_id, owner)
        elif given:
            found = await to_thread(services.keys.caller, given)
            if found is None:
                services.rates.check(GUESSES, f"guess:{(scope.get('client') or ('', 0))[0]}")
        if found is not None:
            services.rates.check(found.rate, found.owner)
        return found

    def _refuse(self, scope: Scope, headers: Headers, most: int) -> tuple[str, str] | None:
        """(code, detail) of why the request is refused, whoever asks; None when it may pass."""
        port = self.access.port
        host = headers.get("host", "")
        if not self.access.serves(host):
            names = ", ".join(self.access.hosts) or f"127.0.0.1:{port} and localhost:{port}"
            return "misdirected", (
                f"Found the host {host!r}; this service answers to {names} only. Through a tunnel use the same port: "
                f"ssh -L {port}:127.0.0.1:{port} HOST. Others are named with --allow-host."
            )
        if self.access.local:
            for name in headers:
                if name == "forwarded" or name.startswith("x-forwarded-"):
                    return "forbidden", (
                        f"Found the header {name}, which a proxy adds; local mode is for this machine only. Serve "
                        "others on another address, with API keys (kartina serve --host), or use an SSH tunnel."
                    )
        if scope["method"] in UNSAFE:
            origin, site = headers.get("origin"), headers.get("sec-fetch-site")
            if origin is not None and not self.access.own(origin, host):
                return "forbidden", f"Found a request from {origin!r}; expected one from this service's page."
            if origin is None and site not in (None, "same-origin", "none"):
                return "forbidden", f"Found a {site} request; expected one from this service's page."
        if not _is_api(scope["path"]) and not _CONTROLS.isdisjoint(scope["path"]):  # routes match "/metrics\n", too
            return "forbidden", "Found a control character in the path; expected none."
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > most:
            return "too_large", TOO_LARGE
        return None


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or path in ("/v1", *PROBES, "/openapi.json")


def _policy(path: str) -> str:
    """The Content-Security-Policy of an answer."""
    if path.startswith("/v1/studies/") and path.endswith("/report.html"):
        return REPORT_CSP
    return API_CSP if _is_api(path) else PAGE_CSP


def _is_open(method: str, path: str) -> bool:
    """What needs no session: health, the exchange of the token, and the page's own files."""
    if _is_api(path):
        return path in ("/healthz", "/readyz") or (path == "/v1/session" and method == "POST")
    return method in ("GET", "HEAD")


def _is_of_a_lost_reader(error: BaseException) -> bool:
    """Whether nothing went wrong but that the reader of a stream has gone while something was on its way to it."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_of_a_lost_reader, error.exceptions))
    return isinstance(error, BrokenResourceError | ClosedResourceError)
