"""A finished tiny study, made once for this folder, and quick classifiers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kartina.handlers.study import run
from kartina.metrics.classifier import domain_classifier
from tests.cli.conftest import cli as cli
from tests.study import tiny_study


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the blobs and their classifier, for others to be copied from."""
    home = tmp_path_factory.mktemp("judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KARTINA_HOME", str(home))
        patch.setattr("kartina.metrics.classifier.EPOCHS", (2, 2))
        domain_classifier(tiny_study.store(home))
    return home


@pytest.fixture
def blobs(judged: Path, home: Path) -> Path:
    """A fresh home with the blobs and their classifier."""
    shutil.copytree(judged, home)
    return home


@pytest.fixture(scope="session")
def whole(judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the study has run undisturbed; not to be changed."""
    home = tmp_path_factory.mktemp("whole") / "home"
    shutil.copytree(judged, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KARTINA_HOME", str(home))
        _, result = run(tiny_study.write(home / "study.toml"))
        assert result == "finished"
    return home


@pytest.fixture
def finished(whole: Path, home: Path) -> Iterator[Path]:
    """A copy of that home, to do with what one likes."""
    shutil.copytree(whole, home)
    yield home
