"""A file of weights from the network: fetched once, resumed where it broke off, believed only by its checksum.

What has arrived stands beside its place as FILE.part; a second call asks the server for the rest. Only when the whole
file's SHA-256 begins as it must is it renamed to its place; otherwise it is deleted. Nothing reads it before that.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from kartina.errors import IntegrityError, UnavailableError, disk_errors

Progress = Callable[[int, int], None]  # bytes there, bytes in all (0: not known)

BLOCK = 1 << 20
SECONDS = 30  # without a byte


def fetch(url: str, path: Path, sha256: str, max_bytes: int, progress: Progress | None = None) -> Path:
    """The file at `path`, downloaded from `url` where it is not there yet; its SHA-256 begins with `sha256`.

    Raises UnavailableError where the server cannot be reached or breaks off (call again: it goes on from there),
    IntegrityError where the file is another one or longer than `max_bytes`, StorageError on a full disk.
    """
    if path.is_file():
        return checked(path, sha256)
    with disk_errors(f"download {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with _alone(part) as file:
            if path.is_file():
                part.unlink(missing_ok=True)
                return checked(path, sha256)
            try:
                _rest(url, file, max_bytes, progress)
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                raise UnavailableError(
                    f"Could not download {path.name} ({getattr(error, 'reason', error)}). Try again: it goes on where "
                    f"it broke off. Or get {url} elsewhere and pass it with --weights."
                ) from error
            os.fsync(file.fileno())
            try:
                checked(part, sha256)
            except IntegrityError:
                part.unlink()
                raise
            part.replace(path)
    return path


def _alone(part: Path) -> IO[bytes]:
    """The file, to append to; another process that downloads it is waited for. The lock goes with the file's end."""
    while True:
        file = open(part, "ab")  # noqa: SIM115  the caller's
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(part.stat(), os.fstat(file.fileno())):
                file.seek(0, os.SEEK_END)  # that one may have written
                return file
        file.close()  # that one has thrown it away, or put it in its place


def _rest(url: str, file: IO[bytes], max_bytes: int, progress: Progress | None) -> None:
    """Append what is missing; begin anew where the server cannot give a part."""
    have = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: there is nothing after what is here
            raise
        return
    with answer:
        if have and answer.status != 206:
            file.truncate(0)
            have = 0
        length = int(answer.headers.get("Content-Length") or 0)
        total = have + length if length else 0
        arrived = have
        while block := answer.read(BLOCK):
            arrived += len(block)
            if arrived > max_bytes:
                file.truncate(0)
                raise IntegrityError(
                    f"Found more than {max_bytes:,} bytes at {url}; expected fewer. It is another file."
                )
            file.write(block)
            if progress is not None:
                progress(arrived, total)
        file.flush()
        if total and arrived < total:
            raise ConnectionError(f"{arrived:,} of {total:,} bytes arrived")


def checked(path: Path, sha256: str) -> Path:
    """`path`, whose SHA-256 begins with `sha256`. Raises IntegrityError where it does not."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if not digest.hexdigest().startswith(sha256):
        raise IntegrityError(
            f"Found {path.name} with the SHA-256 {digest.hexdigest()[:16]}...; expected one that begins with {sha256}. "
            f"It is damaged or another file; it was not loaded. Get it again."
        )
    return path
