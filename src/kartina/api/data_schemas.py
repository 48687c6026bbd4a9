"""What the HTTP API takes and gives about data: uploads, data sets, bulk generations. See `schemas` for the rest."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from kartina.api.schemas import TEXT, Request, Response
from kartina.services.archives import MAX_BYTES
from kartina.storage.uploads import Upload as StoredUpload

# -- uploads --------------------------------------------------------------------------------------------------------


class UploadRequest(Request):
    """Begin the upload of an archive."""

    filename: str = Field(
        min_length=1, max_length=500, pattern=TEXT, description="Ends in .zip or .npz", examples=["photos.zip"]
    )
    bytes: int = Field(ge=1, le=MAX_BYTES, description="Of the whole file")
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Of the whole file: where it is given, it has to be that"
    )


class Upload(Response):
    """An archive, whole or on its way."""

    id: str
    filename: str
    bytes: int = Field(description="Of the whole file")
    received: int = Field(description="That are on the disk: where the next part begins")
    complete: bool
    sha256: str | None = Field(description="As announced; of a complete one, as found")
    created_at: datetime
    url: str

    @classmethod
    def of(cls, found: StoredUpload) -> Upload:
        return cls(
            id=found.id,
            filename=found.name,
            bytes=found.bytes,
            received=found.received,
            complete=found.complete,
            sha256=found.digest or found.sha256,
            created_at=found.created_at,
            url=f"/v1/uploads/{found.id}",
        )


class UploadPage(Response):
    items: list[Upload]
    next_cursor: str | None = Field(description="Ask with it for the next page; null on the last")
