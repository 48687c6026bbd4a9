from __future__ import annotations

from pathlib import Path

import pytest

from kartina.models.package import PackageRef
from tests.databases import postgres, url  # noqa: F401  fixtures
from tests.engine import toy_package, toys, worker  # noqa: F401  fixtures


@pytest.fixture
def toy(toys: None, home: Path) -> PackageRef:  # noqa: F811
    """An untrained toy model of 8x8 images with three classes, in KARTINA_HOME."""
    return toy_package(home / "models")
