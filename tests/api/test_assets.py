"""Uploaded images, and generations that start from them: every task that models have, over HTTP."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from kartina.models import png
from kartina.models.model import load, save
from kartina.models.package import PackageRef
from tests import tiny
from tests.api.test_api import problem
from tests.engine import CARD, PROVENANCE
from tests.service import Service


@pytest.fixture(scope="module")
def flow(service: Service) -> PackageRef:
    """A tiny model with every task that takes images."""
    return save(tiny.sampler("flow"), "flow", PROVENANCE, CARD, root=service.home / "models")


@pytest.fixture
def mine(service: Service) -> Iterator[httpx.Client]:
    with service.bearer("generate") as client:
        yield client


def picture(size: tuple[int, int] = (16, 16), mode: str = "L", shade: int = 90) -> bytes:
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    out = io.BytesIO()
    Image.fromarray(((x * 9 + y * 5 + shade) % 256).astype(np.uint8)).convert(mode).save(out, "PNG")
    return out.getvalue()


def mask(size: tuple[int, int] = (16, 16)) -> bytes:
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[: size[1] // 2] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def upload(client: httpx.Client, content: bytes, **form: str) -> Any:
    answer = client.post("/v1/assets", files={"file": ("a.png", content, "image/png")}, data=form)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_upload_look_and_delete(mine: httpx.Client) -> None:
    content = picture(mode="RGBA")
    asset = upload(mine, content)
    assert asset["hash"] == hashlib.sha256(content).hexdigest()
    assert (asset["width"], asset["height"], asset["channels"]) == (16, 16, 3)
    assert asset["note"] == "made RGB of RGBA"
    assert upload(mine, content)["id"] == asset["id"]  # the same bytes are the same asset
    other = upload(mine, picture(shade=3))
    assert [found["id"] for found in mine.get("/v1/assets").json()["items"]] == [other["id"], asset["id"]]
    page = mine.get("/v1/assets?limit=1").json()
    assert page["next_cursor"] == other["id"]
    assert mine.get(f"/v1/assets?limit=1&cursor={other['id']}").json() == {"items": [asset], "next_cursor": None}
    image = mine.get(asset["url"])
    assert image.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(image.content)).mode == "RGB"
    assert mine.get(f"/v1/assets/{asset['id']}").json() == asset
    assert mine.delete(f"/v1/assets/{asset['id']}").status_code == 204
    problem(mine.get(f"/v1/assets/{asset['id']}"), 404, "not_found")
    problem(mine.get(asset["url"]), 404, "not_found")
    problem(mine.delete(f"/v1/assets/{asset['id']}"), 404, "not_found")


def test_what_cannot_be_used_is_refused(mine: httpx.Client) -> None:
    for content, says in ((b"", "an empty file"), (b"<svg/>", "an SVG"), (picture()[:-30], "truncated")):
        found = problem(mine.post("/v1/assets", files={"file": content}), 422, "data")
        assert says in found["detail"]
    big = {"file": b"\0" * (20 * 2**20 + 1)}
    assert "at most 20,971,520" in problem(mine.post("/v1/assets", files=big), 422, "data")["detail"]
    problem(mine.post("/v1/assets", files={"file": b"\0" * (22 * 2**20)}), 413, "too_large")
    problem(mine.post("/v1/assets"), 422, "input")
    problem(mine.post("/v1/assets", files={"other": picture()}), 422, "input")
    problem(mine.post("/v1/assets", files={"file": picture()}, data={"kind": "video"}), 422, "input")
    assert mine.get("/v1/assets").json()["items"] == []


@pytest.mark.parametrize("task", ["transform", "inpaint", "invert", "morph", "interpolate"])
def test_every_task_gives_what_the_model_gives(mine: httpx.Client, flow: PackageRef, task: str) -> None:
    controls = {"steps": 2} if task != "invert" else {}
    inputs = load(flow).manifest.tasks[task].inputs  # type: ignore[union-attr]
    files = {"image": picture(), "to_image": picture(shade=30), "mask": mask()}
    given = {kind: upload(mine, files[kind])["id"] for kind in inputs}
    body = {"model": "flow", "task": task, "labels": ["b"], "n": 2, "seed": 5, "controls": controls, **given}
    answer = mine.post("/v1/generations", json=body, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["status"] == "succeeded", job["error"]
    assert {kind: job["request"][kind] for kind in inputs} == {kind: [id] for kind, id in given.items()}
    direct = load(flow).run(
        task, ["b"], 2, 5, controls=controls, **{f"{k}s": files[k] for k in inputs}
    )  # fmt: skip
    for out, expected in zip(job["outputs"], direct.images, strict=True):
        content = mine.get(out["url"]).content
        made = np.asarray(Image.open(io.BytesIO(content)).convert("L")).astype(int)
        assert np.abs(made - expected[0].astype(int)).max() <= 1
        recipe = png.read_recipe(content)
        assert recipe is not None and recipe["task"] == task
    # The asset may go; the job can be asked for again from what it says, while the asset is there.
    again = mine.post("/v1/generations", json=job["request"], headers={"Prefer": "wait=60"}).json()
    assert [out["hash"] for out in again["outputs"]] == [out["hash"] for out in job["outputs"]]


def test_a_file_made_from_an_image_asks_for_it(mine: httpx.Client, flow: PackageRef) -> None:
    asset = upload(mine, picture())["id"]
    body = {"model": "flow", "task": "transform", "labels": ["a"], "image": asset, "controls": {"steps": 2}}
    job = mine.post("/v1/generations", json=body, headers={"Prefer": "wait=60"}).json()
    file = mine.get(job["outputs"][0]["url"]).content
    found = problem(mine.post("/v1/generations/from-file", files={"file": file}), 422, "config")
    assert "takes: image" in found["detail"]
    again = mine.post(
        "/v1/generations/from-file", files={"file": file}, data={"image": asset}, headers={"Prefer": "wait=60"}
    ).json()
    assert again["outputs"][0]["hash"] == job["outputs"][0]["hash"]


def test_wrong_inputs_are_named(mine: httpx.Client, flow: PackageRef, service: Service) -> None:
    asset = upload(mine, picture())["id"]
    base = {"model": "flow", "labels": ["a"]}
    for body, status, says in (
        ({**base, "task": "transform"}, 422, "takes: image"),
        ({**base, "task": "inpaint", "image": asset}, 422, "takes: image and mask"),
        ({**base, "image": asset}, 422, "takes: none"),
        ({**base, "task": "transform", "image": "ast_x"}, 404, "no asset"),
        ({"model": "flow", "task": "transform", "image": asset}, 422, "no labels"),
        ({**base, "task": "translate", "image": asset}, 404, "no task"),
    ):
        answer = mine.post("/v1/generations", json=body)
        assert answer.status_code == status and says in answer.json()["detail"], answer.text
    with service.bearer("generate") as other:  # somebody else's is not there
        theirs = other.post("/v1/generations", json={**base, "task": "transform", "image": asset})
        assert "no asset" in problem(theirs, 404, "not_found")["detail"]
    # A mask of another shape lies nowhere: that shows in the worker, and is told.
    wide = upload(mine, mask((32, 16)))["id"]
    body = {**base, "task": "inpaint", "image": asset, "mask": wide}
    job = mine.post("/v1/generations", json=body, headers={"Prefer": "wait=60"}).json()
    assert job["status"] == "failed" and job["error"]["code"] == "data"
    assert "32x16" in job["error"]["detail"]


def test_an_asset_may_go_while_its_generation_waits(mine: httpx.Client, flow: PackageRef) -> None:
    asset = upload(mine, picture(shade=77))["id"]
    body = {"model": "flow", "task": "transform", "labels": ["a"], "image": asset, "controls": {"steps": 20}, "n": 8}
    job = mine.post("/v1/generations", json=body).json()
    assert mine.delete(f"/v1/assets/{asset}").status_code == 204
    for _ in range(600):
        done = mine.get(job["urls"]["self"]).json()
        if done["status"] not in ("queued", "running"):
            break
    assert done["status"] == "succeeded"
