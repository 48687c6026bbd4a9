"""Help for tests of the engine, the services and the API: a toy model in KARTINA_HOME and a real worker process."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from kartina import logs, registry
from kartina.config import ImageSpec
from kartina.generators.base import build
from kartina.models import package, png
from kartina.models.model import Model, load, save
from kartina.models.package import PackageRef, Provenance
from kartina.serving.cache import SIZE, ResultCache
from kartina.serving.client import CAPACITY, LocalEngine, Room
from kartina.serving.protocol import Event, Output, RequestSpec, RowSpec
from kartina.serving.supervisor import Supervisor

logs.configure()  # tracebacks as plain JSON: the pretty ones take seconds
TOYS = Path(__file__).parent / "toys"
SPEC = ImageSpec(height=8, width=8, channels=1, classes=("cat", "dog", "кот"))
PROVENANCE = Provenance(
    preset="toy-8", data="pets", data_hash="0" * 64, images=1, seconds=1.0, seed=0, kartina="0.1.0",
    created_at="2026-11-23T00:00:00+00:00",
)  # fmt: skip
CARD: dict[str, Any] = {
    "licence": "CC0-1.0",
    "about": "An untrained toy",
    "data": {"name": "pets", "hash": "0" * 64, "counts": {"cat": 3, "dog": 2, "кот": 1}},
    "budget": {"images": 1, "seconds": 1.0},
    "metrics": {"coverage": {"value": 0.5, "interval": [0.4, 0.6], "floor": 0.9, "identity": {"n": 10}}},
    "per_class": [
        {"class": "dog", "agreement": 0.1, "coverage": 0.2, "diversity": 0.3, "train": 2},
        {"class": "cat", "agreement": 0.9, "coverage": None, "diversity": 0.8, "train": 3, "reason": "too few", "x": 1},
    ],
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with toy_family(tmp_path_factory.mktemp("home")):
        yield


@contextmanager
def toy_family(worker_home: Path) -> Iterator[None]:
    """The toy family, as installed by its entry point: here and in every process started meanwhile."""
    before = dict(os.environ)
    os.environ["KARTINA_HOME"] = str(worker_home)  # of a worker that outlives a test
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TOYS), before.get("PYTHONPATH")]))
    os.environ["OMP_NUM_THREADS"] = "1"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.path.insert(0, str(TOYS))
    import kartina_toy

    registered = "toy" in registry.names()  # by one around this
    if not registered:
        registry.register("toy")(kartina_toy.Toy)
    yield
    if not registered:
        registry.unregister("toy")
    torch.set_num_threads(threads)
    sys.path.remove(str(TOYS))
    for name in ("KARTINA_HOME", "PYTHONPATH", "OMP_NUM_THREADS"):
        del os.environ[name]
        if name in before:
            os.environ[name] = before[name]


def toy_package(root: Path, name: str = "toy", seed: int = 0, spec: ImageSpec = SPEC) -> PackageRef:
    """Save a toy below `root` (a KARTINA_HOME's models folder)."""

    def pictures(model: Model) -> Mapping[str, bytes]:
        samples = model.sample(seed=0)
        classes = {f"classes/{i}.png": png.encode(samples.images[i]) for i in range(len(model.classes))}
        return {"samples.png": png.encode(samples.grid()), **classes}

    with torch.no_grad():
        family = build(registry.family("toy"), {}, spec, seed)
        return save(family.sampler(), name, PROVENANCE, CARD, pictures=pictures, root=root)


def request(ref: PackageRef, id: str, n: int, seed: int = 0, label: int | None = None, **controls: Any) -> RequestSpec:
    """n images of one class, or of every class in turn."""
    rows = tuple(RowSpec(index=i, label=i % 3 if label is None else label, seed=seed + i) for i in range(n))
    hash = package.read_manifest(ref.path).hash
    return RequestSpec(id=id, model=str(ref.path), hash=hash, rows=rows, controls=controls)


def solo(ref: PackageRef, spec: RequestSpec) -> dict[int, Any]:
    """The request's images, each made alone, without the engine: index -> uint8 C,H,W."""
    model = load(ref)
    return {row.index: model.sample([row.label or 0], 1, row.seed, **spec.controls).images[0] for row in spec.rows}


async def collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def outputs(events: list[Event]) -> dict[int, Output]:
    return {event.index: event for event in events if isinstance(event, Output)}


class Background:
    """A supervised worker whose event loop runs in a thread, for tests that each have their own loop."""

    def __init__(self, *options: str, **settings: Any):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.supervisor = Supervisor(["--device", "cpu", "--threads", "1", *options], **settings)
        self.run(self.supervisor.start())

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def stop(self) -> None:
        self.run(self.supervisor.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    @asynccontextmanager
    async def engine(self, capacity: int = CAPACITY, cache: int = SIZE, **settings: Any) -> AsyncIterator[LocalEngine]:
        """An engine on the worker's socket."""
        local = LocalEngine(self.supervisor.socket, room=Room(capacity), cache=ResultCache(cache), **settings)
        try:
            yield local
        finally:
            await local.close()


@pytest.fixture(scope="module")
def worker(toys: None) -> Iterator[Background]:
    """One worker for all tests of a module."""
    background = Background()
    yield background
    background.stop()
