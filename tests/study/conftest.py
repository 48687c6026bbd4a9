"""A finished tiny study, made once for this folder, and quick classifiers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kartina.handlers.study import run, write_report
from kartina.metrics.classifier import domain_classifier
from tests.cli.conftest import cli as cli
from tests.once import once
from tests.study import tiny_study


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the blobs and their classifier, for others to be copied from."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KARTINA_HOME", str(folder))
            patch.setattr("kartina.metrics.classifier.EPOCHS", (2, 2))
            domain_classifier(tiny_study.store(folder))

    return once(tmp_path_factory, "judged", make)


@pytest.fixture
def blobs(judged: Path, home: Path) -> Path:
    """A fresh home with the blobs and their classifier."""
    shutil.copytree(judged, home)
    return home


@contextmanager
def copied(home: Path, folder: Path) -> Iterator[None]:
    """A copy of a home, which is the home meanwhile."""
    shutil.copytree(home, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KARTINA_HOME", str(folder))
        yield


@pytest.fixture(scope="session")
def whole(judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the study has run undisturbed; not to be changed."""

    def make(folder: Path) -> None:
        with copied(judged, folder):
            _, result = run(tiny_study.write(folder / "study.toml"))
            assert result == "finished"

    return once(tmp_path_factory, "whole", make)


@pytest.fixture
def finished(whole: Path, home: Path) -> Iterator[Path]:
    """A copy of that home, to do with what one likes."""
    shutil.copytree(whole, home)
    yield home


@pytest.fixture(scope="session")
def reported(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a home in which the report was written and the test split opened; not to be changed."""

    def make(folder: Path) -> None:
        with copied(whole, folder):
            assert write_report("blobs")["test"] is True

    return once(tmp_path_factory, "reported", make)


@pytest.fixture
def opened(reported: Path, home: Path) -> Path:
    """A copy of that home, to do with what one likes."""
    shutil.copytree(reported, home)
    return home
