from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.databases import postgres  # noqa: F401  a fixture
from tests.engine import toy_family, toy_package, toys  # noqa: F401  a fixture
from tests.service import Service


@pytest.fixture(scope="module", autouse=True)
def _toys(toys: None) -> None:  # noqa: F811
    """The family of the services' models, in the tests' process too."""


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`kartina serve` as a process of its own, with one toy model, one for all files of tests: a start takes seven
    seconds of processor time. What a test counts is of a key of its own (`Service.bearer`). It works on no jobs: that
    would be two processes more; `working` has them."""
    with toy_family(tmp_path_factory.mktemp("home")):
        made = serving(tmp_path_factory, "--no-jobs")
    yield made
    made.stop()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """As `service`, of a file of tests."""
    yield from running(tmp_path_factory, "--no-jobs")


@pytest.fixture(scope="module")
def working(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:  # noqa: F811
    """As `service`, of a file of tests, and it works on jobs."""
    yield from running(tmp_path_factory)


def running(folders: pytest.TempPathFactory, *options: str, database: str | None = None) -> Iterator[Service]:
    made = serving(folders, *options, database=database)
    yield made
    made.stop()


def serving(folders: pytest.TempPathFactory, *options: str, database: str | None = None) -> Service:
    home = folders.mktemp("service") / "home"
    toy_package(home / "models")
    return Service(home, *options, database=database)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def on_both(
    request: pytest.FixtureRequest,
    toys: None,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """As `service`, on each kind of database: PostgreSQL under HTTP in the long tests, under the services in all."""
    database = request.getfixturevalue("postgres").fresh() if request.param == "postgresql" else None
    yield from running(tmp_path_factory, "--no-jobs", database=database)
