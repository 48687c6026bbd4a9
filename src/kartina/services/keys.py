"""Use cases on API keys: create (shown once), list, revoke; and who a key says that its bearer is.

A key is `kt_PREFIX_SECRET`. The prefix finds its row; the row has an HMAC-SHA-256 of the whole key under a secret of
this installation (KARTINA_HOME/keys.key, or KARTINA_SECRET where several machines share a database), so that neither
the database nor its backup is enough to make or guess one.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from kartina.config import home
from kartina.errors import ConfigError, RateError, StorageError, disk_errors
from kartina.files import make_folder
from kartina.services.access import SCOPES, Caller, as_scopes
from kartina.settings import load
from kartina.storage.ids import new_id
from kartina.storage.keys import Key, Keys
from kartina.storage.records import now
from kartina.storage.usage import NONE, Quota, Used

log = structlog.get_logger("kartina.services.keys")

RATE = "600/minute"  # requests of a key, where nothing else is said
GUESSES = "30/minute"  # wrong keys and tokens from one address
_SHAPE = re.compile(r"kt_([0-9a-z]{12})_([A-Za-z0-9_-]{43})")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def secret_file(name: str) -> bytes:
    """32 secret bytes, kept in KARTINA_HOME for this user alone."""
    path = home() / name
    with disk_errors("store a secret"):
        make_folder(home())
        if not path.is_file() or path.stat().st_size != 32:
            temporary = path.with_name(f".{name}-{os.getpid()}")
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
            try:
                os.link(temporary, path)  # the first one stays, should two processes make one
            except FileExistsError:
                if path.stat().st_size != 32:
                    os.replace(temporary, path)
            Path(temporary).unlink(missing_ok=True)
        return path.read_bytes()


def pepper() -> bytes:
    """The secret that keys are digested with."""
    given = load().secret
    return given.get_secret_value().encode() if given else secret_file("keys.key")


@dataclass(frozen=True)
class Access:
    """The API keys of this service."""

    keys: Keys
    secret: bytes

    def create(
        self,
        name: str,
        scopes: Sequence[str] = ("generate",),
        quota: Quota = NONE,
        rate: str = RATE,
        days: int | None = None,
        until: datetime | None = None,
    ) -> tuple[Key, str]:
        """(what is kept, the key itself: it is shown once). It ends after `days`, and not after `until`. Raises
        ConfigError."""
        unknown = [scope for scope in scopes if scope not in SCOPES]
        if unknown or not scopes:
            raise ConfigError(f"Found the scopes {', '.join(unknown) or 'none'}; expected some of {', '.join(SCOPES)}.")
        check_rate(rate)
        prefix = "".join(secrets.choice(_ALPHABET) for _ in range(12))
        text = f"kt_{prefix}_{secrets.token_urlsafe(32)}"
        at = now()
        ends = [end for end in (until, None if days is None else at + timedelta(days=days)) if end is not None]
        key = Key(
            id=new_id("key"), prefix=prefix, digest=self._digest(text), name=name, scopes=tuple(scopes), quota=quota,
            rate=rate, created_at=at, expires_at=min(ends, default=None),
        )  # fmt: skip
        self.keys.add(key)
        return key, text

    def list(self) -> list[tuple[Key, Used]]:
        return self.keys.list()

    def revoke(self, id: str) -> Key:
        """Raises NotFoundError."""
        return self.keys.revoke(id)

    def exists(self) -> bool:
        """Whether any key works."""
        return any(key.works(now()) for key, _ in self.keys.list())

    def caller(self, text: str) -> Caller | None:
        """Who bears this key; None where it opens nothing."""
        match = _SHAPE.fullmatch(text)
        key = self.keys.by_prefix(match[1]) if match else None
        if key is None or not hmac.compare_digest(key.digest, self._digest(text)):
            return None
        return self._caller(key, now())

    def by_id(self, id: str) -> Caller | None:
        """Who bears the key with this id (a signed cookie says so); None where it works no longer."""
        key = self.keys.by_id(id)
        return None if key is None else self._caller(key, now())

    def _caller(self, key: Key, at: datetime) -> Caller | None:
        if not key.works(at):
            return None
        try:
            self.keys.note_use(key, at)
        except StorageError as error:  # a full disk keeps nobody from reading
            log.warning("use_not_noted", key=key.prefix, error=str(error))
        return Caller(key.id, as_scopes(key.scopes), key.quota, key.rate, key.name, f"kt_{key.prefix}", key.expires_at)

    def _digest(self, text: str) -> str:
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()


def check_rate(rate: str) -> None:
    """Raises ConfigError for a rate that is none."""
    try:
        if rate:
            parse(rate)
    except ValueError:
        raise ConfigError(f"Found the rate {rate!r}; expected one such as 60/minute or 5/second.") from None


class Rates:
    """How often each caller may ask: a moving window in this process's memory."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._parsed: dict[str, RateLimitItem] = {}

    def check(self, rate: str, who: str) -> None:
        """Count a request. Raises RateError when there were too many."""
        if rate and not self._limiter.hit(self._item(rate), who):
            raise self._error(rate, who)

    def full(self, rate: str, who: str) -> RateError | None:
        """Whether one more would be too many, without counting it."""
        return None if self._limiter.test(self._item(rate), who) else self._error(rate, who)

    def _error(self, rate: str, who: str) -> RateError:
        item = self._item(rate)
        reset = self._limiter.get_window_stats(item, who).reset_time
        wait = max(1, round(reset - now().timestamp()))
        return RateError(f"Found more than {item} requests; ask again in {wait} s.", retry_after=wait)

    def _item(self, rate: str) -> RateLimitItem:
        if rate not in self._parsed:
            self._parsed[rate] = parse(rate)
        return self._parsed[rate]
