"""Backups of an installation, taken while it runs, and their restoration into an empty one.

    DEST/manifest.json      what is in it, with a SHA-256 of every file
         database.sqlite    or database.dump (PostgreSQL): one consistent view, taken first
         blobs/ab/abcd...   every blob that it refers to: a blob outlives its last reference by a day
         models/            packages
         runs/ jobs/ studies/ data/ config.toml keys.key session.key      where they were asked for

The folder appears under its name when it is whole. A restoration checks every hash before it writes anything.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError

from kartina import __version__
from kartina.config import Frozen, explain, home
from kartina.errors import ConflictError, IntegrityError, disk_errors
from kartina.files import make_folder, sync
from kartina.settings import FILE, WHERE, Settings, load
from kartina.storage import dump
from kartina.storage.blobs import FOLDER, fetch, open_store, put
from kartina.storage.database import setting
from kartina.storage.only import alone

MANIFEST = "manifest.json"
PARTS: dict[str, tuple[str, ...]] = {  # of a home, beside its database and blobs
    "models": ("models",),
    "runs": ("runs", "jobs", "studies"),
    "data": ("data",),
    "secrets": ("keys.key", "session.key", "config.toml"),
}
Part = Literal["models", "runs", "data", "secrets"]
_PART = 2**20  # bytes read at a time


class File(Frozen):
    path: str = Field(min_length=1, max_length=4096)  # in the backup, with slashes
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(Frozen):
    """What a backup holds."""

    format: Literal[1] = 1
    kartina: str
    created_at: datetime
    database: dump.Name
    parts: tuple[Part, ...]
    blobs: int
    files: tuple[File, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def backup(target: Path, parts: Iterable[Part] = ("models",)) -> Manifest:
    """Copy the database, the blobs and some parts of KARTINA_HOME into a new folder. A service may be running.

    Raises ConflictError for a folder that is there, StorageError for one that cannot be written.
    """
    if target.exists():
        raise ConflictError(f"Found {target}; a backup makes a folder of its own. Name another one.")
    wanted: tuple[Part, ...] = tuple(sorted(set(parts)))
    with disk_errors("write the backup"), _beside(target) as folder:
        name, blobs = dump.dump(folder)
        files = [_described(folder, folder / name)]
        files += _copy_blobs(blobs, folder)
        for top in (top for part in wanted for top in PARTS[part]):
            for path in _files(home() / top):
                relative = path.relative_to(home())
                if (copied := _copy(path, folder / relative, str(PurePosixPath(relative)))) is not None:
                    files.append(copied)
        made = Manifest(
            kartina=__version__, created_at=datetime.now(UTC), database=name, parts=wanted, blobs=len(blobs),
            files=tuple(files),
        )  # fmt: skip
        (folder / MANIFEST).write_text(made.model_dump_json(indent=1))
        for path in (folder / MANIFEST, folder / name, folder):
            sync(path)
        folder.rename(target)
        sync(target.parent)
    return made


def _copy_blobs(blobs: list[tuple[str, int]], folder: Path) -> Iterator[File]:
    store = open_store()
    for digest, _ in blobs:
        path = folder / FOLDER / digest[:2] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        size, found = fetch(store, digest, path)
        if found != digest:
            raise IntegrityError(f"Found the blob {digest[:12]} changed in its store; restore it there first.")
        yield File(path=f"{FOLDER}/{digest[:2]}/{digest}", size=size, sha256=digest)


def _files(top: Path) -> Iterator[Path]:
    """The regular files there, without what is being made (its name begins with a dot) and without links."""
    if top.is_file():
        yield top
    for root, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _copy(source: Path, target: Path, name: str) -> File | None:
    """Copy a file; its hash is that of what was copied. None for one that went meanwhile."""
    digest, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source.open("rb") as given, target.open("xb") as taken:
            shutil.copymode(source, target)
            while part := given.read(_PART):
                digest.update(part)
                taken.write(part)
                size += len(part)
    except FileNotFoundError:
        return None
    return File(path=name, size=size, sha256=digest.hexdigest())


def _described(folder: Path, path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return File(path=str(PurePosixPath(path.relative_to(folder))), size=path.stat().st_size, sha256=digest)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new folder beside the target, gone again unless it was renamed."""
    folder = target.absolute().with_name(f".{target.name}-{os.getpid()}")
    make_folder(folder.parent)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- back ---------------------------------------------------------------------------------------------------------


def restore(source: Path) -> Manifest:
    """Check a backup, and fill an empty KARTINA_HOME (and the database and bucket of the settings) from it.

    Raises IntegrityError for a backup that is not whole, ConflictError where something would be overwritten or a
    service is running; then nothing was changed.
    """
    made = read(source)
    verify(source, made)
    with alone(home() / "service.lock"):
        tops = {PurePosixPath(file.path).parts[0] for file in made.files} - {FOLDER, made.database}
        for top in sorted(tops):
            if (home() / top).exists():
                raise ConflictError(f"Found {home() / top}; restore into an empty KARTINA_HOME.")
        settings = _settings(source, made)
        database = setting(settings)
        dump.check_empty(made.database, database)
        with disk_errors("restore the backup"), _beside(home() / "restored") as folder:
            store = open_store(settings.blobs)
            for file in made.files:
                if file.path.startswith(f"{FOLDER}/"):
                    put(store, file.sha256, source / file.path, file.size)
                elif file.path != made.database:
                    copied = _copy(source / file.path, folder / file.path, file.path)
                    if copied != file:
                        raise IntegrityError(f"Found {source / file.path} changed while it was copied; try again.")
                    sync(folder / file.path)
            for top in sorted(tops):
                (folder / top).rename(home() / top)
            sync(home())
        dump.restore(source / made.database, database)  # last: without it there is no installation
    return made


def _settings(source: Path, made: Manifest) -> Settings:
    """The settings that will be in force when the backup is restored, its own file among them. Raises ConfigError."""
    own = any(file.path == FILE for file in made.files) and WHERE not in os.environ
    return load(config=source / FILE if own else None)


def read(source: Path) -> Manifest:
    """The manifest of a backup. Raises IntegrityError for a folder that has none, or another's."""
    try:
        made = Manifest.model_validate_json((source / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise IntegrityError(f"Found no {MANIFEST} in {source}; expected what `kartina backup` made.") from None
    except ValidationError as error:
        raise IntegrityError(f"Found a {MANIFEST} in {source} that cannot be read: {explain(error)}") from None
    allowed = {FOLDER, made.database, *(top for part in made.parts for top in PARTS[part])}
    for file in made.files:
        parts = PurePosixPath(file.path).parts
        if "\0" in file.path or file.path.startswith("/") or ".." in parts or parts[0] not in allowed:
            raise IntegrityError(f"Found the path {file.path!r} in {source / MANIFEST}, which no backup has.")
        if parts[0] == FOLDER and parts[1:] != (file.sha256[:2], file.sha256):
            raise IntegrityError(f"Found the blob {file.path!r} in {source / MANIFEST}, which is not its hash.")
    return made


def verify(source: Path, made: Manifest) -> None:
    """Raises IntegrityError, with a line for each, where files are missing or not what the manifest says."""
    wrong = []
    for file in made.files:
        path = source / file.path
        try:
            if path.is_symlink() or _described(source, path) != file:
                wrong.append(f"{file.path}: changed")
        except OSError as error:
            wrong.append(f"{file.path}: {error.strerror}")
    if wrong:
        raise IntegrityError(
            f"Found {len(wrong)} of {len(made.files)} files of the backup missing or changed; nothing was restored.",
            details=wrong,
        )
