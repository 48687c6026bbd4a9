"""Promise 6: same request, same image, whatever else is made. Random requests of several families at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kartina.models.model import Model, load, save
from kartina.models.package import PackageRef, read_manifest
from kartina.serving import tuning
from kartina.serving.protocol import Canceled, Event, Finished, RequestSpec
from tests import tiny
from tests.engine import CARD, PROVENANCE, Background, collect, outputs, request, toy_package
from tests.serving.images import assert_equals_solo

FAMILIES = ("flow", "edm", "ddpm", "vae", "dcgan", "biggan", "meanflow")
AT_ONCE = 24  # requests


@pytest.fixture(scope="module")
def models(toys: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PackageRef]:
    root = tmp_path_factory.mktemp("models")
    found = {name: save(tiny.sampler(name, i), name, PROVENANCE, CARD, root=root) for i, name in enumerate(FAMILIES)}
    return {**found, "toy": toy_package(root)}


@pytest.fixture(scope="module")
def crowd(models: dict[str, PackageRef]) -> Iterator[Background]:
    """A worker whose batches are small enough to be full, and which cannot keep every model."""
    background = Background("--batch", "12", "--models", "5")
    yield background
    background.stop()


def controls(name: str, rng: random.Random) -> dict[str, Any]:
    """Random settings of a family's sampler."""
    steps, guidance = rng.randint(1, 8), rng.choice([1.0, 1.5, 3.0])
    match name:
        case "flow" | "edm" | "ddpm":
            solver = rng.choice(["heun", "euler", "ddim", "dpm++"])
            more: dict[str, Any] = {"churn": 4.0} if solver == "heun" and rng.random() < 0.3 else {}
            more |= {"eta": 0.7} if solver == "ddim" and rng.random() < 0.5 else {}
            more |= {"guide_from": 0.2, "guide_to": 0.8} if rng.random() < 0.3 else {}
            more |= {"guide": "weak"} if name == "edm" and rng.random() < 0.3 else {}
            return {"steps": steps, "guidance": guidance, "solver": solver, **more}
        case "toy":
            return {"steps": steps, "guidance": guidance, "solver": rng.choice(["heun", "euler"])}
        case "meanflow":
            return {"steps": rng.choice([1, 2, 4])}
        case "biggan":
            return {"truncation": rng.choice([0.5, 1.0])}
        case "vae" | "dcgan":
            return {"spread": rng.choice([0.5, 1.0])}
    raise AssertionError(name)


def random_request(models: dict[str, PackageRef], id: str, rng: random.Random) -> tuple[str, RequestSpec]:
    name = rng.choice(sorted(models))
    label = rng.choice([None, 0, 1, 2])
    spec = request(models[name], id, rng.randint(1, 3), rng.randrange(2**40), label, **controls(name, rng))
    caller, once = rng.choice("abc"), rng.random() < 0.1
    return name, spec.model_copy(update={"client": caller, "deterministic": once, "previews": rng.random() < 0.1})


def alone(model: Model, spec: RequestSpec) -> dict[int, Any]:
    return {r.index: model.sample([r.label or 0], 1, r.seed, **spec.controls).images[0] for r in spec.rows}


@pytest.mark.parametrize("n", [40, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)], id="1000")])
def test_every_image_of_random_concurrent_requests_equals_its_solo_run(
    models: dict[str, PackageRef], crowd: Background, n: int
) -> None:
    check(models, crowd, n)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_image_made_by_onnx_runtime_equals_its_solo_run_in_torch(
    models: dict[str, PackageRef], home: Path
) -> None:
    background = Background("--models", "5", "--runtime", "onnx")
    try:
        by = {name: asyncio.run(measured(background, ref)) for name, ref in models.items()}
        assert by == {name: "eager" if name == "biggan" else "onnx" for name in models}  # biggan is not exported
        check(models, background, 1000)
    finally:
        background.stop()


async def measured(background: Background, ref: PackageRef) -> str:
    """The runtime that the worker runs a model in, when it has measured it after a first request."""
    hash, deadline = read_manifest(ref.path).hash, time.monotonic() + 120
    async with background.engine(cache=0) as local:
        assert isinstance((await collect(local.submit(request(ref, "first", 1))))[-1], Finished)
        while (known := tuning.read(hash, "cpu")) is None or known.comparison is None:
            assert time.monotonic() < deadline, ref
            await asyncio.sleep(0.2)
    return known.comparison.runtime


def check(models: dict[str, PackageRef], crowd: Background, n: int) -> None:
    """n requests on three connections, a tenth of them canceled on the way: the others' images are their own."""
    rng = random.Random(n)
    asked = [random_request(models, str(i), rng) for i in range(n)]
    doomed = {i for i in range(n) if rng.random() < 0.1}
    running = asyncio.Semaphore(AT_ONCE)

    async def run() -> list[list[Event]]:
        async with crowd.engine(cache=0) as a, crowd.engine(cache=0) as b, crowd.engine(cache=0) as c:

            async def one(i: int) -> list[Event]:
                async with running:
                    engine, events = (a, b, c)[i % 3], list[Event]()
                    async for event in engine.submit(asked[i][1]):
                        if i in doomed and not events:
                            engine.cancel(str(i))
                        events.append(event)
                    return events

            return list(await asyncio.gather(*map(one, range(n))))

    found = asyncio.run(run())
    loaded = {name: load(ref) for name, ref in models.items()}
    for i, ((name, spec), events) in enumerate(zip(asked, found, strict=True)):
        expected = alone(loaded[name], spec)
        if i in doomed and isinstance(events[-1], Canceled):
            expected = {index: image for index, image in expected.items() if index in outputs(events)}
        else:
            assert isinstance(events[-1], Finished), (name, events[-1])
        assert_equals_solo(events, expected)
    canceled = sum(isinstance(found[i][-1], Canceled) for i in doomed)
    print(f"\n{n} requests, {sum(len(outputs(events)) for events in found)} images as alone; {canceled} canceled")
    assert canceled


def test_the_yardstick_tells_requests_apart(models: dict[str, PackageRef]) -> None:
    """Another seed is another image, in every family: equality with the solo run says something."""
    for ref in models.values():
        images = load(ref).sample([0], 2, seed=5).images.astype(int)
        assert np.abs(images[0] - images[1]).max() > 1


@pytest.mark.parametrize("name", ["flow", "edm", "ddpm", "vae", "biggan", "toy"])
def test_deterministic_images_are_byte_identical_among_15_mixed_neighbours(
    models: dict[str, PackageRef], crowd: Background, name: str
) -> None:
    """Alone, and then late among fifteen requests of the same model and others, deterministic ones too; uncached."""
    rng = random.Random(name)
    given = controls(name, rng)
    spec = request(models[name], "it", 3, 77, **given).model_copy(update={"deterministic": True})
    beside = [random_request(models, str(i), rng)[1] for i in range(9)]
    for i in range(6):
        own = request(models[name], f"own{i}", 3, i, **controls(name, rng))
        beside.append(own.model_copy(update={"deterministic": i % 2 == 0}))

    async def run() -> tuple[list[Event], list[Event]]:
        async with crowd.engine(cache=0) as local:
            single = await collect(local.submit(spec))
            others = [asyncio.create_task(collect(local.submit(other))) for other in beside]
            crowded = await collect(local.submit(spec))
            assert all(isinstance(events[-1], Finished) for events in await asyncio.gather(*others))
            return single, crowded

    single, crowded = (outputs(events) for events in asyncio.run(run()))
    assert len(single) == 3
    assert {i: out.png for i, out in single.items()} == {i: out.png for i, out in crowded.items()}
    assert_equals_solo(list(single.values()), alone(load(models[name]), spec))


def test_an_engine_may_make_every_request_deterministic(models: dict[str, PackageRef], crowd: Background) -> None:
    spec = request(models["flow"], "it", 2, 5, steps=3)

    async def run() -> list[dict[int, bytes]]:
        found = []
        for settings in ({"deterministic": True}, {"deterministic": True}):
            async with crowd.engine(**settings) as local:
                beside = asyncio.create_task(collect(local.submit(request(models["flow"], "other", 5, 9, steps=4))))
                found.append({i: o.png for i, o in outputs(await collect(local.submit(spec))).items()})
                await beside
        async with crowd.engine() as local:
            explicit = spec.model_copy(update={"id": "explicit", "deterministic": True})
            found.append({i: o.png for i, o in outputs(await collect(local.submit(explicit))).items()})
        for setting in (True, False):  # a cache tells the two kinds of request apart
            async with crowd.engine(deterministic=setting) as local:
                await collect(local.submit(spec))
                await collect(local.submit(explicit))
                assert local.cache.hits == (2 if setting else 0)
        return found

    first, second, third = asyncio.run(run())
    assert first == second == third
