"""The gallery over HTTP: pages, filters, favourites, trash, downloads, and running a file again."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from PIL import Image, PngImagePlugin

from kartina.models import png
from tests.api.test_api import problem
from tests.service import Service


@pytest.fixture
def service(on_both: Service) -> Service:
    return on_both


@pytest.fixture
def mine(service: Service) -> Iterator[httpx.Client]:
    """A key of its own, so that its gallery is empty."""
    with service.bearer("generate") as client:
        yield client


def make(client: httpx.Client, **body: Any) -> Any:
    answer = client.post("/v1/generations", json={"model": "toy", **body}, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(client: httpx.Client, **query: Any) -> list[str]:
    """Of every page, two images each."""
    found: list[str] = []
    cursor = {}
    while True:
        answer = client.get("/v1/images", params={"limit": 2, **query, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        assert len(page["items"]) == 2
        cursor = {"cursor": page["next_cursor"]}


def test_pages_filters_favourites(mine: httpx.Client) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    first = make(mine, labels=["cat", "dog"], n=4)
    second = make(mine, labels=["кот"], n=1, format="webp")
    of = [[out["id"] for out in job["outputs"]] for job in (first, second)]
    everything = [*of[1], *reversed(of[0])]
    assert ids(mine) == everything
    assert ids(mine, label="dog") == [of[0][3], of[0][1]]
    assert ids(mine, label="кот") == of[1]
    assert ids(mine, model="toy@1") == everything and ids(mine, model="toy@2") == []
    assert ids(mine, favourite=True) == []
    changed = mine.patch(f"/v1/images/{of[0][1]}", json={"favourite": True}).json()
    assert changed["favourite"] is True
    assert ids(mine, favourite=True) == ids(mine, favourite=True, label="dog", model="toy@1") == [of[0][1]]
    assert ids(mine, since=before.isoformat()) == everything
    assert ids(mine, until=before.isoformat()) == []
    later = second["created_at"]
    assert ids(mine, since=later) == of[1]
    assert ids(mine, until=later) == list(reversed(of[0]))
    item = mine.get("/v1/images").json()["items"][0]
    assert (item["label"], item["format"], item["generation"]) == ("кот", "webp", second["id"])
    about = mine.get(f"/v1/images/{of[1][0]}/about").json()
    assert about == item
    image = mine.get(item["url"])
    assert hashlib.sha256(image.content).hexdigest() == item["hash"] and len(image.content) == item["size"]
    assert image.headers["content-type"] == "image/webp"


def test_trash_and_back_and_for_good(mine: httpx.Client) -> None:
    job = make(mine, n=3)
    a, b, c = (out["id"] for out in job["outputs"])
    assert mine.delete(f"/v1/images/{a}").status_code == 204
    assert ids(mine) == [c, b] and ids(mine, trash=True) == [a]
    assert [out["id"] for out in mine.get(job["urls"]["self"]).json()["outputs"]] == [b, c]
    assert mine.get(f"/v1/images/{a}").status_code == 200  # to look at before it is taken out again
    restored = mine.post(f"/v1/images/{a}/restore").json()
    assert restored["trashed_at"] is None
    assert ids(mine) == [c, b, a] and ids(mine, trash=True) == []
    assert mine.delete(f"/v1/images/{a}", params={"forever": True}).status_code == 204
    problem(mine.get(f"/v1/images/{a}"), 404, "not_found")
    problem(mine.post(f"/v1/images/{a}/restore"), 404, "not_found")
    assert ids(mine) == [c, b]


def test_several_at_once(mine: httpx.Client, service: Service) -> None:
    a, b, c = (out["id"] for out in make(mine, labels=["cat"], n=3)["outputs"])
    with service.bearer("generate") as other:
        theirs = make(other)["outputs"][0]["id"]

        def change(which: list[str], change: str) -> int:
            answer = mine.patch("/v1/images", json={"ids": which, "change": change})
            assert answer.status_code == 200, answer.text
            return int(answer.json()["changed"])

        assert change([a, b, theirs, "gen_x-0"], "favourite") == 2
        assert ids(mine, favourite=True) == [b, a]
        assert change([a], "ordinary") == 1
        assert ids(mine, favourite=True) == [b]
        assert change([a, b, theirs], "trash") == 2
        since = mine.get(f"/v1/images/{a}/about").json()["trashed_at"]
        assert change([a], "trash") == 1  # again: its 30 days go on
        assert mine.get(f"/v1/images/{a}/about").json()["trashed_at"] == since
        assert ids(mine) == [c] and ids(mine, trash=True) == [b, a]
        assert change([a], "restore") == 1
        assert ids(mine) == [c, a]
        assert change([a, b, theirs], "delete") == 2
        assert ids(mine) == [c] and ids(mine, trash=True) == []
        assert ids(other) == [theirs] and not other.get(f"/v1/images/{theirs}/about").json()["favourite"]
    for body in ({"ids": []}, {"ids": [c] * 501}, {"ids": [c], "change": "burn"}, {"ids": c, "change": "trash"}):
        problem(mine.patch("/v1/images", json={"change": "trash", **body}), 422, "input")


def test_a_zip_of_some(mine: httpx.Client, service: Service) -> None:
    a, b, c = (out["id"] for out in make(mine, labels=["cat", "dog"], n=3, seed=5)["outputs"])

    def names(**query: Any) -> list[str]:
        answer = mine.get("/v1/images.zip", params=query)
        assert answer.status_code == 200, answer.text
        with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
            return [name.partition("-")[2] for name in found.namelist()]

    assert names(id=[a, c, "gen_x-0"]) == ["002-cat-seed7.png", "000-cat-seed5.png"]
    assert names(id=[a, b], label="dog") == ["001-dog-seed6.png"]
    assert len(names(id=[b, *(f"gen_{'x' * 26}-{i}" for i in range(499))])) == 1  # so long may an address be
    problem(mine.get("/v1/images.zip", params={"id": ["x"] * 501}), 422, "input")


def test_zips(mine: httpx.Client) -> None:
    job = make(mine, labels=["cat", "dog"], n=4, seed=5)
    mine.delete(job["outputs"][0]["url"])
    answer = mine.get("/v1/images.zip", params={"label": "dog"})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
        assert found.testzip() is None
        names = [f"{job['id']}-003-dog-seed8.png", f"{job['id']}-001-dog-seed6.png"]
        assert found.namelist() == names
        assert found.read(names[0]) == mine.get(job["outputs"][3]["url"]).content
    with zipfile.ZipFile(io.BytesIO(mine.get(job["urls"]["zip"]).content)) as found:
        assert len(found.namelist()) == 3


def test_other_formats_and_names(mine: httpx.Client) -> None:
    job = make(mine, labels=["dog"], seed=9)
    url = job["outputs"][0]["url"]
    plain, webp = mine.get(url), mine.get(url, params={"format": "webp", "download": True})
    assert webp.headers["content-disposition"] == 'attachment; filename="000-dog-seed9.webp"'
    assert png.read_recipe(webp.content) == png.read_recipe(plain.content)
    assert png.is_synthetic(webp.content) and png.is_synthetic(plain.content)
    both = [Image.open(io.BytesIO(found.content)).convert("RGB").tobytes() for found in (plain, webp)]
    assert both[0] == both[1]
    answer = mine.post("/v1/generations", json={"model": "toy"}, headers={"Accept": "image/webp"})
    assert answer.headers["content-type"] == "image/webp" and answer.content[8:12] == b"WEBP"


@pytest.mark.parametrize("format", ["png", "webp"])
def test_a_file_is_run_again_from_itself(mine: httpx.Client, format: str) -> None:
    job = make(mine, labels=["cat", "кот"], n=2, seed=40, controls={"steps": 3, "solver": "heun"}, format=format)
    file = mine.get(job["outputs"][1]["url"]).content
    mine.delete(job["urls"]["self"])
    answer = mine.post("/v1/generations/from-file", files={"file": file}, headers={"Prefer": "wait=30"})
    assert answer.status_code == 200, answer.text
    again = answer.json()
    assert again["request"]["controls"]["solver"] == "heun"
    assert (again["outputs"][0]["label"], again["outputs"][0]["seed"]) == ("кот", 41)
    pixels = [Image.open(io.BytesIO(f)).convert("RGB").tobytes() for f in (
        file, mine.get(again["outputs"][0]["url"]).content)]  # fmt: skip
    assert pixels[0] == pixels[1]
    more = mine.post("/v1/generations/from-file", files={"file": file}, data={"n": "3"}).json()
    assert more["request"]["n"] == 3 and more["request"]["seed"] == 41


def told(recipe: Any) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("kartina", recipe if isinstance(recipe, str) else json.dumps(recipe))
    out = io.BytesIO()
    Image.new("L", (4, 4)).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def test_files_that_say_nothing_usable_are_refused(mine: httpx.Client, service: Service) -> None:
    hash = service.client.get("/v1/models/toy").json()["hash"]
    good = {"model": "toy@1", "hash": hash, "task": "generate", "label": "cat", "seed": 1, "controls": {}}
    assert mine.post("/v1/generations/from-file", files={"file": told(good)}).status_code == 202
    plain = io.BytesIO()
    Image.new("L", (4, 4)).save(plain, "PNG")
    for file, status in (
        (plain.getvalue(), 422), (b"", 422), (b"GIF89a", 422), (told("{"), 422), (told("[]"), 422), (told("null"), 422),
        (told({**good, "seed": -1}), 422), (told({**good, "seed": "1"}), 422), (told({**good, "hash": "../x"}), 422),
        (told({**good, "hash": "0" * 64}), 404), (told({**good, "label": "cow"}), 404),
        (told({**good, "task": "os.system"}), 404), (told({**good, "controls": {"steps": 10**9}}), 422),
        (told("[" * 100_000), 422),
    ):  # fmt: skip
        answer = mine.post("/v1/generations/from-file", files={"file": file})
        assert answer.status_code == status, (file[:80], answer.text)
        problem(answer, status, answer.json()["code"])
    problem(mine.post("/v1/generations/from-file"), 422, "input")


def test_wrong_queries(mine: httpx.Client) -> None:
    times = ("since=yesterday", "since=1750000000", "until=0.5")
    for query in ("limit=0", "limit=101", *times, "favourite=maybe", f"cursor={'x' * 101}"):
        problem(mine.get(f"/v1/images?{query}"), 422, "input")
    for cursor in ("x", "", "%00", "gen_", "~~~"):
        assert mine.get(f"/v1/images?cursor={cursor}").status_code in (200, 422), cursor
    for text in ("%00", "a%00b"):
        for name in ("label", "model"):
            assert mine.get(f"/v1/images?{name}={text}").status_code in (200, 422)
        assert mine.get(f"/v1/images/{text}").status_code in (404, 422)
