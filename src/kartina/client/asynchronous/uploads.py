"""Uploads of archives, in parts: a broken connection costs a part at most; what broke off goes on another day."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from kartina.client import work_schemas as schemas
from kartina.client.asynchronous.transport import AsyncTransport
from kartina.client.errors import ConflictError
from kartina.client.inputs import part_of, sha256_of
from kartina.client.protocol import call
from kartina.errors import ConfigError

PART = 8 * 2**20  # bytes

Told = Callable[[int, int], None]  # (bytes there, bytes in all)


class AsyncUploads:
    """Archives on their way to be data sets: `client.uploads`."""

    def __init__(self, http: AsyncTransport):
        self._http = http

    async def send(
        self, path: str | os.PathLike[str], *, progress: Told | None = None, part: int = PART
    ) -> schemas.Upload:
        """Upload a .zip or .npz, `part` bytes at a time (at most 64 MiB); its hash is checked at the end.

        `progress` is told (bytes there, bytes in all).

        Raises OSError, InputError, QuotaError, UnreachableError; after those `resume` goes on.
        """
        file = Path(path)
        digest, size = await asyncio.to_thread(sha256_of, file)
        body = {"filename": file.name, "bytes": size, "sha256": digest}
        begun = await self._http.get(call("POST", "/v1/uploads").but(json=body, once=True), schemas.Upload)
        return await self.resume(begun.id, file, progress=progress, part=part)

    async def resume(
        self, id: str, path: str | os.PathLike[str], *, progress: Told | None = None, part: int = PART
    ) -> schemas.Upload:
        """Go on with an upload that broke off. Raises ConfigError for a file of another size."""
        file, found = Path(path), await self.get(id)
        about = await asyncio.to_thread(file.stat)
        size = about.st_size
        if size != found.bytes:
            raise ConfigError(f"Found {size:,} bytes in {file}; expected the {found.bytes:,} that upload {id} is of.")
        offset = await self._offset(id)
        while not found.complete:
            if progress is not None:
                progress(offset, size)
            content = await asyncio.to_thread(part_of, file, offset, part)
            asked = call("PATCH", "/v1/uploads/{id}", id=id).but(content=content)
            asked = asked.saying(Upload_Offset=str(offset), Content_Type="application/partial-upload")
            try:
                found = await self._http.get(asked, schemas.Upload)
                offset = found.received
            except ConflictError as error:
                if error.code != "wrong_offset":
                    raise
                offset = await self._offset(id)  # an answer was lost: the part, or some of it, is there
                found = await self.get(id)
        if progress is not None:
            progress(size, size)
        return found

    async def get(self, id: str) -> schemas.Upload:
        return await self._http.get(call("GET", "/v1/uploads/{id}", id=id), schemas.Upload)

    def list(self) -> AsyncIterator[schemas.Upload]:
        """Every upload, newest first, asked for page by page."""
        return self._http.items(call("GET", "/v1/uploads").asking(limit=100), schemas.UploadPage)

    async def delete(self, id: str) -> None:
        """Give an upload up; its bytes no longer count."""
        await self._http.delete(call("DELETE", "/v1/uploads/{id}", id=id))

    async def _offset(self, id: str) -> int:
        """Where to go on; what is still being received ends with this."""
        answer = await self._http.send(call("HEAD", "/v1/uploads/{id}", id=id))
        return int(answer.headers["upload-offset"])
