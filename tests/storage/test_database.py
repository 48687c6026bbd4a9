"""The database, the same on SQLite and PostgreSQL: migrations, transactions, errors in words."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from kartina.errors import ConfigError, IntegrityError, StorageAwayError, StorageError
from kartina.storage import database as module
from kartina.storage.database import Database, open_database, setting
from kartina.storage.tables import blobs, metadata
from tests.databases import sqlite_first


def test_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    with database.read() as c:
        assert compare_metadata(MigrationContext.configure(c), metadata) == []
    config = Config()
    config.set_main_option("script_location", str(module.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [module.HEAD]


def test_the_default_is_a_file_in_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KARTINA_DATABASE", raising=False)
    assert setting() == f"sqlite:///{home}/kartina.db"
    opened = open_database()
    with opened.read() as c:
        assert c.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert c.execute(sa.text("PRAGMA synchronous")).scalar() == 2
        assert c.execute(sa.text("PRAGMA busy_timeout")).scalar() == 30_000
    opened.close()
    monkeypatch.setenv("KARTINA_DATABASE", f"sqlite:///{home}/other.db")
    open_database().close()
    assert (home / "other.db").is_file()


@sqlite_first
def test_many_processes_may_open_a_new_database_at_once(url: str) -> None:
    code = f"from kartina.storage.database import open_database; open_database({url!r}).close()"
    running = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, errors


def test_alembic_is_not_loaded_where_there_is_nothing_to_migrate(url: str) -> None:
    open_database(url).close()
    code = f"import sys; from kartina.storage.database import open_database as o; o({url!r}); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "sqlalchemy" in loaded and not {"alembic", "torch", "numpy"} & set(loaded)


def test_a_newer_database_is_refused(url: str) -> None:
    opened = open_database(url)
    with opened.write() as c:
        c.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    opened.close()
    with pytest.raises(IntegrityError, match="newer Kartina"):
        open_database(url)


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as c:
        c.execute(blobs.insert().values(hash="a", size=1, stored=True))
        1 / 0  # noqa: B018
    with database.read() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(blobs)).scalar() == 0


def test_writers_wait_for_each_other(database: Database) -> None:
    """Read, think, write: none of 40 increments by 8 threads is lost."""
    with database.write() as c:
        c.execute(blobs.insert().values(hash="n", size=0, stored=True))

    def add(_: int) -> None:
        with database.write() as c:
            n = c.execute(sa.select(blobs.c.size).with_for_update()).scalar_one()
            c.execute(blobs.update().values(size=n + 1))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(40)))
    with database.read() as c:
        assert c.execute(sa.select(blobs.c.size)).scalar() == 40


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    begun, seen = threading.Event(), threading.Event()

    def write() -> None:
        with database.write() as c:
            c.execute(blobs.insert().values(hash="a", size=1, stored=True))
            begun.set()
            assert seen.wait(20)

    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(20)
    with database.read() as c:
        assert c.execute(sa.select(sa.func.count()).select_from(blobs)).scalar() == 0
    seen.set()
    thread.join()


def test_a_locked_database_is_an_error_in_words(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARTINA_BUSY", "0.2")
    one, two = open_database(url), open_database(url)
    with one.write() as c:
        if url.startswith("postgresql"):
            c.execute(sa.text("LOCK TABLE blobs"))
        with pytest.raises(StorageAwayError, match=r"locked|lock timeout"), two.write() as other:
            other.execute(blobs.insert().values(hash="a", size=1, stored=True))
    with two.write() as other:
        other.execute(blobs.insert().values(hash="a", size=1, stored=True))
    one.close()
    two.close()


def test_a_process_that_stops_inside_a_transaction_is_dropped(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL lets others go on, and the one that slept is told that nothing was changed."""
    if url.startswith("sqlite"):
        pytest.skip("SQLite's locks are its processes', and go with them")
    monkeypatch.setattr(module, "IDLE", 0.3)
    sleeper, other = open_database(url), open_database(url)
    with other.write() as c:
        c.execute(blobs.insert().values(hash="a", size=1, stored=True))
    with pytest.raises(StorageError, match="Could not write"), sleeper.write() as c:
        c.execute(blobs.update().values(size=2))
        with other.write() as d:  # waits for the row until the sleeper is dropped
            d.execute(blobs.update().values(size=3))
        c.execute(blobs.update().values(size=4))
    with sleeper.read() as c:
        assert c.execute(sa.select(blobs.c.size)).scalar() == 3, "and it works again"
    sleeper.close()
    other.close()


@pytest.mark.parametrize("wrong", ["", "no url", "mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_is_none_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARTINA_DATABASE", wrong)
    if not wrong:
        return open_database().close()  # an empty setting is none
    with pytest.raises(ConfigError, match="expected sqlite:////") as error:
        open_database()
    assert "secret" not in str(error.value)


def test_a_database_that_is_away_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Could not read the database"):
        open_database(f"postgresql://nobody@/none?host={tmp_path}")
    (tmp_path / "kartina.db").mkdir()
    with pytest.raises(StorageError, match="unable to open database file"):
        open_database(f"sqlite:///{tmp_path / 'kartina.db'}")
