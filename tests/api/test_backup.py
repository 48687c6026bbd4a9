"""Backups: taken under load, restored elsewhere, the same bytes; and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from kartina.errors import ConfigError, ConflictError, IntegrityError, StorageError
from kartina.services import backup as module
from kartina.services.backup import Manifest, backup, restore
from kartina.storage.blobs import Blobs, open_store
from kartina.storage.database import open_database
from kartina.storage.only import only_service
from kartina.storage.tables import blob_refs
from tests.databases import Postgres, postgres, url  # noqa: F401  fixtures
from tests.service import Service


def kartina(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("KARTINA_")}, "KARTINA_HOME": str(home)}
    command = [sys.executable, "-m", "kartina.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def gallery(service: Service, key: str) -> dict[str, bytes]:
    """Every image of the key's gallery, by id."""
    headers = {"Authorization": f"Bearer {key}"}
    found, cursor = {}, ""
    while cursor is not None:
        page = service.client.get(f"/v1/images?limit=100{cursor and f'&cursor={cursor}'}", headers=headers).json()
        for image in page["items"]:
            found[image["id"]] = service.client.get(f"/v1/images/{image['id']}", headers=headers).content
        cursor = page["next_cursor"]
    return found


def test_a_backup_under_load_serves_the_same_bytes_elsewhere(service: Service, tmp_path: Path) -> None:
    with service.bearer("generate") as robot:
        key = robot.headers["authorization"].partition(" ")[2]
        before = {"model": "toy", "n": 40, "seed": 1, "controls": {"steps": 2}}
        assert robot.post("/v1/generations", json=before, headers={"Prefer": "wait=60"}).json()["status"] == "succeeded"
        old = gallery(service, key)
        busy = threading.Event()

        def load() -> None:
            for seed in range(2, 500):
                if busy.is_set():
                    return
                more = {"model": "toy", "n": 8, "seed": seed * 100, "controls": {"steps": 2}}
                robot.post("/v1/generations", json=more, headers={"Prefer": "wait=30"})

        thread = threading.Thread(target=load)
        thread.start()
        try:
            target = tmp_path / "backup"
            done = kartina(service.home, "backup", target, "--secrets", "--runs", "--data", "--json")
        finally:
            busy.set()
            thread.join()
        assert done.returncode == 0, done.stderr
        new = gallery(service, key)
    said = json.loads(done.stdout)
    assert said["blobs"] >= 40 and said["parts"] == ["data", "models", "runs", "secrets"]
    manifest = Manifest.model_validate_json((target / "manifest.json").read_bytes())
    listed = {file.path for file in manifest.files}
    there = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert there == listed | {"manifest.json"} and {"keys.key", "database.sqlite"} <= listed
    assert (target / "keys.key").stat().st_mode & 0o077 == 0

    home = tmp_path / "elsewhere"
    restored = kartina(home, "restore", target)
    assert restored.returncode == 0, restored.stderr
    second = Service(home, "--no-jobs")
    try:
        found = gallery(second, key)  # the same key opens it
        assert set(old) <= set(found) and all(new[id] == content for id, content in found.items() if id in new)
        print(f"\n{len(old)} images before, {len(found)} in the backup, {len(new)} after it; {said['bytes']:,} bytes")
        job = second.client.post(
            "/v1/generations", json=before, headers={"Prefer": "wait=60", "Authorization": f"Bearer {key}"}
        ).json()
        assert job["status"] == "succeeded"  # and goes on working
        # A home in use, and one that is served, are left alone.
        refused = kartina(home, "restore", target)
        assert refused.returncode == 2 and "another service at work" in refused.stderr.replace("\n", " ")
    finally:
        second.stop()


@pytest.fixture
def made(home: Path, tmp_path: Path) -> Path:
    """A backup of a home with two blobs and a package's file."""
    store(b"one", b"two")
    (home / "models" / "m" / "1").mkdir(parents=True)
    (home / "models" / "m" / "1" / "model.json").write_text("{}")
    (home / "models" / "m" / ".making").mkdir()
    (home / "models" / "m" / ".making" / "x").write_text("unfinished")
    backup(tmp_path / "made")
    return tmp_path / "made"


def store(*contents: bytes) -> list[str]:
    database = open_database()
    try:
        return [Blobs(database, open_store()).add("job:1", content) for content in contents]
    finally:
        database.close()


def test_a_backup_that_is_not_whole_restores_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = (made / "manifest.json").read_text()
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "new"))
    blob = next(path for path in (made / "blobs").rglob("*") if path.is_file())
    content = blob.read_bytes()
    blob.write_bytes(content + b"!")
    with pytest.raises(IntegrityError, match="1 of 4 files"):
        restore(made)
    blob.unlink()
    with pytest.raises(IntegrityError) as caught:
        restore(made)
    assert blob.name in caught.value.details[0]
    blob.write_bytes(content)
    for old, new in (
        ("models/m/1/model.json", "models/../../evil"),
        ("models/m/1/model.json", "/etc/evil"),
        ("models/m/1/model.json", "kartina.db"),
        (f"{blob.parent.name}/{blob.name}", f"{blob.parent.name}/../{blob.name}"),
        ('"format": 1', '"format": 2'),
        ('"sha256": "', '"sha256": "zz'),
    ):
        assert old in manifest
        (made / "manifest.json").write_text(manifest.replace(old, new))
        with pytest.raises(IntegrityError):
            restore(made)
    (made / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match="kartina backup"):
        restore(made)
    assert [path.name for path in (tmp_path / "new").rglob("*")] in ([], ["service.lock"])
    (made / "manifest.json").write_text(manifest)
    restore(made)
    assert (tmp_path / "new" / "models" / "m" / "1" / "model.json").read_text() == "{}"
    assert not list((tmp_path / "new" / "models").rglob(".making"))


def test_what_is_refused(made: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConflictError, match="makes a folder of its own"):
        backup(made)
    with pytest.raises(ConflictError, match="empty KARTINA_HOME"):
        restore(made)
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "served"))
    with only_service(), pytest.raises(ConflictError, match="another service"):
        restore(made)
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "new"))
    monkeypatch.setenv("KARTINA_DATABASE", "postgresql://nobody@/none?host=/nowhere")
    with pytest.raises(ConfigError, match="a backup of SQLite"):
        restore(made)
    monkeypatch.delenv("KARTINA_DATABASE")
    monkeypatch.setenv("KARTINA_HOME", str(home))
    lost = next(path for path in (home / "blobs").rglob("*") if path.is_file())
    lost.write_bytes(b"changed")
    with pytest.raises(IntegrityError, match=lost.name[:12]):
        backup(tmp_path / "second")
    assert sorted(path.name for path in tmp_path.iterdir() if "second" in path.name) == []  # nothing partial


def test_a_database_that_the_backups_own_settings_name_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the live one, where the backup is restored beside it."""
    live = tmp_path / "live"
    live.mkdir()
    (live / "config.toml").write_text(f'database = "sqlite:///{tmp_path}/k.db"\nblobs = "file://{tmp_path}/blobs"\n')
    (tmp_path / "blobs").mkdir()
    monkeypatch.setenv("KARTINA_HOME", str(live))
    (one,) = store(b"one")
    backup(tmp_path / "made", ["models", "secrets"])
    (two,) = store(b"two")  # after it
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "new"))
    with pytest.raises(ConflictError, match="set KARTINA_DATABASE to another"):
        restore(tmp_path / "made")
    assert [path.name for path in (tmp_path / "new").rglob("*")] in ([], ["service.lock"])
    monkeypatch.setenv("KARTINA_HOME", str(live))
    assert owners(two) == ["job:1"]
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "new"))
    monkeypatch.setenv("KARTINA_DATABASE", f"sqlite:///{tmp_path}/second.db")
    (tmp_path / "blobs").rename(tmp_path / "old")
    (tmp_path / "blobs").mkdir()
    restore(tmp_path / "made")
    assert (tmp_path / "second.db").is_file() and owners(one) == ["job:1"] and owners(two) == []
    assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [one]  # where its file says
    monkeypatch.delenv("KARTINA_DATABASE")
    assert owners(two) == ["job:1"]


def owners(digest: str) -> list[str]:
    database = open_database()
    try:
        return Blobs(database, open_store()).owners(digest)
    finally:
        database.close()


@pytest.fixture
def pg_dump(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    """The program, which is on PATH."""
    if shutil.which("pg_dump") is None:
        monkeypatch.setenv("PATH", f"{postgres.binaries}{os.pathsep}{os.environ['PATH']}")
    found = shutil.which("pg_dump")
    assert found is not None
    return found


def test_a_blob_that_nobody_refers_to_is_not_waited_for(
    url: str,  # noqa: F811
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """The collector takes it at any time: here after it was listed and before it is copied, as far as one can tell."""
    if url.startswith("postgresql"):
        request.getfixturevalue("pg_dump")
    monkeypatch.setenv("KARTINA_DATABASE", url)
    kept, gone = store(b"kept", b"gone")
    release(gone)
    (home / "blobs" / gone[:2] / gone).unlink()
    assert backup(tmp_path / "made").blobs == 1
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "new"))
    if url.startswith("postgresql"):
        monkeypatch.setenv("KARTINA_DATABASE", request.getfixturevalue("postgres").fresh())
    else:
        monkeypatch.delenv("KARTINA_DATABASE")
    restore(tmp_path / "made")
    database = open_database()
    blobs = Blobs(database, open_store())
    assert blobs.read(kept) == b"kept"
    assert blobs.add("job:2", b"gone") == gone and blobs.read(gone) == b"gone"
    assert blobs.collect(0) == 0
    database.close()


def release(digest: str) -> None:
    database = open_database()
    Blobs(database, open_store()).release("job:1", digest)
    database.close()


def test_what_is_let_go_of_while_postgresql_is_dumped_is_in_the_backup(
    pg_dump: str,
    postgres: Postgres,  # noqa: F811
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KARTINA_DATABASE", postgres.fresh())
    (digest,) = store(b"one")
    code = f"from tests.api.test_backup import release; release({digest!r})"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "pg_dump"
    program.write_text(f'#!/bin/sh\n{pg_dump} "$@" && {sys.executable} -c "{code}"\n')
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root), *sys.path]))
    assert backup(tmp_path / "made").blobs == 1
    database = open_database()
    assert Blobs(database, open_store()).owners(digest) == []
    database.close()


def test_postgresql_goes_through_its_own_programs(
    pg_dump: str,
    postgres: Postgres,  # noqa: F811
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KARTINA_DATABASE", postgres.fresh())
    one, two = store(b"one", b"two")
    made = backup(tmp_path / "made", ["models", "secrets"])
    assert made.database == "database.dump" and made.blobs == 2
    with pytest.raises(ConflictError, match="tables in the database"):
        monkeypatch.setenv("KARTINA_HOME", str(tmp_path / "new"))
        restore(tmp_path / "made")
    monkeypatch.setenv("KARTINA_DATABASE", postgres.fresh())
    restore(tmp_path / "made")
    database = open_database()
    blobs = Blobs(database, open_store())
    assert (blobs.read(one), blobs.read(two)) == (b"one", b"two")
    with database.read() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(blob_refs)).scalar() == 2
    database.close()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="apt install postgresql-client"):
        backup(tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert module.MANIFEST in os.listdir(tmp_path / "made")
