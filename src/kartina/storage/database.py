"""The database: SQLite in KARTINA_HOME, or the PostgreSQL that KARTINA_DATABASE names. The same tables on both.

    database = open_database()              # migrated to this version's tables
    with database.read() as c: ...          # one consistent view
    with database.write() as c: ...         # a transaction: all of it, or nothing

SQLite runs in WAL mode, so readers never wait for the writer; a write transaction takes the write lock when it begins
(BEGIN IMMEDIATE) and waits for it as long as the setting `busy` says, so that it can never fail half-way for a lock. A
commit is on the disk when it returns.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from kartina.config import home
from kartina.errors import ConfigError, IntegrityError, KartinaError, StorageAwayError, StorageError, disk_errors
from kartina.files import make_folder
from kartina.settings import Settings, load

SETTING = "KARTINA_DATABASE"  # the environment variable that names a database by its URL
FILE = "kartina.db"  # in KARTINA_HOME, where there is no such setting
IDLE = 10.0  # seconds after which PostgreSQL drops a process that stopped inside a transaction, and its locks
HEAD = "0004"  # the newest migration
MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x6B617274  # PostgreSQL's advisory lock that one migrating process holds


@dataclass(frozen=True)
class Database:
    """An open database. Belongs to one process; its methods may be called from any thread."""

    engine: sa.Engine

    @cached_property
    def _sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view. Raises StorageError when the database cannot be read."""
        with database_errors("read"), self.engine.connect() as connection:
            if self._sqlite:
                connection.exec_driver_sql("BEGIN")
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction, committed at the end of the block. Raises StorageError, and then nothing has changed."""
        with database_errors("write to"), self.engine.begin() as connection:
            if self._sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def clock(self, connection: sa.Connection) -> float:
        """Seconds since 1970 by the clock that all processes of this database share."""
        if self.engine.dialect.name == "postgresql":
            return float(
                connection.execute(sa.select(sa.func.extract("epoch", sa.func.clock_timestamp()))).scalar_one()
            )
        return time.time()

    def ping(self) -> None:
        """Raises StorageError when the database does not answer."""
        with self.read() as c:
            c.execute(sa.select(1))

    def close(self) -> None:
        self.engine.dispose()


def setting(settings: Settings | None = None) -> str:
    """The database's URL: the setting, else SQLite in KARTINA_HOME."""
    return (settings or load()).database or f"sqlite:///{home() / FILE}"


def open_database(url: str | None = None) -> Database:
    """Open a database (default: `setting`), made or migrated when need be.

    Raises ConfigError for a URL that is none, StorageError when it cannot be reached or written, IntegrityError when a
    newer Kartina has migrated it.
    """
    parsed, busy = parse(url or setting()), load().busy
    database = Database(_sqlite(parsed, busy) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed, busy))
    try:
        migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def parse(url: str) -> sa.URL:
    """The URL of a database that can be used. Raises ConfigError."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(f"Found {SETTING} set to what is no URL; {_EXPECTED}") from None
    match parsed.drivername:
        case "sqlite" if parsed.database and parsed.database != ":memory:":
            return parsed
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(f"Found the database {parsed.render_as_string()!r}; {_EXPECTED}")


_EXPECTED = "expected sqlite:////path/to/kartina.db or postgresql://user:password@host/name."
_json = partial(json.dumps, ensure_ascii=False, allow_nan=False)


def _sqlite(url: sa.URL, busy: float) -> sa.Engine:
    assert url.database is not None
    with disk_errors("open the database"):
        make_folder(Path(url.database).parent)
    engine = sa.create_engine(url, json_serializer=_json, connect_args={"timeout": busy})

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        # BEGIN is ours: the driver's own comes too late for a lock, and a listener's would cost every statement.
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _postgresql(url: sa.URL, busy: float) -> sa.Engine:
    # READ COMMITTED, whatever the server's default: claims rely on seeing what others have committed.
    engine = sa.create_engine(url, json_serializer=_json, isolation_level="READ COMMITTED", pool_pre_ping=True)

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE * 1000)}")
            cursor.execute(f"SET lock_timeout = {int(busy * 1000)}")
        connection.commit()

    return engine


def migrate(database: Database) -> None:
    """Bring the tables to this version; one process does it, others wait. Alembic is loaded only when there is work."""
    if _version(database) == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with database.write() as connection:
        if database.engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, HEAD)
        except CommandError as error:
            raise IntegrityError(
                f"Found a database that a newer Kartina has migrated ({error}); this version knows {HEAD}. Use the "
                f"newer version, or another database ({SETTING})."
            ) from None


def _version(database: Database) -> str | None:
    """The newest migration that the database has had; None for a new one."""
    with database.read() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return found


@contextmanager
def database_errors(what: str) -> Iterator[None]:
    """Turn a database that is away, locked, full or read-only into a StorageError; let mistakes of ours pass."""
    try:
        yield
    except KartinaError:
        raise
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.TimeoutError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        if _passes(error):
            raise StorageAwayError(
                f"Could not {what} the database: {reason}. Nothing was changed; another process has locked it, or it "
                f"cannot be reached ({SETTING}, or KARTINA_HOME/{FILE}). Try again in a moment."
            ) from error
        raise StorageError(
            f"Could not {what} the database: {reason}. Nothing was changed; check that it can be written "
            f"({SETTING}, or KARTINA_HOME/{FILE}) and that the disk has room, then try again."
        ) from error


def _passes(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether it is a matter of time: a lock, a server that is away; not a disk that is full or cannot be written."""
    met = getattr(error, "orig", None)
    if isinstance(met, sqlite3.Error):
        return (getattr(met, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state: str | None = getattr(met, "sqlstate", None)  # PostgreSQL's; none: it was not even reached
    return state is None or state[:2] in ("08", "55", "57") or state == "53300"  # too many connections
