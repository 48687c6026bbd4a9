"""A thousand readers of events, one of them stalled; and bytes that are no HTTP."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
import time
from pathlib import Path

import pytest

from tests.service import Service


async def read_events(service: Service, id: str, stall: bool = False) -> list[tuple[str, str]]:
    """(event, status) of a stream, to its end; a stalled reader never reads."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=2**20)
    head = f"GET /v1/generations/{id}/events HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n"
    writer.write(f"{head}Authorization: Bearer {service.token}\r\nConnection: close\r\n\r\n".encode())
    try:
        if stall:
            await asyncio.sleep(3600)
        text = (await reader.read(-1)).decode()
    finally:
        writer.close()
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in block.splitlines() if ": " in line)
        if "event" in fields and "data" in fields:
            data = json.loads(fields["data"])
            found.append((fields["event"], data.get("job", {}).get("status", "")))
    return found


async def crowd(service: Service, n: int) -> None:
    """n readers of one generation, one of which takes nothing: the others and other callers see no delay."""
    job = service.generate(wait=None, n=2, controls={"steps": 60, "delay": 0.1})
    stalled = asyncio.create_task(read_events(service, job["id"], stall=True))
    readers = [asyncio.create_task(read_events(service, job["id"])) for _ in range(n)]
    await asyncio.sleep(0.5)
    waits = []
    while not all(reader.done() for reader in readers):
        start = time.perf_counter()
        await asyncio.to_thread(lambda: service.client.get("/healthz").raise_for_status())
        waits.append(time.perf_counter() - start)
        await asyncio.sleep(0.1)
    for found in await asyncio.gather(*readers):
        statuses = [status for event, status in found if event == "status"]
        assert (statuses[-1] == "succeeded" and len(statuses) >= 2) or statuses == ["succeeded"]
        assert sum(event == "output" for event, _ in found) in (0, 2)
    assert not stalled.done()
    stalled.cancel()
    waits.sort()
    print(f"\n{n} streams: another request p50 {waits[len(waits) // 2] * 1e3:.0f} ms, worst {waits[-1] * 1e3:.0f} ms")


def test_a_hundred_streams(service: Service) -> None:
    asyncio.run(crowd(service, 100))


@pytest.mark.slow
def test_a_thousand_streams(service: Service) -> None:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files[0] < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, files[1]), files[1]))
    asyncio.run(crowd(service, 1000))


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
