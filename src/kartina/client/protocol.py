"""The HTTP of the API without a socket: calls, when they are sent again, and what answers mean.

Both clients are made of this. A call is sent again after a broken connection where that is safe (an idempotency key
makes a POST safe), and after 429 and 503, for at most `patience` seconds, with pauses that double and are blurred.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version
from ipaddress import ip_address
from os import environ
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from kartina.client.errors import AnswerError, ServiceError, UnreachableError, service_error
from kartina.client.schemas import Problem
from kartina.errors import ConfigError

URL = "http://127.0.0.1:8765"
PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds before the second try, and at most
SILENCE = 45.0  # seconds without a byte after which a stream of events is broken; the service pings every 15
MAX_EVENT = 64 * 2**20  # bytes: 256 previews are one event
NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
OURS = (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)  # sending them again changes nothing

D = TypeVar("D", bound=BaseModel)
Value = str | int | float | bool | datetime | None


# -- where and who --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A service, and the key that opens it."""

    url: str
    key: str = field(repr=False)

    @classmethod
    def of(cls, url: str | None, key: str | None) -> Place:
        """What is given, else KARTINA_URL and KARTINA_KEY. The URL may be the one that `kartina serve` prints.

        Raises ConfigError.
        """
        given = (url or environ.get("KARTINA_URL") or URL).strip()
        parts = urlsplit(given)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigError(f"Found the URL {given!r}; expected one like {URL} or https://images.example.org.")
        token = parse_qs(parts.query).get("token", [""])[0]
        secret = (key or token or environ.get("KARTINA_KEY") or "").strip()
        if not secret or not secret.isascii() or not secret.isprintable():
            raise ConfigError(
                "Found no key that can be sent; expected key=..., KARTINA_KEY, or the URL with ?token= that `kartina "
                "serve` prints. `kartina keys create NAME` makes a key."
            )
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", secret)

    def settings(self, timeout: float) -> dict[str, Any]:
        """Settings of an httpx2 client. Proxies of the environment are not for this machine itself."""
        headers = {"Authorization": f"Bearer {self.key}", "User-Agent": f"kartina-client/{version('kartina')}"}
        timeouts = httpx2.Timeout(timeout, connect=min(timeout, 10.0))
        return {"base_url": self.url, "headers": headers, "timeout": timeouts, "trust_env": not self._here()}

    def _here(self) -> bool:
        name = urlsplit(self.url).hostname or ""
        try:
            return ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"


# -- calls ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file of a form."""

    content: bytes | Path
    name: str = "file"


@dataclass(frozen=True)
class Call:
    """A request, as often as it takes."""

    method: str
    url: str
    query: Mapping[str, Value] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    form: Mapping[str, Value] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)
    once: bool = False  # not sent again where it may have been carried out
    timeout: float | None = None  # seconds, where it takes longer than others

    def but(self, **changes: Any) -> Call:
        return replace(self, **changes)

    def asking(self, **query: Value) -> Call:
        return replace(self, query={**self.query, **query})

    def saying(self, **headers: str | None) -> Call:
        """With more headers; `_` stands for `-`, and None for no header."""
        more = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        return replace(self, headers={**self.headers, **more})

    @contextmanager
    def arguments(self) -> Iterator[dict[str, Any]]:
        """What httpx2 is given for one try; files are open meanwhile."""
        with ExitStack() as stack:
            found: dict[str, Any] = {"method": self.method, "url": self.url, "headers": dict(self.headers)}
            found["params"] = {name: _text(value) for name, value in self.query.items() if value is not None}
            if self.json is not None:
                found["json"] = self.json
            if self.content is not None:
                found["content"] = self.content
            if self.files:
                found["data"] = {name: _text(value) for name, value in self.form.items() if value is not None}
                found["files"] = {
                    name: (one.name, one.content if isinstance(one.content, bytes)
                           else stack.enter_context(one.content.open("rb")))
                    for name, one in self.files.items()
                }  # fmt: skip
            if self.timeout is not None:
                found["timeout"] = httpx2.Timeout(self.timeout, connect=10.0)
            yield found


def call(method: str, path: str, **values: str | int) -> Call:
    """A call of the operation `method path` of /openapi.json; `values` are the path's parameters.

    Raises ConfigError for a value that is no name of anything.
    """
    for name, value in values.items():
        if str(value) in ("", ".", ".."):
            raise ConfigError(f"Found {value!r} as {name}; expected the name or id of something.")
    return Call(method, path.format(**{name: quote(str(value), safe="@") for name, value in values.items()}))


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def several(given: Sequence[str] | str) -> list[str]:
    """One or several texts as a list."""
    return [given] if isinstance(given, str) else list(given)


# -- tries ----------------------------------------------------------------------------------------------------------


class Tries:
    """The tries of one call: says how long to pause before the next one, or raises."""

    def __init__(self, of: Call, patience: float):
        self.call = of
        self.patience = patience
        self.until: float | None = None  # the end of patience, which begins with what first goes wrong
        self.count = 0
        self.broken = False  # a try may have been carried out, unseen

    def after_break(self, error: httpx2.RequestError) -> float:
        """Seconds to pause after a connection that failed. Raises UnreachableError, ConfigError."""
        if isinstance(error, OURS):
            raise ConfigError(f"Found a request that cannot be sent ({error}).") from error
        sent = not isinstance(error, NEVER_SENT)
        if not (sent and self.call.once):
            self.broken = self.broken or sent
            pause = self._pause(0.0)
            if pause is not None:
                return pause
        why = str(error) or type(error).__name__
        maybe = " It may have been carried out: look before you send it again." if sent and self.call.once else ""
        raise UnreachableError(
            f"Found no answer to {self.call.method} {self.call.url} ({why}); is the service running, and at this URL?"
            f"{maybe}"
        ) from error

    def after_end(self) -> float:
        """Seconds to pause after a stream that ended too early. Raises UnreachableError."""
        return self.after_break(httpx2.RemoteProtocolError("the stream ended too early"))

    def after_answer(self, response: httpx2.Response, content: bytes) -> float:
        """Seconds to pause after an answer that is an error. Raises the error."""
        error = problem_of(response, content)
        again = error.status in (429, 503) or (error.code == "in_flight" and self.broken)  # in flight: our own
        pause = self._pause(error.retry_after or 0.0) if again else None
        if pause is None:
            raise error
        return pause

    def _pause(self, least: float) -> float | None:
        """The next pause, at least `least` seconds; None when patience is at its end."""
        pause = min(LONGEST_PAUSE, PAUSE * 2.0 ** min(self.count, 10)) * random.uniform(0.5, 1.0)
        pause = max(pause, least * random.uniform(1.0, 1.1))
        now = time.monotonic()
        self.count += 1
        self.until = now + self.patience if self.until is None else self.until
        return pause if now + pause <= self.until else None


# -- answers --------------------------------------------------------------------------------------------------------


def problem_of(response: httpx2.Response, content: bytes) -> ServiceError:
    """The error that an answer tells of, be it no problem+json (a proxy's page)."""
    try:
        problem = Problem.model_validate_json(content)
    except ValidationError:
        said = content[:200].decode(errors="replace").strip()
        problem = Problem(
            status=response.status_code,
            title=response.reason_phrase,
            detail=f"Found the answer {response.status_code} {response.reason_phrase}, which is not Kartina's: {said}",
        )
    wait = response.headers.get("retry-after", "")
    return service_error(problem, float(wait) if wait.isascii() and wait.isdigit() else None)


def read(model: type[D], content: bytes | str) -> D:
    """An answer as data. Raises AnswerError."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        raise AnswerError(
            f"Found an answer that is no {model.__name__} ({wrong}); is this Kartina, and of about the version "
            f"{version('kartina')}?"
        ) from None
