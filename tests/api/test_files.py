"""Files as answers: whole, ranges of them, and what is asked for that there is not; the API's own description."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from kartina.api.app import create_app
from kartina.api.files import is_range
from kartina.api.openapi import document
from kartina.api.security import LocalAccess
from kartina.serving.client import LocalEngine
from tests.service import Service

FILES = ("/v1/models/toy/samples.png", "/index.html")


@pytest.mark.parametrize("path", FILES)
def test_ranges_of_a_file(service: Service, path: str) -> None:
    whole = service.client.get(path).content
    size = len(whole)
    for asked, part, where in [
        ("bytes=0-9", whole[:10], f"bytes 0-9/{size}"),
        (f"bytes={size - 5}-", whole[-5:], f"bytes {size - 5}-{size - 1}/{size}"),
        ("bytes=-5", whole[-5:], f"bytes {size - 5}-{size - 1}/{size}"),
        (f"bytes=3-{10**12}", whole[3:], f"bytes 3-{size - 1}/{size}"),
    ]:
        found = service.client.get(path, headers={"Range": asked})
        assert (found.status_code, found.content, found.headers["content-range"]) == (206, part, where)
    two = service.client.get(path, headers={"Range": "bytes=0-1, 4-5"})
    assert two.status_code == 206 and two.headers["content-type"].startswith("multipart/byteranges")
    assert whole[:2] in two.content and whole[4:6] in two.content


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("asked", ["bytes=abc", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,x", "rows=0-1", "bytes"])
def test_a_range_that_cannot_be_read_is_ignored(service: Service, path: str, asked: str) -> None:
    """RFC 9110, 14.2."""
    found = service.client.get(path, headers={"Range": asked})
    assert found.status_code == 200 and found.content == service.client.get(path).content


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("asked", ["bytes=999999999-", "bytes=-0", "bytes=0-1,999999999-"])
def test_a_range_beyond_the_end_is_a_problem(service: Service, path: str, asked: str) -> None:
    size = len(service.client.get(path).content)
    found = service.client.get(path, headers={"Range": asked})
    assert (found.status_code, found.headers["content-type"]) == (416, "application/problem+json")
    assert found.headers["content-range"] == f"bytes */{size}"
    problem = found.json()
    assert problem["code"] == "unsatisfiable" and asked in problem["detail"] and str(size) in problem["detail"]
    assert problem["request_id"] == found.headers["x-request-id"]


def test_what_a_range_is() -> None:
    assert is_range("bytes=0-0") and is_range("Bytes=1-,-7, 3-4")
    assert not is_range("bytes=" + "9" * 30 + "-") and not is_range("bytes=1-0") and not is_range("")


def test_others_are_answered_while_the_description_is_made() -> None:
    """The first one is most of a second's work; it is made in a thread."""

    async def run() -> tuple[int, httpx.Response]:
        access = LocalAccess(port=80, token="local")
        app = create_app(LocalEngine("/nowhere"), access)
        headers = {"Authorization": "Bearer local"}
        transport, turns = httpx.ASGITransport(app), 0
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            asked = asyncio.create_task(client.get("/openapi.json"))
            while not asked.done():
                await asyncio.sleep(0.005)
                turns += 1
            return turns, await asked

    turns, found = asyncio.run(run())
    assert found.status_code == 200 and found.headers["content-type"] == "application/json"
    assert json.loads(found.content) == document()
    assert turns >= 5, "the event loop had no turn"
