"""A service that starts has models ready before the first request."""

from __future__ import annotations

import time
from pathlib import Path

from kartina.models.package import hash_of
from tests.engine import toy_package, toys  # noqa: F401  fixture
from tests.service import Service


def test_a_start_measures_a_model_that_nobody_asked_for(toys: None, tmp_path: Path) -> None:  # noqa: F811
    home = tmp_path / "home"
    toy = toy_package(home / "models")
    running = Service(home, "--no-jobs", "--ready", "1")
    deadline = time.monotonic() + 60
    while not list((home / "cache" / "engine").glob("*.json")):
        assert time.monotonic() < deadline, "it never was ready"
        time.sleep(0.05)
    assert [file.name for file in (home / "cache" / "engine").glob("*.json")] == [f"{hash_of(toy)}-cpu.json"]
    assert running.generate()["status"] == "succeeded" and running.stop() == 0
