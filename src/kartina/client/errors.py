"""What a call can raise. All of it is a KartinaError, whose message says what was found, what was expected, what to do.

    ClientError
    ├─ UnreachableError      no service at the URL, or the connection broke, for longer than `patience`
    ├─ WaitError             not finished within the seconds that `wait` was given; it goes on
    ├─ CanceledError         the job that was waited for is canceled
    ├─ AnswerError           an answer that this client cannot read: another program, or a service too new or too old
    └─ ServiceError          the service's own word: code, status, title, errors, request_id, retry_after
       ├─ InputError         what you gave cannot be used; nothing was changed
       ├─ NotFoundError      it is not there, or not yours
       ├─ SignInError        no key, or a wrong one
       ├─ ForbiddenError     this key may not do that
       ├─ ConflictError      the name is taken, it is in use, or not finished
       ├─ QuotaError         this key's share of work or room is used up
       ├─ BusyError          too much work at once, too many requests, or the engine is down: later
       └─ InternalError      something is wrong with the service

A file that cannot be read or written is an OSError.
"""

from __future__ import annotations

from kartina.client.schemas import Problem
from kartina.errors import KartinaError


class ClientError(KartinaError):
    """Base of what the client raises."""


class UnreachableError(ClientError):
    code = "unreachable"


class WaitError(ClientError, TimeoutError):
    code = "timeout"


class CanceledError(ClientError):
    code = "canceled"


class AnswerError(ClientError):
    code = "answer"


class ServiceError(ClientError):
    """A problem that the service answered with, or that ended a job."""

    def __init__(self, problem: Problem, retry_after: float | None = None):
        super().__init__(problem.detail or problem.title, details=problem.errors)
        self.code = problem.code  # stable: not_found, config, queue_full, ...
        self.status = problem.status
        self.title = problem.title
        self.errors = problem.errors  # one line for each wrong value
        self.request_id = problem.request_id  # names the request in the service's log
        self.retry_after = retry_after  # seconds


class InputError(ServiceError):
    pass


class NotFoundError(ServiceError):
    pass


class SignInError(ServiceError):
    pass


class ForbiddenError(ServiceError):
    pass


class ConflictError(ServiceError):
    pass


class QuotaError(ServiceError):
    pass


class BusyError(ServiceError):
    pass


class InternalError(ServiceError):
    pass


_BY_CODE = {"quota": QuotaError}
_BY_STATUS = {401: SignInError, 403: ForbiddenError, 404: NotFoundError, 409: ConflictError, 429: BusyError,
              503: BusyError}  # fmt: skip


def service_error(problem: Problem, retry_after: float | None = None) -> ServiceError:
    """The error that a problem is."""
    kind = _BY_CODE.get(problem.code) or _BY_STATUS.get(problem.status)
    if kind is None:
        kind = InternalError if problem.status >= 500 else InputError
    return kind(problem, retry_after)
