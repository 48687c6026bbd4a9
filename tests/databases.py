"""SQLite and a private PostgreSQL, for tests that run on both.

The PostgreSQL is an instance of its own: binaries from /usr/lib/postgresql or PATH, data in a temporary folder, a Unix
socket and no network. Where there are no binaries its tests are skipped; with CI=true they fail.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from kartina.storage.database import Database, open_database

_numbers = itertools.count()


class Postgres:
    """A running private instance."""

    def __init__(self, binaries: Path):
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="kartina-pg-", dir="/tmp"))  # a socket's path must be short
        self.user = self._not_root()
        if self.user is not None:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self._run("initdb", "-D", self.folder / "data", "-U", "kartina", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off",
                   "-c", "max_connections=60", "-c", "shared_buffers=16MB"]  # fmt: skip
        self.log = (self.folder / "log").open("w+")
        self.process = subprocess.Popen(
            [binaries / "postgres", "-D", self.folder / "data", *options],
            stdout=self.log, stderr=self.log, cwd=self.folder, **self._as_user(),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)

    def _not_root(self) -> pwd.struct_passwd | None:
        """Whom PostgreSQL runs as: it refuses root."""
        if os.geteuid() != 0:
            return None
        known = {user.pw_name: user for user in pwd.getpwall()}
        return known.get("postgres") or known["nobody"]

    def _as_user(self) -> dict[str, object]:
        return {} if self.user is None else {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def _run(self, program: str, *words: object) -> None:
        done = subprocess.run(
            [str(self.binaries / program), *map(str, words)], capture_output=True, text=True, cwd=self.folder,
            **self._as_user(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def _answers(self) -> bool:
        ready = [self.binaries / "pg_isready", "-q", "-h", self.folder, "-U", "kartina"]
        return subprocess.run(ready).returncode == 0

    def url(self, name: str = "postgres") -> str:
        return f"postgresql://kartina@/{name}?host={self.folder}"

    def fresh(self) -> str:
        """The URL of a new, empty database."""
        name = f"test{next(_numbers)}"
        engine = sa.create_engine(
            self.url().replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as c:
            c.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self.url(name)

    def stop(self) -> None:
        self.process.send_signal(3)  # SIGQUIT: at once
        self.process.wait(30)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def find_binaries() -> Path | None:
    """The folder of initdb and postgres, the newest version first."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    for folder in (*installed, *([Path(on_path).resolve().parent] if on_path else [])):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    binaries = find_binaries()
    if binaries is None:
        missing = "no PostgreSQL binaries in /usr/lib/postgresql or on PATH (apt install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    running = Postgres(binaries)
    yield running
    running.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kartina.db'}"
    running: Postgres = request.getfixturevalue("postgres")
    return running.fresh()


# For what takes long on each kind of database: on SQLite in `make test`, on both in `make test-all`.
sqlite_first = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()
