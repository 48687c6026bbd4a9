from __future__ import annotations

from collections.abc import Iterator

import pytest

from kartina.client import Client
from kartina.models.model import save
from tests import tiny
from tests.engine import CARD, PROVENANCE, toy_package, toys  # noqa: F401  a fixture
from tests.service import Service


@pytest.fixture(scope="module")
def service(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # noqa: F811
    """A running service with a model for each task."""
    home = tmp_path_factory.mktemp("service") / "home"
    toy_package(home / "models")
    for name, made in (
        ("flow", tiny.sampler("flow")),
        ("pairs", tiny.sampler("flow-pairs")),
        ("up", tiny.sampler("edm-upscale")),
        ("paint", tiny.sampler("flow", shape=tiny.spec(16, 3), source="colorize")),
    ):
        save(made, name, PROVENANCE, CARD, root=home / "models")
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
