"""Packages over HTTP: export, import, activate, roll back, delete; and everything that an import refuses."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from kartina.data.sandbox import Sandbox
from kartina.errors import DataError
from kartina.models import check, package
from kartina.models.model import save
from kartina.services.models import Models
from kartina.services.packages import Packages
from tests import tiny
from tests.api.test_api import problem
from tests.engine import CARD, PROVENANCE, toy_package
from tests.service import Service

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def curator(service: Service) -> Iterator[httpx.Client]:
    save(tiny.sampler("vae"), "small", PROVENANCE, CARD, root=service.home / "models")
    with service.bearer("models", "generate") as client:
        yield client


def files_of(client: httpx.Client, ref: str) -> Files:
    answer = client.get(f"/v1/models/{ref}/package.zip")
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def bring(client: httpx.Client, content: bytes, **form: str) -> httpx.Response:
    return client.post("/v1/models", files={"file": ("m.zip", content, "application/zip")}, data=form)


def changed(files: Files, change: Callable[[dict[str, Any]], None]) -> Files:
    """The files with a manifest that was changed, and says so with a right hash."""
    manifest = json.loads(files["model.json"])
    change(manifest)
    manifest["hash"] = package.content_hash(manifest)
    return {**files, "model.json": json.dumps(manifest).encode()}


def test_a_package_goes_out_and_comes_back(curator: httpx.Client, service: Service) -> None:
    files = files_of(curator, "small")
    assert {"model.json", "card.json"} <= set(files) and any(name.endswith(".safetensors") for name in files)
    card = curator.get("/v1/models/small").json()
    again = bring(curator, zipped(files))
    assert again.status_code == 200 and again.json() == card  # it is here already
    other = bring(curator, zipped(files, zipfile.ZIP_DEFLATED), name="copy")
    assert other.status_code == 201, other.text
    assert (other.json()["ref"], other.json()["hash"]) == ("copy@1", card["hash"])
    made = [
        curator.post("/v1/generations", json={"model": ref, "seed": 1}, headers={"Accept": "image/png"})
        for ref in ("small", "copy")
    ]
    assert all(answer.status_code == 200 for answer in made)
    pixels = [Image.open(io.BytesIO(answer.content)).tobytes() for answer in made]
    assert pixels[0] == pixels[1]
    assert curator.delete("/v1/models/copy").status_code == 204
    problem(curator.get("/v1/models/copy"), 404, "not_found")
    assert not list((service.home / "models").glob(".import-*"))


def test_versions_are_activated_and_rolled_back(curator: httpx.Client, service: Service) -> None:
    for seed in range(3):
        toy_package(service.home / "models", "many", seed=seed)

    def active() -> list[str]:
        items = curator.get("/v1/models?limit=100").json()["items"]
        assert [m["ref"] for m in items if m["name"] == "many"] == ["many@3", "many@2", "many@1"]
        found = [m["ref"] for m in items if m["name"] == "many" and m["active"]]
        assert curator.get("/v1/models/many").json()["ref"] == found[0]
        return found

    assert active() == ["many@3"]  # the newest, as long as nothing is said
    assert curator.post("/v1/models/many@1/activate").json()["active"] is True
    assert active() == ["many@1"]
    hash = curator.post("/v1/models/many@2/activate").json()["hash"]
    assert active() == ["many@2"]
    measured, deadline = service.home / "cache" / "engine" / f"{hash}-cpu.json", time.monotonic() + 30
    while not measured.exists():  # the engine has it ready before anybody asks for its images
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert curator.post("/v1/models/many/rollback").json()["ref"] == "many@1"
    assert active() == ["many@1"]
    problem(curator.post("/v1/models/many/rollback"), 409, "conflict")
    job = curator.post("/v1/generations", json={"model": "many"}, headers={"Prefer": "wait=30"}).json()
    assert job["request"]["model"] == "many@1"
    assert curator.delete("/v1/models/many@1").status_code == 204
    assert curator.get("/v1/models/many").json()["ref"] == "many@3"
    for ref in ("many@9", "nobody"):
        problem(curator.post(f"/v1/models/{ref}/activate"), 404, "not_found")
        problem(curator.post(f"/v1/models/{ref}/rollback"), 404, "not_found")
        problem(curator.delete(f"/v1/models/{ref}"), 404, "not_found")
    bundled = next(m["ref"] for m in curator.get("/v1/models?limit=100").json()["items"] if m["bundled"])
    problem(curator.delete(f"/v1/models/{bundled}"), 409, "conflict")


NAMES = [
    "../model.json", "..", ".", "/etc/passwd", "a/../../x.safetensors", "classes/../model.json", "classes/../../x.png",
    "C:\\x.json", "..\\x.json", "model.json/", "a.pkl", "model.pt", "weights.bin", "code.py",
    "__init__.py", "classes/01.png", "classes/1.PNG", "classes/-1.png", "classes/a.png", "samples.svg", "samples.html",
    ".hidden.safetensors", "a b.safetensors", "a/b.safetensors", "generator.safetensors.gz", "x" * 70 + ".safetensors",
    "кот.safetensors", "~/x.safetensors", "$HOME.safetensors", "model.json ", " model.json", "MODEL.JSON",
    "./model.json",
    "classes//0.png", "classes/0.png/x", "nul", "con.safetensors.png", "%2e%2e/x.json", "classes/0000001.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none_is_refused(curator: httpx.Client, service: Service, name: str) -> None:
    files = {**files_of(curator, "small"), name: b"x"}
    found = problem(bring(curator, zipped(files), name="evil"), 422, "data")
    assert "in the ZIP; expected regular files" in found["detail"]
    assert not (service.home / "models" / "evil").exists()
    assert not list((service.home / "models").glob(".import-*"))


def test_two_hundred_names_are_refused_before_anything_is_written(home: Path) -> None:
    packages = Packages(Models(), Sandbox())
    names = {before + name for before in ("", "/", "../", "a/../", "classes/", "\\", "C:") for name in NAMES}
    assert len(names) > 200
    for name in sorted(names):
        with pytest.raises(DataError, match="in the ZIP; expected regular files"):
            packages.add(io.BytesIO(zipped({name: b"x"})))
    assert list(home.parent.rglob("*")) == [home, home / "models"]


def linked(files: Files, kind: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        entry = zipfile.ZipInfo("samples.png")
        entry.external_attr = (kind | 0o777) << 16
        archive.writestr(entry, b"/etc/passwd")
    return out.getvalue()


def weights(files: Files) -> str:
    return next(name for name in files if name.endswith(".safetensors"))


def with_weights(files: Files, content: bytes) -> Files:
    """The files with other weights, whose size and hash the manifest names rightly."""
    name = weights(files)

    def change(manifest: dict[str, Any]) -> None:
        (part,) = [p for p in manifest["parts"].values() if p["file"] == name]
        part["sha256"], part["bytes"] = hashlib.sha256(content).hexdigest(), len(content)

    return changed({**files, name: content}, change)


def renamed_tensor(content: bytes) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    first = next(name for name in header if name != "__metadata__")
    header = {("x" + name if name == first else name): entry for name, entry in header.items()}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def test_packages_that_are_not_what_they_say_are_refused(curator: httpx.Client, service: Service) -> None:
    files = files_of(curator, "small")
    name = weights(files)
    content = files[name]
    bomb = {**files, "card.json": b" " * (4 * 2**20)}
    cases: list[tuple[bytes, str]] = [
        (b"", "not a whole ZIP"),
        (b"PK\3\4" + b"\0" * 100, "not a whole ZIP"),
        (zipped(files)[:-100], "not a whole ZIP|Bad|expected"),
        (linked({k: v for k, v in files.items() if k != "samples.png"}, stat.S_IFLNK), "expected regular files"),
        (linked({k: v for k, v in files.items() if k != "samples.png"}, stat.S_IFIFO), "expected regular files"),
        (zipped({k: v for k, v in files.items() if k != "model.json"}), "no model.json"),
        (zipped({k: v for k, v in files.items() if k != "card.json"}), "no card.json"),
        (zipped({k: v for k, v in files.items() if k != name}), "model.json names"),
        (zipped({**files, "more.safetensors": content}), "model.json names"),
        (zipped({**files, "model.json": b"{"}), "not JSON"),
        (zipped({**files, "model.json": b"[" * 100_000}), "not JSON"),
        (zipped({**files, "model.json": files["model.json"].replace(b'"seed": 0', b'"seed": 1')}), "hash"),
        (zipped(changed(files, lambda m: next(iter(m["parts"].values())).update(file="../x"))), "not a model"),
        (zipped(bomb, zipfile.ZIP_DEFLATED), "no bomb"),
        (zipped({**files, "samples.png": b"<svg onload=alert(1)>"}), "an SVG"),
        # What loading it would meet is found in a process of its own; the next test has more of these.
        (zipped({**files, name: content[:-1] + b"\1"}), "sha256|changed"),
        (zipped(with_weights(files, renamed_tensor(content))), "do not fit"),
        (zipped(changed(files, lambda m: m.update(family="nosuch"))), "nosuch"),
    ]  # fmt: skip
    for i, (archive, says) in enumerate(cases):
        answer = bring(curator, archive, name="evil")
        assert answer.status_code in (404, 422), (i, says, answer.text)
        assert re.search(says, answer.json()["detail"]), (i, says, answer.text)
        assert str(service.home) not in answer.text, i
    assert not (service.home / "models" / "evil").exists()
    assert not list((service.home / "models").glob(".import-*"))
    for bad in ("../x", "A", "a/b", "deadbeef", ".x"):
        assert bring(curator, zipped(files), name=bad).status_code == 422
    problem(curator.post("/v1/models"), 422, "input")


def test_what_the_check_of_weights_refuses(
    curator: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`kartina.models.check`, which an import runs, here: its first second would be torch's every time."""
    files = files_of(curator, "small")
    name = weights(files)
    content = files[name]
    cases: list[tuple[Files, str]] = [
        ({**files, name: content[:-8]}, "bytes"),
        (with_weights(files, renamed_tensor(content)), "do not fit"),
        (with_weights(files, b"\x80\4\x95pickle" + content), "header"),
        (with_weights(files, struct.pack("<Q", 2**40) + content[8:]), "header"),
        (changed(files, lambda m: m.update(family="os.system")), "not a model's"),
        (changed(files, lambda m: m["config"].update(width=10**9)), "expected|do not fit|Could not build"),
        (changed(files, lambda m: m["spec"].update(height=4096, width=4096)), "do not fit|Could not build"),
    ]
    for i, (given, says) in enumerate([(files, "^$"), *cases]):
        where = tmp_path / str(i)
        for path, data in given.items():
            (where / path).parent.mkdir(parents=True, exist_ok=True)
            (where / path).write_bytes(data)
        monkeypatch.setattr(sys, "argv", ["check", str(where)])
        check.main()
        found = json.loads(capsys.readouterr().out)
        assert re.search(says, found.get("message", "")), (i, says, found)


def test_an_archive_names_a_file_once(curator: httpx.Client) -> None:
    files = files_of(curator, "small")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("card.json", b"{}")
    assert "twice" in problem(bring(curator, out.getvalue()), 422, "data")["detail"]
    many = {f"classes/{i}.png": b"" for i in range(5000)}
    assert "5000 files" in problem(bring(curator, zipped(many)), 422, "data")["detail"]
