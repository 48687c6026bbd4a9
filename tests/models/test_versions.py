"""Which version a name means: the newest, or the one that was activated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kartina.errors import ConflictError, NotFoundError
from kartina.models import package
from tests.engine import toy_package, toys  # noqa: F401  a fixture


@pytest.fixture
def three(toys: None, home: Path) -> Iterator[Path]:  # noqa: F811
    for seed in range(3):
        toy_package(home / "models", "toy", seed=seed)
    yield home


def version() -> int:
    return package.find("toy").version


def test_activate_and_roll_back(three: Path) -> None:
    assert version() == 3
    assert str(package.roll_back("toy")) == "toy@2"  # never activated: the next older one
    assert version() == 2
    package.activate("toy@1")
    package.activate("toy@3")
    package.activate("toy@1")
    assert package.activated("toy") == [2, 3, 1] and version() == 1
    toy_package(three / "models", "toy", seed=9)
    assert version() == 1  # a new version waits to be activated
    package.remove("toy@1")
    assert version() == 3  # what was active before
    package.roll_back("toy")
    assert version() == 2
    with pytest.raises(NotFoundError):
        package.activate("toy@7")
    for ref in ("toy@2", "toy@3", "toy@4"):
        package.remove(ref)
    assert not (three / "models" / "toy").exists()
    toy_package(three / "models", "toy")
    assert version() == 1
    with pytest.raises(ConflictError, match="nothing to roll back to"):
        package.roll_back("toy")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"versions": 3}', '{"versions": ["x", null, 99]}', "[" * 100_000])
def test_a_damaged_choice_counts_as_none(three: Path, text: str) -> None:
    (three / "models" / "toy" / package.ACTIVE).write_text(text)
    assert version() == 3


def test_by_the_cli(three: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kartina.cli", "models", *words]
        return subprocess.run(command, env={**os.environ, "KARTINA_HOME": str(three)}, capture_output=True, text=True)

    assert json.loads(run("activate", "toy@1", "--json").stdout) == {"active": "toy@1"}
    assert json.loads(run("show", "toy", "--json").stdout)["ref"] == "toy@1"
    assert "toy means toy@3 now" in run("activate", "toy@3").stdout
    assert "toy means toy@1 now" in run("rollback", "toy").stdout
    assert run("activate", "toy@9").returncode == 2
