"""Logs: JSON, or lines for a person on a terminal; the request's id in every line; nothing on stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from kartina import logs
from kartina.jobs.table import Jobs
from kartina.settings import load

SCRIPT = """
import logging, structlog
from kartina import logs
from kartina.settings import load
logs.configure(load())
with structlog.contextvars.bound_contextvars(request_id="r1"):
    structlog.get_logger().info("hello", name="кот")
    logging.getLogger("library").warning("from a library")
logging.getLogger("library").info("chatter")
structlog.get_logger().debug("detail")
try:
    1 / 0
except ZeroDivisionError as error:
    structlog.get_logger().error("broken", exc_info=error)
"""


def told(**settings: str) -> list[str]:
    """What the script writes on a terminal."""
    main, terminal = os.openpty()
    done = subprocess.run([sys.executable, "-c", SCRIPT], stderr=terminal, stdout=subprocess.PIPE, check=True,
                          env={**os.environ, **settings})  # fmt: skip
    assert done.stdout == b""
    text = os.read(main, 65536).decode()
    os.close(terminal)
    os.close(main)
    return text.splitlines()


def test_lines_for_a_person_on_a_terminal_and_json_elsewhere() -> None:
    lines = told()
    assert "hello" in lines[0] and "r1" in lines[0] and not lines[0].startswith("{")
    assert any("ZeroDivisionError" in line for line in lines)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in found] == ["hello", "from a library", "broken"]
    assert found[0] | {"timestamp": ""} == {
        "event": "hello", "name": "кот", "request_id": "r1", "level": "info", "timestamp": ""
    }  # fmt: skip
    assert found[1]["request_id"] == "r1" and "ZeroDivisionError" in found[2]["exception"]
    found = [json.loads(line) for line in told(KARTINA_LOG_FORMAT="json", KARTINA_LOG_LEVEL="error")]
    assert [line["event"] for line in found] == ["broken"]


def test_a_job_is_logged_under_the_request_that_started_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(load())
    jobs = Jobs.open()
    with structlog.contextvars.bound_contextvars(request_id="r2"):
        job = jobs.submit("none", {})
    jobs.submit("none", {})  # by the command line, whose output is its own
    said = capsys.readouterr()
    (line,) = [json.loads(line) for line in said.err.splitlines() if "job_accepted" in line]
    assert (line["job"], line["request_id"], said.out) == (job.id, "r2", "")
    jobs.database.close()
