"""Files of the service as answers: whole, or a range of one."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

JSON = "application/json"
_RANGES = re.compile(r"bytes=(?P<all>[\d\-, \t]+)", re.IGNORECASE)
_RANGE = re.compile(r"(\d{1,18})-(\d{0,18})|-\d{1,18}")


class StoredFile(FileResponse):
    """A file, or the ranges of it that are asked for (RFC 9110, 14.2).

    A Range that cannot be read is ignored, as one is of which the server knows nothing; of one that lies beyond the end
    the caller hears as a problem (416), with the file's size in Content-Range.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope).get("range")
        if asked is not None and not is_range(asked):
            scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 416:
                size = Headers(raw=message["headers"]).get("content-range", "")
                detail = f"Found the range {asked!r}; expected one within {size.rpartition('/')[2]} bytes."
                raise HTTPException(416, detail, {"Content-Range": size})
            await send(message)

        await super().__call__(scope, receive, told)


def is_range(given: str) -> bool:
    """Whether a Range header asks for bytes: `bytes=0-99`, `bytes=100-`, `bytes=-5`, or several of these."""
    found = _RANGES.fullmatch(given)
    parts = [_RANGE.fullmatch(part.strip()) for part in found["all"].split(",")] if found else []
    return bool(parts) and all(
        part is not None and not (part[1] and part[2] and int(part[2]) < int(part[1])) for part in parts
    )


def described(description: str, *types: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of a StoredFile and of its ranges. Beside it a route has the problem "unsatisfiable"."""
    content = {type: _content(type) for type in types}
    parts = {type: _content(type) if type != JSON else {} for type in (*types, "multipart/byteranges")}  # of JSON: none
    return {
        200: {"content": content, "description": description},
        206: {"content": parts, "description": "The ranges that were asked for"},
    }


def _content(type: str) -> dict[str, Any]:
    if type == JSON:
        return {"schema": {"type": "object"}}
    return {"schema": {"type": "string"} if type.startswith("text/") else {"type": "string", "format": "binary"}}
