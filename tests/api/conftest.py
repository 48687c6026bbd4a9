from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import postgres  # noqa: F401  a fixture
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


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def on_both(
    request: pytest.FixtureRequest,
    toys: None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """As `service`, on each kind of database."""
    home = tmp_path_factory.mktemp("service") / "home"
    toy_package(home / "models")
    database = request.getfixturevalue("postgres").fresh() if request.param == "postgresql" else None
    running = Service(home, database=database)
    yield running
    running.stop()
