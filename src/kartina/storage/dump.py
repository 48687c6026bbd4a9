"""A database as a file, and back: SQLite by its backup API, PostgreSQL by pg_dump and pg_restore.

A dump is one consistent view, taken while others write.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from kartina.errors import ConfigError, ConflictError, StorageError, disk_errors
from kartina.files import make_folder, sync
from kartina.storage.database import SETTING, database_errors, open_database, parse, setting
from kartina.storage.tables import blobs

Name = Literal["database.sqlite", "database.dump"]  # what the files are called
SQLITE: Name = "database.sqlite"
POSTGRESQL: Name = "database.dump"
_USED = sa.select(blobs.c.hash, blobs.c.size).where(blobs.c.stored, blobs.c.unused_since.is_(None))


def dump(folder: Path) -> tuple[Name, list[tuple[str, int]]]:
    """Write the database of the settings into a folder: (the file's name, (hash, size) of every blob that something
    refers to). Those are there for another day, whatever lets go of them meanwhile; others may go at any time."""
    url = parse(setting())
    if url.get_backend_name() == "sqlite":
        return SQLITE, _dump_sqlite(str(url.database), folder / SQLITE)
    return POSTGRESQL, _dump_postgresql(url, folder / POSTGRESQL)


def _dump_postgresql(url: sa.URL, target: Path) -> list[tuple[str, int]]:
    database = open_database()
    one_view = database.engine.execution_options(isolation_level="REPEATABLE READ")
    try:
        with database_errors("read"), one_view.connect() as c:
            c.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # idle while it is dumped
            found = [(row.hash, row.size) for row in c.execute(_USED)]
            view = c.execute(sa.select(sa.func.pg_export_snapshot())).scalar_one()
            _run("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", f"--snapshot={view}",
                 f"--file={target}")  # fmt: skip
            return found
    finally:
        database.close()


def _dump_sqlite(path: str, target: Path) -> list[tuple[str, int]]:
    open_database().close()  # made, and migrated, when need be
    try:
        with (
            closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(target)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file
            return copy.execute(str(_USED)).fetchall()
    except sqlite3.Error as error:
        raise StorageError(f"Could not copy the database: {error}. Check that {target.parent} has room.") from error


def check_empty(name: str, target: str) -> None:
    """Raises ConflictError where the database at the URL `target` is there already, ConfigError where it is of another
    kind than the dump called `name`."""
    url = parse(target)
    kind = "SQLite" if url.get_backend_name() == "sqlite" else "PostgreSQL"
    if (kind == "SQLite") != (name == SQLITE):
        other = "PostgreSQL" if kind == "SQLite" else "SQLite"
        raise ConfigError(f"Found a backup of {other}, and {SETTING} for {kind}; restore into a database of its kind.")
    if kind == "SQLite":
        if Path(str(url.database)).exists():
            raise ConflictError(
                f"Found a database at {url.database}; nothing is overwritten. Restore into an empty KARTINA_HOME; "
                f"where config.toml names that file, set {SETTING} to another."
            )
        return
    engine = sa.create_engine(url)
    try:
        with database_errors("read"), engine.connect() as c:
            if tables := sa.inspect(c).get_table_names():
                raise ConflictError(
                    f"Found {len(tables)} tables in the database ({SETTING}); restore into an empty one."
                )
    finally:
        engine.dispose()


def restore(file: Path, target: str) -> None:
    """Fill the empty database at the URL `target` from a dump."""
    url = parse(target)
    if url.get_backend_name() != "sqlite":
        return _run("pg_restore", url, "--no-owner", "--exit-on-error", "--single-transaction", str(file))
    path = Path(str(url.database))
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    with disk_errors("restore the database"):
        make_folder(path.parent)
        shutil.copyfile(file, temporary)
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    open_database(target).close()  # migrated, when this version is newer


def _run(program: str, url: sa.URL, *words: str) -> None:
    """Run one of PostgreSQL's programs; the password is not among its words."""
    if shutil.which(program) is None:
        raise StorageError(
            f"Found no {program}, which a PostgreSQL database is copied with; install PostgreSQL's client programs "
            "(apt install postgresql-client), of the server's version or newer."
        )
    plain = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password is not None else {})}
    done = subprocess.run([program, f"--dbname={plain}", *words], env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "no word").splitlines()[0]
        raise StorageError(f"Could not copy the database: {program} says {said!r}. Nothing was changed.")
