from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kartina.client import Client
from kartina.models.model import save
from tests import tiny
from tests.engine import CARD, PROVENANCE, toy_family, toy_package
from tests.service import Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service with a model for each task, one for all files: each client has a key of its own."""
    home = tmp_path_factory.mktemp("service") / "home"
    for name, made in (
        ("flow", tiny.sampler("flow")),
        ("pairs", tiny.sampler("flow-pairs")),
        ("up", tiny.sampler("edm-upscale")),
        ("paint", tiny.sampler("flow", shape=tiny.spec(16, 3), source="colorize")),
    ):
        save(made, name, PROVENANCE, CARD, root=home / "models")
    with toy_family(tmp_path_factory.mktemp("home")):
        toy_package(home / "models")
        running = Service(home)
    yield running
    running.stop()


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    """A client with a key of its own: nobody else's images are its."""
    with service.bearer("generate", "models", "keys") as bearer:
        key = bearer.headers["authorization"].removeprefix("Bearer ")
    with Client(service.url, key) as made:
        yield made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty noisy images of three classes, as a zip of folders."""
    path, rng = tmp_path_factory.mktemp("archive") / "shapes.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as file:
        for i in range(60):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(out, "PNG")
            file.writestr(f"{'abc'[i % 3]}/{i}.png", out.getvalue())
    return path
