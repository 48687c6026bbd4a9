"""The page: the built UI's files, index.html for the routes of the client, and a clear word when it is not built."""

from __future__ import annotations

from asyncio import to_thread
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from kartina.api.files import StoredFile

STATIC = Path(__file__).parent / "static"

MISSING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Kartina</title></head>
<body style="font-family: system-ui, sans-serif; max-width: 40rem; margin: 4rem auto; padding: 0 1rem">
<h1>The page is not built yet</h1>
<p>The service runs and its HTTP API answers, but this installation has no built user interface.</p>
<p>In a source checkout, stop the service and run <code>make run</code>: it builds the page and starts the service.</p>
</body></html>
"""


class Page:
    """ASGI app for every path that no route takes."""

    def __init__(self, root: Path = STATIC):
        self.root = root.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        response = await to_thread(self._find, scope["method"], scope["path"])
        await response(scope, receive, send)

    def _find(self, method: str, path: str) -> Response:
        if method not in ("GET", "HEAD") or path == "/v1" or path.startswith("/v1/") or "\0" in path:
            raise HTTPException(404)
        if any(len(part.encode(errors="replace")) > 255 for part in path.split("/")) or len(path) > 2000:
            raise HTTPException(404)  # no file system has such names
        file = (self.root / path.lstrip("/")).resolve()
        if file.is_relative_to(self.root) and file.is_file():
            # Vite puts a hash of the content in the names of its assets.
            cache = "public, max-age=31536000, immutable" if "assets" in file.parts else "no-cache"
            return StoredFile(file, headers={"Cache-Control": cache})
        if "." in path.rpartition("/")[2]:
            raise HTTPException(404)  # a file that is not there, not a route of the client
        index = self.root / "index.html"
        if not index.is_file():
            return HTMLResponse(MISSING, 503)
        return StoredFile(index, headers={"Cache-Control": "no-cache"})
