"""`kartina serve` as a process, for tests of the API."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

SERVE = "import typer; from kartina.cli.serve import serve; typer.run(serve)"


@dataclass
class Event:
    id: int
    event: str
    data: Any


def parse(answer: httpx.Response) -> Iterator[Event]:
    """The server-sent events of a stream, until it ends."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            key, _, value = line.partition(": ")
            fields[key] = value
        elif "event" in fields:
            yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}


class Service:
    """A running service; `client` is signed in with the token."""

    def __init__(
        self,
        home: Path,
        *options: str,
        database: str | None = None,
        settings: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ):
        self.home = home
        self.database = database
        command = [*prefix, sys.executable, "-c", SERVE, "--no-open", "--device", "cpu", "--threads", "1"]
        command += ["--runtime", "eager", *([] if "--ready" in options else ["--ready", "0"]), *options]
        if "--port" not in options:
            command += ["--port", "0"]
        self.log = open(home.parent / f"{home.name}-{time.monotonic_ns()}.log", "w+")  # noqa: SIM115  closed in stop
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("KARTINA_")},
                "KARTINA_HOME": str(home),
                **({} if database is None else {"KARTINA_DATABASE": database}),
                **(settings or {}),
            },
        )
        assert self.process.stdout is not None
        self.greeting = self.process.stdout.readline()
        found = re.search(r"(http://\S+:(\d+))/\?token=(\S+)", self.greeting)
        assert found, (self.greeting, self.errors())
        self.url, self.port, self.token = found[1], int(found[2]), found[3]
        headers = {"Authorization": f"Bearer {self.token}"}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def errors(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def wait_ready(self, seconds: float = 60) -> None:
        """Until the sampling worker answers."""
        deadline = time.monotonic() + seconds
        while self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, self.errors()[-2000:]
            time.sleep(0.1)

    def anonymous(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def bearer(self, *scopes: str, **more: Any) -> httpx.Client:
        """A client with a new API key of these scopes."""
        body = {"name": "test", "scopes": list(scopes), "rate": "100000/minute", **more}
        answer = self.client.post("/v1/keys", json=body)
        assert answer.status_code == 201, answer.text
        headers = {"Authorization": f"Bearer {answer.json()['secret']}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def children(self) -> list[int]:
        """Process ids of the service's children: its worker."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def generate(self, wait: int | None = 30, **body: Any) -> Any:
        headers = {"Prefer": f"wait={wait}"} if wait is not None else {}
        answer = self.client.post("/v1/generations", json={"model": "toy", **body}, headers=headers)
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def events(self, id: str, **headers: str) -> Iterator[Event]:
        """The generation's server-sent events, until the stream ends."""
        yield from self.stream(self.client, f"/v1/generations/{id}/events", **headers)

    @staticmethod
    def stream(client: httpx.Client, url: str, **headers: str) -> Iterator[Event]:
        """The server-sent events at a URL, until the stream ends."""
        with client.stream("GET", url, headers={k.replace("_", "-"): v for k, v in headers.items()}) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield from parse(answer)

    @contextmanager
    def environment(self) -> Iterator[None]:
        """This process's environment as the service's: what is opened here is what the service has open."""
        set = {"KARTINA_HOME": str(self.home), "KARTINA_DATABASE": self.database or ""}
        before = {name: os.environ.get(name) for name in set}
        os.environ.update(set)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self.client.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code


def gone(pid: int, seconds: float = 60) -> bool:
    """Whether the process ends within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False
