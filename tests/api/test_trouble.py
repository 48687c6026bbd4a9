"""Promise 12: a full disk, a folder that cannot be written, a locked database: a clear error, nothing corrupted, and
the service goes on when the trouble is over."""

from __future__ import annotations

import io
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.engine import toy_package, toys  # noqa: F401  a fixture
from tests.service import Event, Service, parse

CALM = {"Prefer": "wait=60"}


@pytest.fixture(scope="module")
def service(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # noqa: F811
    """A service that waits a second, not thirty, for a locked database."""
    home = tmp_path_factory.mktemp("service") / "home"
    toy_package(home / "models")
    running = Service(home, "--no-jobs", settings={"KARTINA_BUSY": "1"})
    yield running
    running.stop()


def picture(colour: str) -> dict[str, bytes]:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(out, "PNG")
    return {"file": out.getvalue()}


class Kept:
    """What a caller has before the trouble, and must have after it."""

    def __init__(self, service: Service):
        self.service, self.client = service, service.bearer("generate")
        assert self.ask(1)["status"] == "succeeded"
        self.images = self.read()
        assert self.images

    def ask(self, seed: int) -> Any:
        answer = self.client.post("/v1/generations", json={"model": "toy", "n": 3, "seed": seed}, headers=CALM)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def read(self) -> dict[str, bytes]:
        listed = self.client.get("/v1/images")
        assert listed.status_code == 200, listed.text
        found = {image["id"]: self.client.get(f"/v1/images/{image['id']}") for image in listed.json()["items"]}
        assert all(answer.status_code == 200 for answer in found.values())
        return {id: answer.content for id, answer in found.items()}

    def refused(self, answer: httpx.Response, status: int, code: str) -> str:
        """It is an error in words, and what was there can be read."""
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        said = answer.json()
        assert said["code"] == code and int(answer.headers["retry-after"]) > 0
        assert self.read() == self.images
        assert self.client.get("/healthz").status_code == 200
        return str(said["detail"])

    def over(self, database: Path, seed: int) -> None:
        """The trouble is over: everything works, and nothing was lost or damaged."""
        assert self.client.get("/readyz").status_code == 200
        assert self.ask(seed)["status"] == "succeeded"
        assert self.client.post("/v1/assets", files=picture(f"#0000{seed:02x}")).status_code == 201
        now = self.read()
        assert now.items() >= self.images.items()
        # A copy: SQLite resolves the links of /proc, and would look outside the service's file system.
        with TemporaryDirectory() as folder, closing(sqlite3.connect(Path(folder, database.name))) as c:
            for path in (database, database.with_name(f"{database.name}-wal")):
                shutil.copyfile(path, Path(folder, path.name))
            assert c.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            stored = "SELECT count(*) FROM images WHERE hash NOT IN (SELECT hash FROM blobs WHERE stored)"
            assert c.execute(stored).fetchone() == (0,)
        self.client.close()


def test_a_locked_database(service: Service) -> None:
    kept = Kept(service)
    with closing(sqlite3.connect(service.home / "kartina.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = kept.client.post("/v1/generations", json={"model": "toy", "seed": 2})
        assert "locked" in kept.refused(answer, 503, "storage_away")
        kept.refused(kept.client.post("/v1/assets", files=picture("red")), 503, "storage_away")
        kept.refused(kept.client.delete(f"/v1/images/{next(iter(kept.images))}"), 503, "storage_away")
        assert kept.client.get("/readyz").status_code == 200  # readers never wait
        other.execute("ROLLBACK")
    kept.over(service.home / "kartina.db", 3)


def test_no_file_may_grow(service: Service) -> None:
    """As by a quota: a limit of the kernel on the size of what the service writes, its log included."""
    kept = Kept(service)
    pid = service.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        kept.refused(kept.client.post("/v1/generations", json={"model": "toy", "seed": 12}), 507, "storage")
        kept.refused(kept.client.post("/v1/assets", files=picture("blue")), 507, "storage")
        kept.refused(service.client.post("/v1/keys", json={"name": "late"}), 507, "storage")
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    assert [key["name"] for key in service.client.get("/v1/keys").json()["items"]].count("late") == 0
    kept.over(service.home / "kartina.db", 13)


# A file system of its own (a tmpfs of 12 MiB in a mount namespace), and no right to write what permissions forbid.
PLACE = """
mount -t tmpfs -o size=12m,mode=0755 kartina "$1" && cp -r "$2" "$1/models" && shift 2 &&
exec setpriv --bounding-set=-dac_override,-dac_read_search -- "$@"
"""


@pytest.fixture(scope="module")
def small(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:  # noqa: F811
    """A service on a small disk, and where that disk is seen from here."""
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("util-linux's unshare and setpriv are not installed")
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    root = tmp_path_factory.mktemp("small")
    home, models = root / "home", root / "models"
    home.mkdir()
    toy_package(models)
    prefix = [*namespace, "sh", "-c", PLACE, "sh", str(home), str(models)]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no file system can be mounted here: {tried.stderr.strip()}")
    running = Service(home, "--no-jobs", prefix=prefix)
    yield running, Path(f"/proc/{running.process.pid}/root{home}")
    running.stop()


def fill(folder: Path) -> Path:
    """Write until the disk is full."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        size = 2**16
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return filler


def test_a_full_disk(small: tuple[Service, Path]) -> None:
    service, disk = small
    kept = Kept(service)
    slow = {"model": "toy", "n": 2, "seed": 21, "controls": {"steps": 40, "delay": 0.05}}
    under_way = kept.client.post("/v1/generations", json=slow).json()
    filler = fill(disk)
    said = kept.refused(
        kept.client.post("/v1/generations", json={"model": "toy", "n": 200, "seed": 22}, headers=CALM), 507, "storage"
    )
    assert "full" in said or "No space" in said or "I/O" in said
    kept.refused(kept.client.post("/v1/assets", files=picture("green")), 507, "storage")
    ended = [event.data["job"] for event in _events(kept, under_way["id"]) if event.event == "status"][-1]
    assert ended["status"] == "failed" and ended["error"]["code"] == "storage"
    filler.unlink()
    kept.over(disk / "kartina.db", 23)


def test_a_folder_that_cannot_be_written(small: tuple[Service, Path]) -> None:
    service, disk = small
    kept = Kept(service)
    folders = [disk, disk / "blobs", *(path for path in (disk / "blobs").iterdir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        job = kept.client.post("/v1/generations", json={"model": "toy", "seed": 31}, headers=CALM).json()
        assert job["status"] == "failed" and job["error"]["code"] == "storage"
        assert "ermission" in job["error"]["detail"]
        kept.refused(kept.client.post("/v1/assets", files=picture("yellow")), 507, "storage")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    kept.over(disk / "kartina.db", 33)


def _events(kept: Kept, id: str) -> list[Event]:
    with kept.client.stream("GET", f"/v1/generations/{id}/events") as answer:
        return list(parse(answer))


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip("util-linux's setpriv is not installed")
    command = [*drop, sys.executable, "-m", "kartina.cli", "serve", "--no-open", "--port", "0"]
    done = subprocess.run(command, env={**os.environ, "KARTINA_HOME": str(home)}, capture_output=True, text=True,
                          timeout=120)  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("Error:") == 1 and "Traceback" not in done.stderr
    assert "permission is denied" in done.stderr.replace("\n", " ")
    assert not list(home.iterdir())
