"""Answers that need torch, from a process of its own: `kartina.handlers.desk`. The API process never loads it.

    await desk.ask("plan", run={...})          # of the process that stays
    await desk.ask_alone("time_run", ...)      # of one for this question: it measures itself

A question that its process does not survive is an UnavailableError; the next one gets a new process.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from asyncio import to_thread
from contextlib import suppress
from typing import Any

from kartina.data.pool import read_message, write_message
from kartina.errors import QueueFullError, UnavailableError, of_code
from kartina.process import command_of

TIME = 300.0  # seconds that an answer may take
WAITING = 16  # questions that wait for their turn
COMMAND = command_of("kartina.handlers.desk")


class Desk:
    """Belongs to one event loop. Who waits for an answer to somebody else waits there, and holds no thread."""

    def __init__(self) -> None:
        self._turn = _Turn()
        self._alone = _Turn()  # two measurements at a time would measure each other
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._lone: _Process | None = None
        self._closed = False

    async def ask(self, question: str, **given: Any) -> Any:
        """The answer. Raises what the question's handler raises, UnavailableError, QueueFullError."""
        async with self._turn:
            return _answer(await to_thread(self._ask, {"question": question, **given}))

    async def ask_alone(self, question: str, **given: Any) -> Any:
        """The answer of a process of its own, told when it began; one at a time. Raises as `ask` does."""
        async with self._alone:
            return _answer(await to_thread(self._ask_alone, {"question": question, **given}))

    def close(self) -> None:
        """End the processes; who waits for an answer gets none."""
        self._closed = True
        for process in (self._process, self._lone):
            if process is not None:
                process.end()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        with self._lock:
            kept = self._process
            if kept is not None and not kept.ended:
                reply = kept.ask(question)
                if reply is not None or kept.taken or self._closed:
                    return reply
                kept.end()  # it has gone home this very moment, or had died
            if self._closed:
                return None
            self._process = _Process()
            return self._process.ask(question)

    def _ask_alone(self, question: dict[str, Any]) -> dict[str, Any] | None:
        began_at, process = time.time(), _Process()
        self._lone = process
        try:
            return None if self._closed else process.ask({**question, "began_at": began_at})
        finally:
            process.end()


class _Turn:
    """One at a time, and so many that wait. Raises QueueFullError for one more."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._here = 0

    async def __aenter__(self) -> None:
        if self._here > WAITING:
            raise QueueFullError(f"Found {self._here} such requests being answered; ask again in a moment.")
        self._here += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._here -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._here -= 1
        self._lock.release()


class _Process:
    def __init__(self) -> None:
        self.taken = False  # the last question: it was there when that came
        self._proc = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            start_new_session=True,
        )

    @property
    def ended(self) -> bool:
        if self._proc.poll() is None:
            return False
        self.end()
        return True

    def ask(self, question: dict[str, Any]) -> dict[str, Any] | None:
        """The reply; None where the process is no longer there, or took too long."""
        assert self._proc.stdin is not None and self._proc.stdout is not None
        self.taken = False
        timer = threading.Timer(TIME, self._proc.kill)
        timer.start()
        try:
            write_message(self._proc.stdin, (question, b""))
            self.taken = read_message(self._proc.stdout) is not None
            reply = read_message(self._proc.stdout) if self.taken else None
        except (BrokenPipeError, ValueError):
            reply = None
        finally:
            timer.cancel()
        return None if reply is None else reply[0]

    def end(self) -> None:
        self._proc.kill()
        self._proc.wait()
        for pipe in (self._proc.stdin, self._proc.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _answer(reply: dict[str, Any] | None) -> Any:
    if reply is None:
        raise UnavailableError(
            f"Found no answer within {TIME:.0f} s, or too little memory for it; try again, or ask for less."
        )
    if "error" in reply:
        error = reply["error"]
        raise of_code(error["code"], error["message"], error["details"])
    return reply["answer"]
