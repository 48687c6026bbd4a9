"""Promise 1: every route and method, for every kind of caller. A route that is not in the table fails the test."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from PIL import Image

from kartina import owners
from kartina.api.openapi import document
from kartina.jobs.table import Jobs
from kartina.services.access import SCOPES
from kartina.services.studies import FILES
from kartina.study import spec
from kartina.study.folder import Study
from tests import tiny
from tests.service import Service
from tests.study import tiny_study

# Who may: everybody, whoever is signed in, or who has a scope. "own": and nobody but its owner finds it.
TABLE: dict[tuple[str, str], str] = {
    ("get", "/healthz"): "open",
    ("get", "/readyz"): "open",
    ("get", "/metrics"): "metrics",
    ("post", "/v1/session"): "open",
    ("get", "/v1/session"): "signed in",
    ("get", "/v1/models"): "signed in",
    ("get", "/v1/models/{ref}"): "signed in",
    ("get", "/v1/models/{ref}/samples.png"): "signed in",
    ("get", "/v1/models/{ref}/classes/{index}.png"): "signed in",
    ("post", "/v1/models"): "models",
    ("get", "/v1/models/{ref}/package.zip"): "models",
    ("post", "/v1/models/{ref}/activate"): "models",
    ("post", "/v1/models/{ref}/rollback"): "models",
    ("delete", "/v1/models/{ref}"): "models",
    ("get", "/v1/keys"): "keys",
    ("post", "/v1/keys"): "keys",
    ("delete", "/v1/keys/{id}"): "keys",
    ("get", "/v1/generations"): "generate",
    ("post", "/v1/generations"): "generate",
    ("post", "/v1/generations/from-file"): "generate",
    ("get", "/v1/generations/{id}"): "generate, own",
    ("delete", "/v1/generations/{id}"): "generate, own",
    ("post", "/v1/generations/{id}/cancel"): "generate, own",
    ("get", "/v1/generations/{id}/events"): "generate, own",
    ("get", "/v1/generations/{id}/images.zip"): "generate, own",
    ("get", "/v1/images"): "generate",
    ("get", "/v1/images.zip"): "generate",
    ("patch", "/v1/images"): "generate",
    ("get", "/v1/images/{id}"): "generate, own",
    ("patch", "/v1/images/{id}"): "generate, own",
    ("delete", "/v1/images/{id}"): "generate, own",
    ("get", "/v1/images/{id}/about"): "generate, own",
    ("post", "/v1/images/{id}/restore"): "generate, own",
    ("post", "/v1/images/generations"): "generate",
    ("post", "/v1/images/edits"): "generate",
    ("get", "/v1/jobs"): "signed in",
    ("get", "/v1/jobs/{id}"): "signed in, own",
    ("post", "/v1/jobs/{id}/cancel"): "signed in, own",
    ("post", "/v1/jobs/{id}/resume"): "signed in, own",
    ("delete", "/v1/jobs/{id}"): "signed in, own",
    ("get", "/v1/jobs/{id}/events"): "signed in, own",
    ("get", "/v1/jobs/{id}/files/{name}"): "signed in, own",
    ("get", "/v1/uploads"): "data",
    ("post", "/v1/uploads"): "data",
    ("get", "/v1/uploads/{id}"): "data, own",
    ("head", "/v1/uploads/{id}"): "data, own",
    ("patch", "/v1/uploads/{id}"): "data, own",
    ("delete", "/v1/uploads/{id}"): "data, own",
    ("get", "/v1/datasets"): "data",
    ("post", "/v1/datasets"): "data",
    ("post", "/v1/datasets/inspect"): "data",
    ("get", "/v1/datasets/{name}"): "data, own",
    ("delete", "/v1/datasets/{name}"): "data, own",
    ("get", "/v1/datasets/{name}/images"): "data, own",
    ("get", "/v1/datasets/{name}/images/{index}.png"): "data, own",
    ("get", "/v1/datasets/{name}/sources/{index}.png"): "data, own",
    ("get", "/v1/datasets/{name}/classes/{index}.png"): "data, own",
    ("post", "/v1/bulk"): "generate",
    ("post", "/v1/bulk/estimate"): "generate",
    ("get", "/v1/presets"): "signed in",
    ("get", "/v1/presets/{name}"): "signed in",
    ("post", "/v1/runs"): "train",
    ("post", "/v1/runs/estimate"): "train",
    ("get", "/v1/runs"): "train",
    ("get", "/v1/runs/{name}"): "train, own",
    ("delete", "/v1/runs/{name}"): "train, own",
    ("get", "/v1/runs/{name}/stats"): "train, own",
    ("get", "/v1/runs/{name}/grids/{images}.png"): "train, own",
    ("post", "/v1/runs/{name}/pause"): "train, own",
    ("post", "/v1/runs/{name}/resume"): "train, own",
    ("post", "/v1/runs/{name}/resume/estimate"): "train, own",
    ("post", "/v1/runs/{name}/extend"): "train, own",
    ("post", "/v1/runs/{name}/extend/estimate"): "train, own",
    ("post", "/v1/runs/{name}/publish"): "train, own",  # and models
    ("post", "/v1/runs/{name}/publish/estimate"): "train, own",  # and models
    ("post", "/v1/evaluations"): "train",
    ("post", "/v1/evaluations/estimate"): "train",
    ("post", "/v1/studies"): "train",
    ("post", "/v1/studies/estimate"): "train",
    ("get", "/v1/studies"): "train",
    ("get", "/v1/studies/{name}"): "train, own",
    ("get", "/v1/studies/{name}/report.{format}"): "train, own",
    ("post", "/v1/studies/{name}/cancel"): "train, own",
    ("post", "/v1/studies/{name}/resume"): "train, own",
    ("post", "/v1/studies/{name}/publish"): "train, own",  # and models
    ("post", "/v1/studies/{name}/resume/estimate"): "train, own",
    ("post", "/v1/studies/{name}/publish/estimate"): "train, own",  # and models
    ("get", "/v1/assets"): "generate",
    ("post", "/v1/assets"): "generate",
    ("get", "/v1/assets/{id}"): "generate, own",
    ("get", "/v1/assets/{id}/image.png"): "generate, own",
    ("delete", "/v1/assets/{id}"): "generate, own",
}
REPORT = "/v1/studies/{name}/report.{format}"
ADDRESSES = itertools.count()
METHODS = ("get", "post", "put", "patch", "delete", "options", "head", "trace")
BODIES: dict[tuple[str, str], Any] = {
    ("patch", "/v1/images"): {"ids": ["gen_x-0"], "change": "trash"},
    ("patch", "/v1/images/{id}"): {"favourite": True},
    ("post", "/v1/runs/{name}/extend"): {"images": 1},
    ("post", "/v1/runs/{name}/extend/estimate"): {"images": 1},
    ("post", "/v1/runs/{name}/publish"): {"name": "x"},
    ("post", "/v1/runs/{name}/publish/estimate"): {"name": "x"},
    ("post", "/v1/studies/{name}/publish"): {},
    ("post", "/v1/studies/{name}/publish/estimate"): {},
}
HEADERS = {
    ("patch", "/v1/uploads/{id}"): {"Upload-Offset": "0", "Content-Type": "application/partial-upload"},
}
MARKUP = "<!doctype html><svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/><script>alert(1)</script>"
SANDBOX = {"default-src": "'none'", "frame-ancestors": "'none'", "base-uri": "'none'", "sandbox": ""}
LISTS = [f"/v1/{kind}" for kind in ("generations", "images", "assets", "jobs", "runs", "studies", "uploads")]


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


class Owner:
    """A key that has made an image, uploaded one, and has a job that is done, a run, a study, an upload, a data set."""

    def __init__(self, service: Service):
        self.client = service.bearer("generate", "train", "data")
        headers = {"Prefer": "wait=60"}
        job = self.client.post("/v1/generations", json={"model": "toy"}, headers=headers).json()
        asset = self.client.post("/v1/assets", files={"file": picture()}).json()
        self.ids = {"generations": job["id"], "images": job["outputs"][0]["id"], "assets": asset["id"], "keys": "key_x"}
        key = next(one["id"] for one in service.client.get("/v1/keys").json()["items"])  # the newest
        self.ids |= {"jobs": self.done_job(service, key), "presets": "vae-32-cpu"}
        with service.environment():
            run = tiny.run("vae", service.home)
            (run.path / "owner").write_text(key)
            (run.path / "grids").mkdir()
            (run.path / "grids" / "000000000000.png").write_bytes(picture())
            tiny_study.store(service.home)
            found = spec.parse(tiny_study.TEXT)
            study = Study.create(found, tiny_study.TEXT, owner=key)
            (study.path / "report").mkdir()
            for file in FILES.values():
                (study.path / "report" / file).write_text(MARKUP)
        self.ids |= {"runs": run.id, "studies": study.name, "datasets": self.pairs(service, key)}
        self.ids["uploads"] = self.client.post("/v1/uploads", json={"filename": "a.zip", "bytes": 9}).json()["id"]

    def pairs(self, service: Service, key: str) -> str:
        """The name of a data set of pairs with classes."""
        shape = tiny.spec().model_copy(update={"paired": True, "source_channels": 3})
        found = tiny.store(replace(tiny.images(shape=shape), name="pairs"), service.home)
        owners.write(service.home / "data" / found.name, key)
        return found.name

    def done_job(self, service: Service, key: str) -> str:
        """Its number. It has made a file."""
        with service.environment():
            jobs = Jobs.open()
            jobs.submit("train", {}, caller=key)
            job = jobs.claim("a test", 60)
            assert job is not None
            (job.folder / "attempt-1").mkdir(parents=True)
            (job.folder / "attempt-1" / "x.html").write_text(MARKUP)
            assert jobs.succeed(job.lease, {}, "attempt-1")
            jobs.database.close()
        return str(job.id)

    def url(self, path: str, missing: bool = False) -> str:
        """The path of this owner's things; or of what nobody has."""
        kind = path.split("/")[2] if path.count("/") > 1 else ""
        id = "x" if missing else self.ids.get(kind, "x")
        found = path.replace("{id}", id).replace("{name}", "x.html" if kind == "jobs" else id)
        for part, value in (("ref", "toy@1"), ("index", "0"), ("images", "0"), ("format", "html")):
            found = found.replace(f"{{{part}}}", value)
        return found


@pytest.fixture(scope="module")
def service(on_both: Service) -> Service:
    return on_both


@pytest.fixture(scope="module")
def owner(service: Service) -> Iterator[Owner]:
    made = Owner(service)
    yield made
    made.client.close()


def request(client: httpx.Client | Stranger, method: str, path: str, owner: Owner) -> httpx.Response:
    key = (method, path)
    return client.request(method, owner.url(path), json=BODIES.get(key), headers=HEADERS.get(key))


def test_the_table_has_every_route() -> None:
    told = {(method, path) for path, methods in document()["paths"].items() for method in methods}
    assert told == set(TABLE)


WRONG = "Bearer kt_000000000000_" + "x" * 43


def identity(service: Service, who: str) -> dict[str, str]:
    """Headers of somebody who may not come in."""
    if who == "nobody":
        return {}
    if who == "a key that never was":
        return {"Authorization": WRONG}
    if who == "a session of another time":
        return {"Cookie": f"kartina_session_{service.port}=99999999999.local.{'0' * 64}"}
    made = service.client.post("/v1/keys", json={"name": "gone", "scopes": list(SCOPES)}).json()
    assert service.client.delete(f"/v1/keys/{made['key']['id']}").status_code == 204
    return {"Authorization": f"Bearer {made['secret']}"}


class Stranger:
    """A caller who changes its address before it has guessed too often."""

    def __init__(self, service: Service, headers: dict[str, str]):
        self.url, self.headers, self.asked = service.url, headers, 0
        self.client = self._moved()

    def _moved(self) -> httpx.Client:
        group, number = divmod(next(ADDRESSES), 250)
        there = httpx.HTTPTransport(local_address=f"127.0.{7 + group}.{1 + number}")
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=60, transport=there)

    def request(self, *given: Any, **more: Any) -> httpx.Response:
        self.asked += 1
        if self.asked % 25 == 0:
            self.client.close()
            self.client = self._moved()
        return self.client.request(*given, **more)


@pytest.mark.parametrize("who", ["nobody", "a key that never was", "a deleted key", "a session of another time"])
def test_nobody_gets_in_without_a_session(service: Service, owner: Owner, who: str) -> None:
    client = Stranger(service, identity(service, who))
    for (method, path), allowed in TABLE.items():
        answer = request(client, method, path, owner)
        if allowed == "open":
            assert answer.status_code in (200, 422), (method, path)
        else:
            assert answer.status_code == 401, (method, path, answer.text)
            assert method == "head" or answer.json()["code"] == "unauthenticated"
    for path in sorted({path for _, path in TABLE}):
        for method in METHODS:
            if (method, path) not in TABLE and (method, path) != ("head", "/healthz"):
                expected = 405 if path in ("/healthz", "/readyz") else 401
                assert client.request(method, owner.url(path)).status_code == expected, (method, path)
    client.client.close()


def test_nothing_else_is_there_without_a_session(service: Service) -> None:
    with service.anonymous() as client:
        for url in ("/openapi.json", "/v1/nothing", "/v1"):
            assert client.get(url).status_code == 401
        assert client.post("/").status_code == 401
        for url in ("/docs", "/redoc"):
            assert "swagger" not in client.get(url).text
        for bad in ("Bearer", "Bearer x", "Basic abc", f"Token {service.token}", WRONG):
            assert client.get("/v1/models", headers={"Authorization": bad}).status_code == 401
        for value in ("x", "1.2", "99999999999.", f"99999999999.{'0' * 64}", f"99999999999.local.{'0' * 64}", "é.é"):
            cookie = {"Cookie": f"kartina_session_{service.port}={value}".encode()}
            assert client.get("/v1/models", headers=cookie).status_code == 401


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_does_what_its_scope_says_and_nothing_else(service: Service, owner: Owner, scope: str) -> None:
    with service.bearer(scope) as client:
        for (method, path), who in TABLE.items():
            needed = who.partition(",")[0]
            if needed in SCOPES and needed != scope:
                answer = request(client, method, path, owner)
                assert answer.status_code == 403, (method, path, answer.text)
                if method != "head":
                    assert answer.json()["code"] == "forbidden" and needed in answer.json()["detail"]
            elif method == "get" and who == "signed in":
                assert request(client, method, path, owner).status_code == 200, (method, path)


def test_what_is_anothers_is_not_found_and_in_no_list(service: Service, owner: Owner) -> None:
    """The other key has every scope; so does the local session, which is an owner like any other."""
    with service.bearer(*SCOPES) as other:
        for client in (other, service.client):
            for (method, path), who in TABLE.items():
                if who.endswith("own"):
                    answer = request(client, method, path, owner)
                    assert answer.status_code == 404, (method, path)
                    key = (method, path)
                    missing = client.request(
                        method, owner.url(path, True), json=BODIES.get(key), headers=HEADERS.get(key)
                    )
                    assert missing.status_code == 404  # and looks like what there never was
                    if method == "head":
                        continue
                    assert answer.json()["code"] == "not_found"
                    said, never = answer.json()["detail"], missing.json()["detail"]
                    kind = path.split("/")[2]
                    assert said.replace(owner.ids[kind], "x") == never
        for path in LISTS:
            assert other.get(path).json()["items"] == []
        assert [one["name"] for one in other.get("/v1/datasets").json()["items"]] == ["digits"]
        given = {"model": "toy", "image": owner.ids["assets"], "task": "generate"}
        assert other.post("/v1/generations", json=given).status_code == 422
    for (method, path), who in TABLE.items():
        if who.endswith("own") and method == "get":
            assert request(owner.client, method, path, owner).status_code == 200, path
    assert [one["name"] for one in owner.client.get("/v1/datasets").json()["items"]] == ["digits", "pairs"]
    for path in LISTS:
        assert len(owner.client.get(path).json()["items"]) == 1, path


def test_nothing_is_a_page_but_a_studys_report_and_that_one_may_run_nothing(service: Service, owner: Owner) -> None:
    """Promise 15, whatever is in the files: a browser that opens an address gets no HTML and no SVG, nor guesses one.
    The report is HTML, shown in a sandbox of an origin of its own, without scripts, with nothing that is loaded."""
    browser = {"Accept": "text/html,application/xhtml+xml,image/svg+xml,*/*;q=0.8", "Sec-Fetch-Dest": "document"}
    report = {**SANDBOX, "img-src": "data:", "style-src": "'unsafe-inline'"}
    kinds: dict[str, str] = {}  # of what could be had, by path
    with service.anonymous() as nobody:
        for path in sorted(path for method, path in TABLE if method == "get"):
            for client in (owner.client, service.client, nobody):
                answer = client.get(owner.url(path), headers=browser)
                kind = answer.headers["content-type"].partition(";")[0]
                page = path == REPORT and answer.status_code == 200
                assert (kind == "text/html") is page and not kind.endswith(("svg+xml", "html+xml", "/xml")), path
                assert answer.headers["x-content-type-options"] == "nosniff", path
                assert policy(answer) == (report if path == REPORT else SANDBOX), path
                if answer.status_code == 200:
                    kinds[path] = kind
    assert kinds.keys() == {path for method, path in TABLE if method == "get"}, "each was had by somebody"
    assert kinds["/v1/jobs/{id}/files/{name}"] == "application/octet-stream"
    for format, kind in (("html", "text/html"), ("json", "application/json"), ("csv", "text/csv")):
        answer = owner.client.get(owner.url(REPORT.replace("{format}", format)), headers=browser)
        assert answer.text == MARKUP and answer.headers["content-type"].partition(";")[0] == kind
        assert policy(answer) == (report if format == "html" else SANDBOX)


def policy(answer: httpx.Response) -> dict[str, str]:
    """The directives of its Content-Security-Policy, which it has once."""
    (text,) = answer.headers.get_list("content-security-policy")
    parts = [part.split() for part in text.split(";")]
    assert len({part[0] for part in parts}) == len(parts)
    return {name: " ".join(values) for name, *values in parts}


def test_http_takes_no_path_no_url_and_no_module(service: Service) -> None:
    for model in ("/etc", "../models/toy/1", str(service.home / "models" / "toy" / "1"), "file:///etc/passwd",
                  "http://127.0.0.1:1/x", "kartina.models", "os.system"):  # fmt: skip
        assert service.client.post("/v1/generations", json={"model": model}).status_code == 404
        assert service.client.post("/v1/images/generations", json={"model": model, "prompt": ""}).status_code == 404
        assert service.client.post("/v1/evaluations", json={"model": model}).status_code == 404
        assert service.client.post("/v1/evaluations", json={"run": model}).status_code == 404
        run = {"preset": "vae-32-cpu", "data": "digits", "images": 9}
        assert service.client.post("/v1/runs", json={**run, "data": model[:64]}).status_code == 404
        assert service.client.post("/v1/runs", json={**run, "start": model}).status_code == 404
        assert service.client.post("/v1/runs", json={**run, "teacher": model}).status_code == 404
