"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Tiny nets gain nothing from threads, and spinning ones starve the processes that the tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

LONG = tuple(f"tests/{of}" for of in ("training", "study", "test_readme.py", "serving", "jobs", "api"))
SHARED = Path(__file__).resolve().parents[2] / "shared"  # real data, when a checkout has it beside it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that none of it is left for one core at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An isolated, empty KARTINA_HOME."""
    where = tmp_path / "home"
    monkeypatch.setenv("KARTINA_HOME", str(where))
    return where


@pytest.fixture(autouse=True)
def _no_real_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test ever touches the developer's own home, database or bucket, nor sees the settings there."""
    for name in [name for name in os.environ if name.startswith("KARTINA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KARTINA_HOME", str(tmp_path_factory.mktemp("home")))
    yield


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """What a test draws without a seed of its own is the same in every run."""
    torch.manual_seed(0)


@pytest.fixture
def shared() -> Path:
    """The folder of real data; the test is skipped where a checkout has none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real data: no ../shared beside this checkout")
    return SHARED
