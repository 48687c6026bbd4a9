"""Blobs: kept once, as long as somebody refers to them; in a folder and in a bucket."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import obstore
import pytest
import sqlalchemy as sa
from obstore.store import LocalStore, S3Store

from kartina.errors import ConfigError, IntegrityError, NotFoundError, StorageError
from kartina.storage.blobs import Blobs, open_store
from kartina.storage.database import Database
from kartina.storage.tables import blobs as table

SERVE = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of an S3 server of our own, with a bucket in it."""
    server = subprocess.Popen([sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    where = f"http://127.0.0.1:{int(server.stdout.readline())}"
    httpx.put(f"{where}/blobs", trust_env=False).raise_for_status()
    yield where
    server.communicate("")
    assert server.returncode == 0


@pytest.fixture(params=["folder", "bucket"])
def blobs(request: pytest.FixtureRequest, database: Database, home: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    if request.param == "bucket":
        keys = {"ENDPOINT": request.getfixturevalue("bucket"), "ALLOW_HTTP": "true", "ACCESS_KEY_ID": "a",
                "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}  # fmt: skip
        for key, value in keys.items():
            monkeypatch.setenv(f"AWS_{key}", value)
        monkeypatch.setenv("KARTINA_BLOBS", f"s3://blobs/{request.node.name.replace('[', '-').replace(']', '')}")
    store = open_store()
    assert isinstance(store, LocalStore if request.param == "folder" else S3Store)
    return Blobs(database, store)


def stored(blobs: Blobs) -> list[str]:
    return [meta["path"] for page in obstore.list(blobs.store) for meta in page]


def test_the_same_bytes_are_kept_once_and_as_long_as_one_owner_is_left(blobs: Blobs, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "file").write_bytes(content)
    assert blobs.add("anna", content) == blobs.add("boris", tmp_path / "file") == blobs.add("anna", content) == digest
    assert blobs.owners(digest) == ["anna", "boris"] and stored(blobs) == [f"{digest[:2]}/{digest}"]

    blobs.release("anna")
    assert blobs.collect(delay=0) == 0
    assert blobs.read(digest) == content and blobs.owners(digest) == ["boris"]
    blobs.release("boris", digest)
    blobs.release("boris", digest)  # twice is once
    assert blobs.collect() == 0 and blobs.read(digest) == content, "its last reference has just gone"
    assert blobs.collect(delay=0) == 1
    assert stored(blobs) == []
    with pytest.raises(NotFoundError):
        blobs.read(digest)


def test_a_blob_that_is_taken_up_again_in_time_stays(blobs: Blobs) -> None:
    digest = blobs.add("anna", b"x")
    blobs.release("anna")
    time.sleep(0.3)
    blobs.add("boris", b"x")
    assert blobs.collect(delay=0.1) == 0
    blobs.release("boris")
    assert blobs.collect(delay=0.2) == 0, "the time counts from the last release"
    assert blobs.read(digest) == b"x"


def test_only_old_ones_go(blobs: Blobs) -> None:
    kept, gone = blobs.add("anna", b"kept"), blobs.add("boris", b"gone")
    blobs.release("boris")
    assert blobs.collect(delay=0) == 1 and stored(blobs) == [f"{kept[:2]}/{kept}"] and gone != kept


def test_changed_and_missing_bytes_are_found(blobs: Blobs) -> None:
    digest = blobs.add("anna", b"true")
    path = f"{digest[:2]}/{digest}"
    obstore.put(blobs.store, path, b"lies")
    with pytest.raises(IntegrityError, match="changed"):
        blobs.read(digest)
    obstore.delete(blobs.store, path)
    with pytest.raises(IntegrityError, match="missing"):
        blobs.read(digest)
    blobs.add("anna", b"true")
    assert blobs.read(digest) == b"true", "adding it again mends it"


def test_a_reference_without_its_bytes_is_no_blob_yet(blobs: Blobs) -> None:
    """A kill between the reference and the upload."""
    digest = hashlib.sha256(b"late").hexdigest()
    with blobs.database.write() as c:
        c.execute(table.insert().values(hash=digest, size=4, stored=False))
    with pytest.raises(NotFoundError):
        blobs.read(digest)
    assert blobs.add("anna", b"late") == digest and blobs.read(digest) == b"late"


def test_adding_against_releasing_and_collecting(blobs: Blobs) -> None:
    """Whoever has a reference can read, whatever others release and a collector removes meanwhile."""
    stop, met = threading.Event(), threading.Event()

    def collect() -> None:
        while not stop.is_set():
            if blobs.collect(delay=0):
                met.set()

    def use(owner: int) -> None:
        deadline = time.monotonic() + 60
        for i in itertools.count():
            if (i >= 12 and met.is_set()) or time.monotonic() > deadline:
                return
            digest = blobs.add(f"owner{owner}", content := b"%d" % (i % 3))
            assert blobs.read(digest) == content
            blobs.release(f"owner{owner}", digest)

    with ThreadPoolExecutor(5) as threads:
        collector = threads.submit(collect)
        try:
            list(threads.map(use, range(3)))
        finally:
            stop.set()
        collector.result()
        blobs.collect(delay=0)
    assert met.is_set()
    assert stored(blobs) == []
    with blobs.database.read() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0


def test_a_store_that_cannot_be_used_is_an_error_in_words(home: Path, database: Database) -> None:
    with pytest.raises(ConfigError, match="KARTINA_BLOBS"):
        open_store("gopher://blobs")
    blobs = Blobs(database, open_store())
    (home / "blobs").rmdir()
    (home / "blobs").write_text("not a folder")
    with pytest.raises(StorageError, match="blob"):
        blobs.add("anna", b"x")
    assert os.listdir(home) == ["blobs"]
