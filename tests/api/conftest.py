from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import postgres  # noqa: F401  a fixture
from tests.engine import toy_package, toys  # noqa: F401  a fixture
from tests.service import Service


@pytest.fixture(scope="module")
def service(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # noqa: F811
    """`kartina serve` as a process of its own, with one toy model. It works on no jobs: that would be two processes
    more, which cost each file of tests three seconds; `working` has them."""
    yield from running(tmp_path_factory, "--no-jobs")


@pytest.fixture(scope="module")
def working(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # noqa: F811
    """As `service`, and it works on jobs."""
    yield from running(tmp_path_factory)


def running(folders: pytest.TempPathFactory, *options: str, database: str | None = None) -> Iterator[Service]:
    home = folders.mktemp("service") / "home"
    toy_package(home / "models")
    made = Service(home, *options, database=database)
    yield made
    made.stop()


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def on_both(
    request: pytest.FixtureRequest,
    toys: None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """As `service`, on each kind of database: PostgreSQL under HTTP in the long tests, under the services in all."""
    database = request.getfixturevalue("postgres").fresh() if request.param == "postgresql" else None
    yield from running(tmp_path_factory, "--no-jobs", database=database)
