"""Every error Kartina raises on purpose.

    KartinaError                 code        what it means for the caller
    ├─ InputError                            what you gave cannot be used; nothing was changed
    │  ├─ DataError              data        images, labels, archives, data sets
    │  ├─ ConfigError            config      a preset's key or value, a control, a flag
    │  ├─ NotFoundError          not_found   no data set, run, model, preset or class of that name
    │  └─ KeyReusedError         key_reused  an idempotency key came again with another request
    ├─ ForbiddenError            forbidden   this caller may not do that
    ├─ ConflictError             conflict    the name is taken, or another process holds the run
    │  ├─ InFlightError          in_flight   the first request with that idempotency key is not yet accepted
    │  └─ OffsetError            wrong_offset  a part of an upload does not begin where the one before ended
    ├─ IntegrityError            integrity   a file is not what its record says: hash, version, shape
    ├─ StorageError              storage     the disk is full or read-only
    │  └─ NoRoomError            no_room     what is asked for would not fit on the disk; nothing was begun
    ├─ DivergedError             diverged    training met NaN or Inf and stopped
    ├─ UnavailableError          unavailable the engine is down: try again
    │  ├─ QueueFullError         queue_full  there is more work than it can take: try again later
    │  ├─ RateError              rate_limited  this caller asks too often: try again in a moment
    │  └─ QuotaError             quota       this caller's share of work or room is used up
    └─ CanceledError             canceled    the caller asked for it to stop

A message says what was found, what was expected, and what to do. The CLI prints it and exits with 2; the API maps
the code to a status (`kartina.api.problems`), the only place that knows HTTP.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class KartinaError(Exception):
    """Base of every error that is meant for a person to read."""

    code = "error"

    def __init__(self, message: str, *, details: Iterable[str] = ()):
        super().__init__(message)
        self.details = tuple(details)  # one line each: the list of bad files, the failing keys


class InputError(KartinaError):
    code = "input"


class DataError(InputError):
    code = "data"


class ConfigError(InputError):
    code = "config"


class NotFoundError(InputError):
    code = "not_found"

    @classmethod
    def named(cls, kind: str, name: str, known: Iterable[str], todo: str = "") -> NotFoundError:
        """No `kind` is called `name`: list what there is, and the nearest spelling."""
        names = list(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        have = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none yet"
        return cls(f"Found no {kind} called {name!r}; there are: {have}.{hint}{' ' + todo if todo else ''}")


class KeyReusedError(InputError):
    code = "key_reused"


class ForbiddenError(KartinaError):
    code = "forbidden"


class ConflictError(KartinaError):
    code = "conflict"


class InFlightError(ConflictError):
    code = "in_flight"


class OffsetError(ConflictError):
    code = "wrong_offset"

    def __init__(self, message: str, *, offset: int):
        super().__init__(message)
        self.offset = offset  # where the next part shall begin


class IntegrityError(KartinaError):
    code = "integrity"


class StorageError(KartinaError):
    code = "storage"


class NoRoomError(StorageError):
    code = "no_room"


class DivergedError(KartinaError):
    code = "diverged"


class UnavailableError(KartinaError):
    code = "unavailable"


class QueueFullError(UnavailableError):
    code = "queue_full"

    def __init__(self, message: str, *, details: Iterable[str] = (), retry_after: int = 5):
        super().__init__(message, details=details)
        self.retry_after = retry_after  # seconds until there should be room


class RateError(UnavailableError):
    code = "rate_limited"

    def __init__(self, message: str, *, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class QuotaError(UnavailableError):
    code = "quota"


class CanceledError(KartinaError):
    code = "canceled"


def of_code(code: str, message: str, details: Iterable[str] = ()) -> KartinaError:
    """The error with this code, as another process told of it; KartinaError itself for a code that is none's."""
    classes: list[type[KartinaError]] = [KartinaError]
    for each in classes:
        classes += each.__subclasses__()
    found = next((each for each in classes if "code" in vars(each) and each.code == code), KartinaError)
    made = found.__new__(found)
    KartinaError.__init__(made, message, details=details)
    return made


_DISK = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
         errno.EROFS: "the file system is read-only", errno.EACCES: "permission is denied",
         errno.EFBIG: "the file is over the size limit", errno.EPERM: "it is not allowed",
         errno.ENOTDIR: "a file stands where a folder is needed"}  # fmt: skip


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk met while doing `what` into a StorageError; let the rest pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f" at {error.filename}" if error.filename else ""
        raise StorageError(
            f"Could not {what}: {_DISK[error.errno]}{where}. Free some space or point KARTINA_HOME at a writable "
            f"folder, then run it again; nothing partial was kept."
        ) from error
