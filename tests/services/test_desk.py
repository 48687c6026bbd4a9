"""Processes that answer what needs torch: asked once, ended with who asks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kartina.errors import UnavailableError
from kartina.services import desk
from kartina.services.desk import Desk

# The real process, with questions that are slow, or that it does not survive. It writes down what it is asked.
ANSWERING = """
import os, sys, time
from kartina.handlers import desk

def note(question, **given):
    with open(sys.argv[1], "a") as file:
        file.write(f"{question} {os.getpid()}\\n")
    return answer(question, **given)

answer, desk.answer = desk.answer, note
desk.QUESTIONS = {
    "sleep": lambda seconds, began_at=0: time.sleep(seconds), "crash": lambda: os._exit(3), "home": lambda: desk.IDLE,
}
desk.IDLE = float(sys.argv[2])
desk.main()
"""


def asked(notes: Path) -> list[str]:
    return [line.split()[0] for line in notes.read_text().splitlines()]


def prepare(monkeypatch: pytest.MonkeyPatch, notes: Path, idle: float = 60.0) -> None:
    notes.touch()
    monkeypatch.setattr(desk, "COMMAND", (sys.executable, "-c", ANSWERING, str(notes), str(idle)))


def test_a_question_that_its_process_does_not_survive_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepare(monkeypatch, tmp_path / "notes")

    async def run() -> None:
        made = Desk()
        assert await made.ask("home") == 60.0
        with pytest.raises(UnavailableError):
            await made.ask("crash")
        assert await made.ask("home") == 60.0  # by a new one
        made.close()

    asyncio.run(run())
    assert asked(tmp_path / "notes") == ["home", "crash", "home"]


def test_one_that_has_gone_home_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path / "notes", idle=0.5)

    async def run() -> None:
        made = Desk()
        for _ in range(2):
            assert await made.ask("home") == 0.5
            await asyncio.sleep(1)
        made.close()

    asyncio.run(run())
    assert len({line.split()[1] for line in (tmp_path / "notes").read_text().splitlines()}) == 2


@pytest.mark.parametrize("alone", [False, True])
def test_closing_ends_what_is_being_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, alone: bool) -> None:
    notes = tmp_path / "notes"
    prepare(monkeypatch, notes)

    async def run() -> float:
        made = Desk()
        ask = made.ask_alone if alone else made.ask
        asking = asyncio.create_task(ask("sleep", seconds=60))
        while not asked(notes):
            await asyncio.sleep(0.05)
        begun = time.monotonic()
        made.close()
        with pytest.raises(UnavailableError):
            await asking
        return time.monotonic() - begun

    assert asyncio.run(run()) < 10
    assert asked(notes) == ["sleep"]


def test_it_ends_with_who_asked(tmp_path: Path) -> None:
    """kill -9 in the middle of an answer."""
    notes = tmp_path / "notes"
    notes.touch()
    code = f"""
import asyncio, sys
from kartina.services import desk
desk.COMMAND = (sys.executable, "-c", {ANSWERING!r}, {str(notes)!r}, "60")
asyncio.run(desk.Desk().ask_alone("sleep", seconds=60))
"""
    asking = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not asked(notes):
            assert asking.poll() is None
            time.sleep(0.05)
        pid = int(notes.read_text().split()[1])
        assert psutil.pid_exists(pid)
    finally:
        asking.kill()
        asking.wait()
    until = time.monotonic() + 10
    while psutil.pid_exists(pid):
        assert time.monotonic() < until
        time.sleep(0.1)
