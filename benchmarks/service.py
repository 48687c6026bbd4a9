"""`kartina serve` in a process of its own, and a client of it that costs little, for benchmarks of the service."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FRESH = 2.0  # seconds that a connection is kept; the service closes what was idle for five


class Served:
    """A running service on a KARTINA_HOME; `greeted` are the seconds until it answered."""

    def __init__(self, home: Path, *options: str):
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "kartina.cli", "serve", "--no-open", "--port", "0", "--no-jobs", *options]
        self.log = (home / "service.log").open("a")
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, env={**os.environ, "KARTINA_HOME": str(home)}
        )
        assert self.process.stdout is not None
        greeting = self.process.stdout.readline()
        self.greeted = time.perf_counter() - self.begun
        found = re.search(r"http://\S+:(\d+)/\?token=(\S+)", greeting)
        if found is None:
            raise RuntimeError(f"Found no greeting but {greeting!r}; {self.log.name} says why.")
        self.port, self.token = int(found[1]), found[2]

    @property
    def worker(self) -> int:
        """The process id of the sampling worker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return next(int(pid) for pid in children if b"kartina.serving.worker" in _command(int(pid)))

    @property
    def socket(self) -> str:
        """The worker's own."""
        words = _command(self.worker).split(b"\0")
        return words[words.index(b"--socket") + 1].decode()

    def memory(self) -> tuple[float, float]:
        """MiB of memory in use by the API process and by the worker."""
        return resident(self.process.pid), resident(self.worker)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def resident(pid: int) -> float:
    """MiB of a process in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Plain HTTP/1.1 over connections that are kept; as many as there are requests at a time."""

    def __init__(self, service: Served):
        self.port, self.token = service.port, service.token
        self._idle: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []  # and since when

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request (body as JSON) and read all of the answer."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Authorization: Bearer {self.token}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None or method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        reader, writer = await self._connection()
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {k.lower(): v for k, _, v in (line.partition(": ") for line in head[1:] if line)}
        answer = Answer(int(head[0].split()[1]), found, await reader.readexactly(int(found.get("content-length", 0))))
        self._idle.append((time.monotonic(), reader, writer))
        return answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            since, reader, writer = self._idle.pop()
            if time.monotonic() - since < FRESH:
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def generate(self, **body: Any) -> Any:
        """Images by a request that waits for its job; the job."""
        answer = await self.ask("POST", "/v1/generations", body, Prefer="wait=60")
        if answer.status != 200 or answer.json["status"] != "succeeded":
            raise RuntimeError(f"Found {answer.status}: {answer.body[:500]!r}")
        return answer.json

    async def picture(self, **body: Any) -> bytes:
        """The PNG of one image."""
        answer = await self.ask("POST", "/v1/generations", body, Accept="image/png")
        if answer.status != 200:
            raise RuntimeError(f"Found {answer.status}: {answer.body[:500]!r}")
        return answer.body

    def close(self) -> None:
        for _, _, writer in self._idle:
            writer.close()


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that `share` of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
