from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine import toy_package, toys  # noqa: F401  a fixture
from tests.service import Service


@pytest.fixture(scope="module")
def service(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # noqa: F811
    """`kartina serve` as a process of its own, with one toy model."""
    home = tmp_path_factory.mktemp("service") / "home"
    toy_package(home / "models")
    running = Service(home)
    yield running
    running.stop()
