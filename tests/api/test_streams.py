"""A thousand readers of events, one of them stalled; and bytes that are no HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from kartina.config import ImageSpec
from tests.engine import toy_package
from tests.service import Service

LARGE = ImageSpec(height=64, width=64, channels=3, classes=("cat", "dog", "bird"))  # previews fill a socket's buffer


@pytest.fixture(scope="module")
def service(alone: Service) -> Service:
    return alone


@dataclass
class Told:
    id: int
    event: str
    status: str
    outputs: int  # that a status tells of
    at: float  # when it arrived


async def read_events(service: Service, id: str, previews: bool = False) -> list[Told]:
    """The events of a stream, to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=2**20)
    writer.write(request(service, f"{id}/events?previews={str(previews).lower()}"))
    found, fields = list[Told](), dict[str, str]()
    try:
        while line := (await reader.readline()).decode():
            key, _, value = line.strip().partition(": ")
            fields[key] = value
            if not line.strip() and "event" in fields and "data" in fields:
                job = json.loads(fields["data"]).get("job", {"status": "", "outputs": []})
                told = job["status"], len(job["outputs"])
                found.append(Told(int(fields["id"]), fields["event"], *told, time.perf_counter()))
                fields = {}
    finally:
        writer.close()
    return found


def request(service: Service, what: str) -> bytes:
    head = f"GET /v1/generations/{what} HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n"
    return f"{head}Authorization: Bearer {service.token}\r\nConnection: close\r\n\r\n".encode()


@contextmanager
def stalled(service: Service, id: str) -> Iterator[Callable[[], int]]:
    """A reader with previews that takes nothing; yields how many bytes wait for it at the service."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", service.port))
        sock.sendall(request(service, f"{id}/events?previews=true"))
        ends = [f"0100007F:{port:04X}" for port in (service.port, sock.getsockname()[1])]

        def waiting() -> int:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            return next(int(row[4].split(":")[0], 16) for row in rows if row[1:3] == ends)

        yield waiting


async def crowd(service: Service, n: int, stall: bool) -> list[float]:
    """n readers of one generation, and one with previews that takes all of it, or nothing (`stall`): how many seconds
    after the first of them each reader was told of each event. Another caller is answered meanwhile."""
    if not (service.home / "models" / "large").exists():
        toy_package(service.home / "models", "large", spec=LARGE)
    steps = 100 if n > 100 else 40  # of 0.1 s, two evaluations each
    job = service.generate(wait=None, model="large", n=16, controls={"steps": steps, "delay": 0.1})
    with stalled(service, job["id"]) if stall else nullcontext(lambda: 0) as waiting:
        readers = [asyncio.create_task(read_events(service, job["id"])) for _ in range(n)]
        readers += [] if stall else [asyncio.create_task(read_events(service, job["id"], previews=True))]
        await asyncio.sleep(0.5)
        waits, most = list[float](), 0
        while not all(reader.done() for reader in readers):
            start = time.perf_counter()
            await asyncio.to_thread(lambda: service.client.get("/healthz").raise_for_status())
            waits.append(time.perf_counter() - start)
            most = max(most, waiting())
            await asyncio.sleep(0.1)
    told = (await asyncio.gather(*readers))[:n]
    for found in told:
        statuses = [one.status for one in found if one.event == "status"]
        assert (statuses[-1] == "succeeded" and len(statuses) >= 2) or statuses == ["succeeded"]
        told_of = [one for one in found if one.event == "status"]
        made = sum(one.event == "output" for one in found)
        assert told_of[-1].outputs == 16 == told_of[0].outputs + made  # a late reader's snapshot has some
    assert not stall or most > 100_000, "the stalled one was not"
    first = dict[int, float]()
    for one in (one for found in told for one in found):
        first[one.id] = min(one.at, first.get(one.id, one.at))
    late = sorted(one.at - first[one.id] for found in told for one in found[1:])  # the first is a snapshot
    waits.sort()
    shown = [f"{found[int(share * len(found))] * 1e3:.0f}" for found in (late, waits) for share in (0.5, 0.99)]
    print(
        f"\n{n} streams, {f'one stalled with {most:,} bytes waiting' if stall else 'none stalled'}: an event after its "
        f"first reader p50 {shown[0]} ms, p99 {shown[1]} ms; another request p50 {shown[2]} ms, p99 {shown[3]} ms"
    )
    return late


def test_a_hundred_streams_and_one_that_stalls(service: Service) -> None:
    """Nobody waits for the one that takes nothing: it would be for as long as the generation takes, eight seconds."""
    late = asyncio.run(crowd(service, 100, stall=True))
    assert late[int(0.99 * len(late))] < 2.0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_streams_are_not_delayed_by_one_that_stalls(service: Service) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files[0] < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, files[1]), files[1]))
    free = asyncio.run(crowd(service, 1000, stall=False))
    late = asyncio.run(crowd(service, 1000, stall=True))
    for share, noise in ((0.5, 0.5), (0.99, 3.0)):  # seconds; the stalled one waits ten and more
        assert late[int(share * len(late))] < 2 * free[int(share * len(free))] + noise


GOOD = [
    b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n",
    b"POST /v1/generations HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
    b'Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{"model":"toy"}',
    b"POST /v1/assets HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 90\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n<svg/>\r\n--b--\r\n',
    b"GET /v1/images?label=%D0%BA&limit=3&cursor=x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    b"Cookie: kartina_session_{port}=1.local.2\r\n\r\n",
    b"POST /v1/session HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nTransfer-Encoding: chunked\r\n"
    b'Content-Type: application/json\r\n\r\nd\r\n{"token":"x"}\r\n0\r\n\r\n',
]


def broken(rng: random.Random, service: Service) -> bytes:
    """A request with wounds."""
    base = bytearray(
        rng.choice(GOOD).replace(b"{port}", str(service.port).encode()).replace(b"{token}", service.token.encode())
    )
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(base) or 1)
        match rng.randrange(5):
            case 0:
                base[at : at + 1] = rng.randbytes(1)
            case 1:
                base[at:at] = rng.choice([b"\0", b"\r\n", b"%00", b"\xff\xfe", b"A" * 5000, b"..%2f", b"{", b'"', b":"])
            case 2:
                del base[at : at + rng.randrange(1, 20)]
            case 3:
                base = base[:at] + base[at:] * 2
            case _:
                base = base[: at + 1]
    return bytes(base)


def fuzz(service: Service, cases: int) -> None:
    """Bytes thrown at the port: no answer is a 5xx, no process ends, nothing is logged as a crash."""
    rng = random.Random(cases)
    worker = service.children()
    for _ in range(cases):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as sock:
            sock.sendall(broken(rng, service))
            sock.shutdown(socket.SHUT_WR)
            try:
                answer = sock.recv(2**16)
            except ConnectionResetError:
                continue
        assert not answer.startswith(b"HTTP/1.1 5"), answer[:2000]
    assert service.client.get("/healthz").json() == {"status": "ok"}
    assert service.children() == worker
    crashed = [line for line in service.errors().splitlines() if "request_crashed" in line]
    assert not crashed, crashed[0][-900:]
    assert Path(f"/proc/{service.process.pid}").exists()


def test_a_thousand_broken_requests(service: Service) -> None:
    fuzz(service, 1000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_broken_requests(service: Service) -> None:
    fuzz(service, 100_000)
