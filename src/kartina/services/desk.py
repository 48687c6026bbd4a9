"""Answers that need torch, from a process of its own: `kartina.handlers.desk`. The API process never loads it.

    desk.ask("plan", run={...})          # of the process that stays
    desk.ask_alone("time_run", ...)      # of one for this question: it measures itself

A question that its process does not survive is an UnavailableError; the next one gets a new process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from kartina.data.pool import read_message, write_message
from kartina.errors import UnavailableError, of_code

TIME = 300.0  # seconds that an answer may take
COMMAND = (sys.executable, "-m", "kartina.handlers.desk")


class Desk:
    """Methods block, and may be called from any thread; questions to one process wait for each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alone = threading.Lock()  # two measurements at a time would measure each other
        self._process: _Process | None = None

    def ask(self, question: str, **given: Any) -> Any:
        """The answer. Raises what the question's handler raises, UnavailableError."""
        with self._lock:
            for again in (True, False):
                if self._process is None or self._process.ended:
                    self._process = _Process()
                    again = False  # a new one has not gone home between two questions
                reply = self._process.ask({"question": question, **given})
                if reply is not None or not again:
                    return _answer(reply)
                self._process.end()
            raise AssertionError("the second process is new")

    def ask_alone(self, question: str, **given: Any) -> Any:
        """The answer of a process of its own, one at a time. Raises as `ask` does."""
        with self._alone:
            process = _Process()
            try:
                return _answer(process.ask({"question": question, **given}))
            finally:
                process.end()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()


class _Process:
    def __init__(self) -> None:
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
        timer = threading.Timer(TIME, self._proc.kill)
        timer.start()
        try:
            write_message(self._proc.stdin, (question, b""))
            reply = read_message(self._proc.stdout)
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
