"""Requests with input images: what the worker makes of them, and of wrong ones."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kartina.errors import DataError, QueueFullError
from kartina.models import inputs, package, png
from kartina.models.model import load, save
from kartina.models.package import PackageRef
from kartina.serving.client import LocalEngine, Room
from kartina.serving.protocol import (
    Canceled,
    Event,
    Failed,
    Finished,
    Output,
    RequestSpec,
    RowSpec,
    Submit,
    pack,
    unpack,
)
from kartina.serving.worker import _logged
from tests import tiny
from tests.engine import CARD, PROVENANCE
from tests.pictures import pixels
from tests.serving.test_batching import Bench


@pytest.fixture(scope="module")
def pix(tmp_path_factory: pytest.TempPathFactory) -> PackageRef:
    """An untrained pix2pix without classes: colour sources, grey targets."""
    root = tmp_path_factory.mktemp("models")
    return save(tiny.sampler("pix2pix", shape=tiny.spec(16, 1, 0)), "pix", PROVENANCE, CARD, root=root)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def file(seed: int, size: int = 16) -> bytes:
    return png.encode(np.ascontiguousarray(pixels(seed, size).transpose(2, 0, 1)))


def spec(ref: PackageRef, id: str, images: tuple[bytes, ...], task: str = "translate", n: int = 4) -> RequestSpec:
    rows = tuple(RowSpec(index=i, seed=7 + i) for i in range(n))
    hash = package.read_manifest(ref.path).hash
    return RequestSpec(
        id=id, model=str(ref.path), hash=hash, task=task, rows=rows, inputs={"image": images} if images else {}
    )


def run(*specs: RequestSpec) -> dict[str, list[Event]]:
    bench = Bench()
    for asked in specs:
        bench.submit(asked)
    while bench.batcher.requests:
        if not bench.batcher.step() and bench.batcher.requests:
            assert bench.woken.wait(60)
            bench.woken.clear()
    return bench.told


def test_the_queue_has_room_for_so_many_bytes_of_images(pix: PackageRef, tmp_path: Path) -> None:
    """They are in memory until their request has ended, by whatever end."""
    content = file(1)

    async def run() -> None:
        room = Room(inputs=2 * len(content))
        engine = LocalEngine(tmp_path / "nobody", room=room)
        ends = [engine.submit(spec(pix, name, (content,), n=1)) for name in "ab"]
        with pytest.raises(QueueFullError, match="MiB of input images waiting to be used, and room for") as error:
            engine.submit(spec(pix, "c", (content,), n=1))
        assert error.value.retry_after > 0 and room.waiting == 2
        engine.submit(spec(pix, "without", (), n=1))
        engine.cancel("a")
        assert room.bytes == len(content)
        engine.submit(spec(pix, "c", (content,), n=1))
        for name in ("b", "c", "without"):
            engine.cancel(name)
        assert (room.bytes, room.waiting) == (0, 0)
        assert len(ends) == 2
        await engine.close()

    asyncio.run(run())


def test_images_travel_as_they_are(pix: PackageRef) -> None:
    asked = spec(pix, "a", (file(1), file(2)))
    assert unpack(pack(Submit(spec=asked))[4:]) == Submit(spec=asked)


def test_row_i_gets_image_i_mod_m_and_its_recipe_tells(pix: PackageRef) -> None:
    images = (file(1), file(2, 40), file(3))
    told = run(spec(pix, "a", images, n=5))["a"]
    alone = load(pix).translate(list(images), n=5, seed=7)
    made = {event.index: event for event in told if isinstance(event, Output)}
    assert sorted(made) == list(range(5))
    for i, event in made.items():
        recipe = png.read_recipe(event.png)
        assert recipe == alone.recipe_of(i) and recipe["image"] == alone.given[i % 3].sha256
    assert isinstance(told[-1], Finished)


@pytest.mark.parametrize(
    ("task", "images", "code", "says"),
    [
        ("translate", (), "config", "no image for the task 'translate'"),
        ("generate", (), "not_found", "no task called 'generate'; there are: translate"),
        ("translate", (b"text, not an image",), "data", "found text"),
        ("translate", (file(1), file(2)[:60]), "data", "1 of 2 images"),
    ],
)
def test_a_wrong_request_fails_alone(
    pix: PackageRef, task: str, images: tuple[bytes, ...], code: str, says: str
) -> None:
    told = run(spec(pix, "wrong", images, task), spec(pix, "right", (file(1),)))
    (failed,) = told["wrong"]
    assert isinstance(failed, Failed) and failed.code == code and says in failed.message
    assert isinstance(told["right"][-1], Finished)


class Gate:
    """Reads files as ever, those in `held` once it is open; counts what is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *held: bytes):
        self.held, self.read = held, list[bytes]()
        self.reached, self.open = threading.Event(), threading.Event()
        self._whole = inputs.open_image
        monkeypatch.setattr(inputs, "open_image", self._read)

    def _read(self, item: bytes, *more: Any) -> Any:
        self.read.append(item)
        if item in self.held:
            self.reached.set()
            assert self.open.wait(10), "nobody got on before this image was there"
        return self._whole(item, *more)


def until(bench: Bench, *ids: str) -> None:
    """Step until these requests have ended."""
    deadline = time.monotonic() + 8
    while any(id in bench.batcher.requests for id in ids):
        assert time.monotonic() < deadline
        if not bench.batcher.step():
            bench.woken.wait(1)
            bench.woken.clear()


def test_others_go_on_while_a_requests_images_are_decoded(pix: PackageRef, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's large images, and many requests of them; another's small one, one without any, and a cancel."""
    large = tuple(file(seed) for seed in range(1, 4))
    gate, bench = Gate(monkeypatch, *large), Bench()
    for i in range(5):
        bench.submit(spec(pix, f"large-{i}", large).model_copy(update={"client": "greedy"}))
    bench.batcher.step()
    bench.submit(spec(pix, "small", (file(9),)).model_copy(update={"client": "modest"}))
    bench.submit(spec(pix, "wrong", ()).model_copy(update={"client": "modest"}))
    bench.submit(spec(pix, "again", (file(8),)).model_copy(update={"client": "modest"}))
    bench.batcher.cancel("large-4")
    until(bench, "small", "wrong", "again")
    assert not gate.open.is_set()
    assert isinstance(bench.told["small"][-1], Finished) and isinstance(bench.told["again"][-1], Finished)
    assert isinstance(bench.told["wrong"][-1], Failed) and isinstance(bench.told["large-4"][-1], Canceled)
    assert all(not bench.told[f"large-{i}"] for i in range(4))
    gate.open.set()
    bench.run()
    assert all(isinstance(bench.told[f"large-{i}"][-1], Finished) for i in range(4))


def test_only_what_the_rows_use_is_decoded_and_the_same_file_once(
    pix: PackageRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    """150 copies, as a message brings them; and three images of which rows 2 and 5 have the third."""
    gate = Gate(monkeypatch)
    copies = spec(pix, "copies", tuple(bytes(bytearray(file(1))) for _ in range(150)), n=1)
    third = spec(pix, "third", (file(2), b"not an image", file(4)))
    third = third.model_copy(update={"rows": (RowSpec(index=2, seed=1), RowSpec(index=5, seed=2))})
    bench = Bench()
    for asked in (copies, third):
        bench.submit(asked)
        bench.run()
    assert gate.read == [file(1), file(4)]
    made = [event for event in bench.told["third"] if isinstance(event, Output)]
    alone = load(pix).translate([file(4)], n=1)
    assert [png.read_recipe(event.png)["image"] for event in made] == [alone.inputs["image"][0].sha256] * 2  # type: ignore[index]
    with pytest.raises(DataError, match="2 of 3 images"):
        load(pix).translate([file(4), b"not an image", b"not an image"])


@pytest.mark.parametrize("end", ["cancel", "forget"])
def test_a_request_that_ends_while_its_images_are_decoded_leaves_nothing(
    pix: PackageRef, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """One is being decoded, one waits: both stop, with their files, and the next one is made."""
    gate, bench, connection = Gate(monkeypatch, file(1)), Bench(), object()
    for id in ("first", "second"):
        bench.submit(spec(pix, id, (file(1), file(2), file(3))), connection)
    while not gate.reached.is_set():
        bench.batcher.step()
    gone = [weakref.ref(request.spec) for request in bench.batcher.requests.values()]
    if end == "forget":
        bench.batcher.forget(connection)
    else:
        for id in ("first", "second"):
            bench.batcher.cancel(id)
    assert not bench.batcher.requests and all(isinstance(told[-1], Canceled) for told in bench.told.values())
    gate.open.set()
    bench.submit(spec(pix, "next", (file(4),)), connection)
    until(bench, "next")
    assert isinstance(bench.told["next"][-1], Finished)
    assert set(gate.read) == {file(1), file(4)}, "neither the others of the first, nor the second's"
    bench.batcher.decoder._pool.shutdown()
    gc.collect()
    assert [one() for one in gone] == [None, None] and not bench.batcher.groups and not bench.batcher.decoder._waiting


def test_the_files_leave_memory_when_they_have_been_read(pix: PackageRef) -> None:
    bench = Bench(batch=1)
    bench.submit(spec(pix, "a", (file(1), file(2))))
    asked = weakref.ref(bench.batcher.requests["a"].spec)
    tell = _logged(bench.batcher.requests["a"].spec, bench.told["a"].append)
    bench.steps(1)
    request = bench.batcher.requests["a"]
    assert not request.spec.inputs and len(request.inputs["image"]) == 2
    gc.collect()
    assert asked() is None
    bench.run()
    tell(Finished(id="a"))


def test_images_for_a_task_that_takes_none_are_refused(tmp_path: Path) -> None:
    ref = save(tiny.sampler("vae"), "vae", PROVENANCE, CARD, root=tmp_path)
    (failed,) = run(spec(ref, "a", (file(1),), "generate"))["a"]
    assert isinstance(failed, Failed) and failed.code == "config" and "takes none" in failed.message
