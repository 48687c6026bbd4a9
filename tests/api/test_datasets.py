"""Data sets over HTTP: uploads that outlive connections and services, a look, an import, pages of pictures, an end."""

from __future__ import annotations

import hashlib
import io
import signal
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from kartina.models import png
from tests.api.test_api import problem
from tests.engine import toy_package, toys  # noqa: F401  a fixture
from tests.pictures import pack, pixels, tree
from tests.service import Service

PART = {"Content-Type": "application/partial-upload"}


class House:
    """A service that can be killed and started again, and a client of it."""

    def __init__(self, home: Path):
        self.home = home
        self.service = Service(home)
        self.port = str(self.service.port)
        self.client = self.service.bearer("data", "generate")

    def restart(self, number: int = signal.SIGKILL) -> None:
        self.service.stop(number)
        self.service = Service(self.home, "--port", self.port)

    def upload(self, content: bytes, name: str = "a.zip", **more: Any) -> str:
        body = {"filename": name, "bytes": len(content), **more}
        answer = self.client.post("/v1/uploads", json=body)
        assert answer.status_code == 201, answer.text
        sent = self.client.patch(answer.headers["location"], content=content, headers={**PART, "Upload-Offset": "0"})
        assert sent.status_code == 200, sent.text
        assert sent.headers["upload-complete"] == "?1"
        id: str = sent.json()["id"]
        return id

    def ended(self, answer: httpx.Response) -> Any:
        """The job at its end."""
        assert answer.status_code == 202, answer.text
        url = answer.headers["location"]
        deadline = time.monotonic() + 120
        while (job := self.client.get(url).json())["status"] not in ("succeeded", "failed", "canceled"):
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
        return job

    def imported(self, content: bytes, name: str, **more: Any) -> Any:
        body = {"upload": self.upload(content), "name": name, **more}
        job = self.ended(self.client.post("/v1/datasets", json=body))
        assert job["status"] == "succeeded", job["error"]
        return self.client.get(f"/v1/datasets/{name}").json()


@pytest.fixture(scope="module")
def house(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:  # noqa: F811
    home = tmp_path_factory.mktemp("datasets") / "home"
    toy_package(home / "models")
    made = House(home)
    yield made
    made.client.close()
    made.service.stop()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """40 cats, 12 dogs (two alike), a file that is no image."""
    root = tmp_path_factory.mktemp("pictures")
    tree(root / "in", {"cat": 40, "dog": 11}, channels=1)
    (root / "in" / "dog" / "copy.png").write_bytes((root / "in" / "dog" / "00.png").read_bytes())
    (root / "in" / "cat" / "broken.png").write_bytes(b"\x89PNG broken")
    return pack(root / "in", root / "a.zip").read_bytes()


def test_an_upload_outlives_connections_and_services(house: House, archive: bytes) -> None:
    client, digest = house.client, hashlib.sha256(archive).hexdigest()
    begun = client.post("/v1/uploads", json={"filename": "pets.zip", "bytes": len(archive), "sha256": digest})
    url = begun.headers["location"]
    assert (begun.headers["upload-offset"], begun.headers["upload-complete"]) == ("0", "?0")
    assert begun.json() == client.get(url).json() and begun.json()["url"] == url

    first = client.patch(url, content=archive[:5000], headers={**PART, "Upload-Offset": "0"})
    assert (first.status_code, first.headers["upload-offset"]) == (200, "5000")
    house.restart()
    found = client.head(url)
    assert (found.status_code, found.headers["upload-offset"], found.headers["upload-length"]) == (
        204, "5000", str(len(archive)),
    )  # fmt: skip
    assert "max-append-size=67108864" in found.headers["upload-limit"]
    for wrong in (0, 4999, 5001):
        refused = client.patch(url, content=b"x", headers={**PART, "Upload-Offset": str(wrong)})
        problem(refused, 409, "wrong_offset")
        assert refused.headers["upload-offset"] == "5000"
    problem(client.patch(url, content=b"x", headers=PART), 422, "input")
    problem(client.patch(url, content=b"x", headers={"Upload-Offset": "5000", "Content-Type": "text/html"}), 415,
            "unsupported_media_type")  # fmt: skip
    too_large = client.patch(url, content=bytes(2**26 + 1), headers={**PART, "Upload-Offset": "5000"})
    problem(too_large, 413, "too_large")

    job = client.post("/v1/datasets", json={"upload": begun.json()["id"], "name": "early"})
    assert "5,000 of the" in problem(job, 409, "conflict")["detail"]
    rest = client.patch(url, content=archive[5000:], headers={**PART, "Upload-Offset": "5000"})
    assert rest.headers["upload-complete"] == "?1" and rest.json()["sha256"] == digest
    assert [one["id"] for one in client.get("/v1/uploads").json()["items"]] == [begun.json()["id"]]
    assert client.delete(url).status_code == 204
    problem(client.get(url), 404, "not_found")


def test_an_upload_is_never_all_in_memory(house: House) -> None:
    def peak() -> int:
        lines = Path(f"/proc/{house.service.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    house.upload(bytes(2**20))
    before = peak()
    id = house.upload(bytes(2**26))
    assert peak() - before < 2**24, "a quarter of the part"
    assert house.client.delete(f"/v1/uploads/{id}").status_code == 204


def test_look_import_browse_and_delete(house: House, archive: bytes) -> None:
    client = house.client
    upload = house.upload(archive)
    looked = house.ended(client.post("/v1/datasets/inspect", json={"upload": upload}))
    assert looked["kind"] == "inspect" and looked["result"]["classes"] == {"cat": 40, "dog": 12}
    assert looked["result"]["problem_counts"] == {"corrupt": 1, "exact_duplicate": 1, "tiny_class": 2}
    assert looked["result"]["imbalance"] == 3.33 and looked["result"]["advice"]
    foretold = looked["result"]["import"]
    assert foretold["disk"]["enough"] and foretold["disk"]["needed"] == 53 * 16 * 16 * 3
    assert 0 < foretold["wall_seconds"]["low"] < foretold["wall_seconds"]["high"] and "looked at" in foretold["basis"]

    refused = house.ended(client.post("/v1/datasets", json={"upload": upload, "name": "pets"}))
    assert refused["status"] == "failed" and refused["error"]["code"] == "data"
    assert "1 of 53 images in a.zip that cannot be used" in refused["error"]["detail"]
    body = {"upload": upload, "name": "pets", "skip_bad": True}
    key = {"Idempotency-Key": "once"}
    done = house.ended(client.post("/v1/datasets", json=body, headers=key))
    assert done["status"] == "succeeded" and done["progress"]["value"] == 1.0
    assert client.post("/v1/datasets", json=body, headers=key).json()["id"] == done["id"], "the same job again"
    problem(client.get(f"/v1/uploads/{upload}"), 404, "not_found")  # it went with its import

    pets = client.get("/v1/datasets/pets").json()
    assert (pets["images"], pets["width"], pets["channels"], pets["skipped"]) == (52, 16, 1, 1)
    assert pets["hash"] == done["result"]["hash"] and pets["own"] and pets["imbalance"] == 3.33
    assert [(one["name"], one["count"]) for one in pets["classes"]] == [("cat", 40), ("dog", 12)]
    assert pets["splits"] == {"train": 42, "val": 5, "test": 5}
    assert pets["report"]["problem_counts"]["exact_duplicate"] == 1
    assert [one["name"] for one in client.get("/v1/datasets").json()["items"]] == ["digits", "pets"]
    page = client.get("/v1/datasets?limit=1").json()
    assert [one["name"] for one in client.get(f"/v1/datasets?cursor={page['next_cursor']}").json()["items"]] == ["pets"]

    seen: list[Any] = []
    cursor = ""
    while True:
        page = client.get(f"/v1/datasets/pets/images?label=dog&limit=5{cursor}").json()
        seen += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert len(seen) == 12 and {one["label"] for one in seen} == {"dog"}
    assert len({one["index"] for one in seen}) == 12
    assert len(client.get("/v1/datasets/pets/images?split=val&limit=100").json()["items"]) == 5
    problem(client.get("/v1/datasets/pets/images?label=cow"), 404, "not_found")

    image = client.get(seen[0]["url"])
    assert image.headers["content-type"] == "image/png" and "sandbox" in image.headers["content-security-policy"]
    assert not png.is_synthetic(image.content) and png.read_recipe(image.content) is None
    shown = np.asarray(Image.open(io.BytesIO(image.content)))
    assert any((shown == pixels(seed, 16, 1)).all() for seed in range(41, 52)), "it is what was uploaded"
    example = client.get(pets["classes"][1]["example"])
    assert example.content == client.get(seen[0]["url"]).content
    for missing in ("images/52.png", "sources/0.png", "classes/2.png"):
        problem(client.get(f"/v1/datasets/pets/{missing}"), 404, "not_found")

    problem(client.post("/v1/datasets", json={"upload": house.upload(archive), "name": "pets"}), 409, "conflict")
    assert client.delete("/v1/datasets/pets").status_code == 204
    problem(client.get("/v1/datasets/pets"), 404, "not_found")


def test_the_embedded_set_is_everybodys(house: House) -> None:
    before = next(one for one in house.client.get("/v1/datasets").json()["items"] if one["name"] == "digits")
    assert (before["images"], before["own"]) == (1797, False)
    digits = house.client.get("/v1/datasets/digits").json()
    assert digits["hash"] and digits["classes"][3]["count"] == 183
    assert house.client.get("/v1/datasets/digits/classes/3.png").status_code == 200
    problem(house.client.delete("/v1/datasets/digits"), 409, "conflict")


def test_pairs(house: House, tmp_path: Path) -> None:
    root = tree(tmp_path / "in", {f"{s}/{side}": 4 for s in ("train", "test") for side in "AB"})
    pairs = house.imported(pack(root, tmp_path / "a.zip").read_bytes(), "pairs")
    assert pairs["paired"] and pairs["classes"] == []
    one = house.client.get("/v1/datasets/pairs/images").json()["items"][0]
    assert house.client.get(one["source_url"]).content != house.client.get(one["url"]).content


def test_what_is_not_safe_is_refused(house: House) -> None:
    """One of many: see tests/handlers/test_datasets.py."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        made.writestr("../../cat/0.png", b"x")
    job = house.ended(house.client.post("/v1/datasets/inspect", json={"upload": house.upload(content.getvalue())}))
    assert job["status"] == "failed" and job["error"]["code"] == "data"
    assert "names inside the archive" in job["error"]["detail"]


def test_quotas(house: House, archive: bytes) -> None:
    with house.service.bearer("data", quota={"bytes": len(archive) + 5000}) as poor:
        body = {"filename": "a.zip", "bytes": len(archive)}
        url = poor.post("/v1/uploads", json=body).headers["location"]
        problem(poor.post("/v1/uploads", json=body), 429, "quota")
        poor.patch(url, content=archive, headers={**PART, "Upload-Offset": "0"})
        asked = {"upload": url.rpartition("/")[2], "name": "poor", "skip_bad": True}
        job = poor.post("/v1/datasets", json=asked).json()
        deadline = time.monotonic() + 60
        while (now := poor.get(f"/v1/jobs/{job['id']}").json())["status"] != "failed":
            assert time.monotonic() < deadline, now
            time.sleep(0.1)
        assert now["error"]["code"] == "quota" and "stored bytes used" in now["error"]["detail"]
        problem(poor.get("/v1/datasets/poor"), 404, "not_found")
        assert poor.delete(url).status_code == 204
        assert poor.post("/v1/uploads", json=body).status_code == 201, "nothing else counts any more"


@pytest.mark.slow
def test_bulk_generation(house: House) -> None:
    client = house.client
    body = {"model": "toy", "counts": {"cat": 500, "кот": 300}, "seed": 3, "controls": {"steps": 2, "delay": 0.1}}
    estimate = client.post("/v1/bulk/estimate", json=body).json()
    assert estimate["images"] == 800 and estimate["basis"] == "engine" and estimate["fits"]
    assert estimate["seconds"]["low"] < estimate["seconds"]["value"] < estimate["seconds"]["high"]
    answer = client.post("/v1/bulk", json=body)
    assert answer.json()["request"]["counts"] == {"cat": 500, "кот": 300}
    url = answer.headers["location"]
    while client.get(url).json()["progress"]["value"] == 0:
        time.sleep(0.05)
    house.restart()  # its worker, and the job's process, end with it
    job = house.ended(answer)
    assert job["status"] == "succeeded", job["error"]
    assert [one["name"] for one in job["outputs"]] == ["images.zip"]
    size = job["outputs"][0]["size"]
    assert estimate["bytes"]["low"] < size < estimate["bytes"]["high"], (estimate, size)
    file = job["outputs"][0]["url"]
    whole = client.get(file).content
    part = client.get(file, headers={"Range": f"bytes=1000-{size}"})
    assert part.status_code == 206 and part.content == whole[1000:]
    with zipfile.ZipFile(io.BytesIO(whole)) as found:
        assert found.testzip() is None and len(found.namelist()) == 802
        assert png.read_recipe(found.read("class-2/500-seed503.png"))["label"] == "кот"  # type: ignore[index]
    again = client.post("/v1/bulk/estimate", json=body).json()
    assert again["basis"] == "earlier job"

    made = house.ended(client.post("/v1/datasets", json={"bulk": job["id"], "name": "made"}))
    assert made["status"] == "succeeded", made["error"]
    classes = client.get("/v1/datasets/made").json()["classes"]
    assert [(one["name"], one["count"]) for one in classes] == [("cat", 500), ("кот", 300)]
    assert client.delete(url).status_code == 204
    problem(client.get(file), 404, "not_found")


def test_what_bulk_cannot_do_is_refused(house: House) -> None:
    with house.service.bearer("generate", quota={"images": 100}) as poor:
        problem(poor.post("/v1/bulk", json={"model": "toy", "n": 101}), 429, "quota")
        job = poor.post("/v1/bulk", json={"model": "toy", "n": 90, "controls": {"delay": 1.0}})
        problem(poor.post("/v1/bulk", json={"model": "toy", "n": 90}), 429, "quota")
        assert poor.post(f"{job.headers['location']}/cancel").status_code == 200
        while poor.get(job.headers["location"]).json()["status"] != "canceled":
            time.sleep(0.05)
        assert poor.delete(job.headers["location"]).status_code == 204
        assert poor.post("/v1/bulk", json={"model": "toy", "n": 90}).status_code == 202
    for body, status, says in (
        ({"model": "toy"}, 422, "expected n or counts"),
        ({"model": "toy", "n": 5, "counts": {"cat": 4}}, 422, "expected n or counts"),
        ({"model": "toy", "n": 5, "labels": ["cow"]}, 404, "no class called 'cow'"),
        ({"model": "none", "n": 5}, 404, "none"),
        ({"model": "toy", "n": 1_000_001}, 422, "1000000"),
        ({"model": "toy", "n": 5, "controls": {"stepz": 1}}, 422, "stepz"),
    ):
        for url in ("/v1/bulk", "/v1/bulk/estimate"):
            answer = house.client.post(url, json=body)
            assert answer.status_code == status and says in answer.json()["detail"], answer.text
    problem(house.client.post("/v1/datasets", json={"name": "x", "bulk": "999"}), 404, "not_found")
    problem(house.client.post("/v1/datasets", json={"name": "x"}), 422, "config")
