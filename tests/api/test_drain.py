"""Promise 8: SIGTERM under load. Not ready within a second, nothing truncated, nothing lost, all over within 30 s."""

from __future__ import annotations

import io
import json
import signal
import socket
import threading
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from kartina.config import ImageSpec
from kartina.data.digits import import_digits
from kartina.jobs.table import Jobs
from tests.engine import toy_package, toys  # noqa: F401  a fixture
from tests.service import Event, Service, gone

LARGE = ImageSpec(height=192, width=192, channels=3, classes=("cat", "dog", "кот"))
STREAMS, QUEUED, IN_ZIP = 8, 12, 48
EVERY = 65_536  # bytes of the download at a time


class Download:
    """A reader of a ZIP that waits in the middle, over a raw socket."""

    def __init__(self, service: Service, path: str):
        self.go_on, self.begun = threading.Event(), threading.Event()
        self.content = b""
        self.ended = False  # by the chunk of length 0: whole
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)  # so that the server has to wait for the reader
        sock.connect(("127.0.0.1", service.port))
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\nAuthorization: Bearer {service.token}\r\n\r\n"
        sock.sendall(head.encode())
        self.thread = threading.Thread(target=self._read, args=(sock,))
        self.thread.start()

    def _read(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file:
            while file.readline().strip():
                pass
            while size := int(file.readline() or b"-1", 16):
                if size < 0:
                    return
                self.content += file.read(size)
                file.readline()
                self.begun.set()
                if len(self.content) > EVERY and not self.go_on.is_set():
                    self.go_on.wait(60)
            self.ended = True


def not_ready(service: Service, since: float, found: list[float]) -> None:
    """Note when new callers are first turned away."""
    while True:
        try:
            if httpx.get(f"{service.url}/readyz", timeout=5, trust_env=False).status_code == 503:
                break
        except httpx.TransportError:
            break
        time.sleep(0.02)
    found.append(time.monotonic() - since)


def test_sigterm_under_load(toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    home = tmp_path / "home"
    monkeypatch.setenv("KARTINA_HOME", str(home))
    toy_package(home / "models")
    toy_package(home / "models", "large", spec=LARGE)
    import_digits()
    jobs = Jobs.open()
    service = Service(home)

    # The load: a training, generations, streams, a download.
    job = jobs.submit("train", {"preset": "vae-32-cpu", "data": "digits", "images": 10_000_000, "device": "cpu"})
    pictures = service.generate(wait=60, model="large", n=IN_ZIP, controls={"steps": 1})
    assert pictures["status"] == "succeeded"
    slow = [0.0, *[0.02] * (QUEUED - 1)]  # seconds a step, which all of a batch take; alone, the first is soon made
    asked = [service.generate(wait=None, n=4, seed=i, controls={"steps": 500, "delay": s}) for i, s in enumerate(slow)]
    told: list[list[Event]] = [[] for _ in range(STREAMS)]
    readers = [
        threading.Thread(target=lambda i=i: told[i].extend(service.events(asked[i % 4]["id"])))  # type: ignore[misc]
        for i in range(STREAMS)
    ]
    waits: list[httpx.Response] = []
    body, headers = {"model": "toy", "controls": {"steps": 900, "delay": 0.05}}, {"Prefer": "wait=60"}
    readers.append(
        threading.Thread(
            target=lambda: waits.append(service.client.post("/v1/generations", json=body, headers=headers))
        )
    )
    for reader in readers:
        reader.start()
    download = Download(service, f"/v1/generations/{pictures['id']}/images.zip")
    assert download.begun.wait(30)
    deadline = time.monotonic() + 120
    while not (jobs.get(job.id).progress.step and all(told)):
        assert time.monotonic() < deadline, jobs.get(job.id)
        time.sleep(0.1)
    trained = jobs.get(job.id).progress.step

    start = time.monotonic()
    away: list[float] = []
    watcher = threading.Thread(target=not_ready, args=(service, start, away))
    service.process.send_signal(signal.SIGTERM)
    watcher.start()
    watcher.join(30)
    assert away[0] < 1.0
    for reader in readers:
        reader.join(30)
    streams = time.monotonic() - start
    assert streams < 5
    for events in told:
        assert [event.event for event in events][-1] == "reconnect"
    assert waits[0].status_code == 202 and waits[0].json()["status"] in ("queued", "running")
    time.sleep(1.0)
    assert service.process.poll() is None  # it waits for the download
    in_flight = len(download.content)
    download.go_on.set()
    download.thread.join(30)
    assert download.ended and in_flight < len(download.content)
    with zipfile.ZipFile(io.BytesIO(download.content)) as archive:
        assert len(archive.namelist()) == IN_ZIP and archive.testzip() is None
    assert service.process.wait(30) == 0
    whole = time.monotonic() - start
    assert whole < 30

    # Nothing is lost: the job is in the queue with what it has saved, the generations end with the next service.
    given_back = jobs.get(job.id)
    assert given_back.status == "queued" and given_back.owner is None
    jobs.cancel(job.id)
    service.stop()
    again = Service(home, "--no-jobs")
    ids = [*(one["id"] for one in asked), waits[0].json()["id"]]
    states = [again.client.get(f"/v1/generations/{id}").json()["status"] for id in ids]
    assert set(states) <= {"queued", "running", "succeeded"}
    for id in ids[1:]:
        again.client.post(f"/v1/generations/{id}/cancel")
    ended = list(again.events(ids[0]))[-1].data["job"]
    assert ended["status"] == "succeeded" and [out["index"] for out in ended["outputs"]] == list(range(4))
    run = json.loads((next((home / "runs").iterdir()) / "status.json").read_text())
    assert run["images"] >= trained > 0  # what it had done, it has kept
    print(
        f"\nnot ready after {away[0] * 1e3:.0f} ms; {STREAMS} streams and a wait ended after {streams:.1f} s; a ZIP of "
        f"{len(download.content) / 1e6:.1f} MB came whole, {in_flight / 1e6:.1f} MB before SIGTERM; all over after "
        f"{whole:.1f} s; {states.count('succeeded')} of {len(ids)} generations made, the others and a training of "
        f"{run['images']:,} images go on"
    )
    assert again.stop() == 0


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(toys: None, tmp_path: Path) -> None:  # noqa: F811
    home = tmp_path / "home"
    toy_package(home / "models")
    service = Service(home, "--no-jobs")
    children = service.children()
    job = service.generate(wait=None, n=1, controls={"steps": 900, "delay": 0.05})
    with socket.create_connection(("127.0.0.1", service.port)) as sock:  # a request that does not come to its end
        sock.sendall(
            f"POST /v1/generations HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\nAuthorization: Bearer {service.token}"
            '\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"model":'.encode()
        )
        time.sleep(0.3)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert service.process.poll() is None  # it waits
        start = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(5) == 128 + signal.SIGINT
        assert time.monotonic() - start < 1.0
    assert all(gone(pid) for pid in children)  # one that still loads torch ends then
    service.stop()
    again = Service(home, "--no-jobs")
    assert again.client.get(f"/v1/generations/{job['id']}").json()["status"] in ("queued", "running")
    assert again.stop() == 0
