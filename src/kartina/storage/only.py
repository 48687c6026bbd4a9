"""One service at a time for a KARTINA_HOME and for a database: it takes up whatever it finds unfinished there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from kartina.config import home
from kartina.errors import ConflictError, disk_errors
from kartina.files import make_folder
from kartina.storage.database import SETTING, Database, database_errors, open_database

_LOCK = 0x6B617273  # PostgreSQL's advisory lock that the service of a database holds


@contextmanager
def only_service() -> Iterator[None]:
    """Be the only service of this home and database. Raises ConflictError while another one is.

    Both locks go with the process, however that ends.
    """
    with alone(home() / "service.lock"):
        database = open_database()
        try:
            postgresql = database.engine.dialect.name == "postgresql"
            # An SQLite file may lie outside this home, and be another's too.
            with _only_connection(database) if postgresql else alone(_beside(database)):
                yield
        finally:
            database.close()


def _beside(database: Database) -> Path:
    return Path(f"{database.engine.url.database}.service.lock")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, which goes with this process. Raises ConflictError while another one has it."""
    with disk_errors("lock the folder of the service"):
        make_folder(path.parent)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"Found another service at work on {path.parent}; use or stop that one, or set KARTINA_HOME to another "
                "folder."
            ) from None
        yield
    finally:
        os.close(handle)


@contextmanager
def _only_connection(database: Database) -> Iterator[None]:
    with database_errors("lock"):
        connection = database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with connection:
        if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(_LOCK))).scalar():
            raise ConflictError(f"Found another service at work on the database; stop that one, or change {SETTING}.")
        yield
