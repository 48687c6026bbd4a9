"""Who may use a device now: sampling, which people wait for, or training. Torch-free.

    sampling = Sampling("cpu")              # the engine's side
    sampling.pending(True)                  # somebody waits for images; False: nobody does

    gate = Gate("cpu")                      # training's side
    gate()                                  # between two steps: waits while sampling is pending

The two meet in a lock file in KARTINA_HOME, one for each device: engines share the lock while they have requests, and
a training that cannot get it for itself waits. A lock is the kernel's, so it goes with its process, however that ends.

Training keeps at least a quarter of the time: for every second that it trained it waits at most three, and never more
than PATIENCE at a time.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from kartina.config import home

log = structlog.get_logger("kartina.serving.device")

SHARE = 0.25  # of the time, that training keeps
PATIENCE = 3.0  # seconds that it waits at a time, at most
_PAUSE = 0.005  # seconds between two looks


class Sampling:
    """Says whether an engine has requests. Where KARTINA_HOME cannot be written, training is not asked to yield."""

    def __init__(self, device: str):
        self._file = _open(device)
        self._held = False

    def pending(self, waiting: bool) -> None:
        """Never waits; cheap when nothing has changed."""
        if waiting == self._held or self._file is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB if waiting else fcntl.LOCK_UN)
            self._held = waiting
        except BlockingIOError:
            pass  # a training is looking this very moment: at the next step

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)


class Gate:
    """Called between two steps of a training: returns at once, or when it may go on. `stop` ends the wait."""

    def __init__(
        self,
        device: str,
        stop: Callable[[], bool] = lambda: False,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._file = _open(device)
        self._stop, self._clock, self._sleep = stop, clock, sleep
        self._left: float | None = None  # when it last let training go on
        self._credit = 0.0  # seconds that it may wait; less than 0 when it has waited too long
        self.trained = self.waited = 0.0  # seconds so far

    def __call__(self) -> None:
        begun = now = self._clock()
        if self._left is not None:
            worked = begun - self._left
            self.trained += worked
            self._credit = min(self._credit + worked * (1 - SHARE) / SHARE, PATIENCE)
        while self.sampling() and now - begun < self._credit and not self._stop():
            self._sleep(min(_PAUSE, self._credit - (now - begun)))
            now = self._clock()
        self._credit -= now - begun
        self.waited += now - begun
        self._left = now

    def sampling(self) -> bool:
        """Whether somebody waits for images now."""
        if self._file is None:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def path(device: str) -> Path:
    """The device's lock file. "cuda" is the first GPU."""
    name = "cuda:0" if device == "cuda" else device
    return home() / "devices" / f"{name.replace(':', '-')}.lock"


def _open(device: str) -> int | None:
    where = path(device)
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        return os.open(where, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("no_device_lock", device=device, error=str(error))
        return None
