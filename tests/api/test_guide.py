"""docs/guides/api.md is run as it stands, in one shell, against a running service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from kartina.models.model import save
from tests import tiny
from tests.engine import CARD, PROVENANCE
from tests.service import Service

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "api.md"
needs_curl = pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="no curl or no jq here")


@pytest.fixture(scope="module")
def service(working: Service) -> Service:
    return working


def sections() -> dict[str, list[str]]:
    """The commands under each heading: lines that begin with `$ `, with those that go on after a backslash."""
    parts = re.split(r"^## (.*)\n", GUIDE.read_text(), flags=re.M)
    found = dict(zip(["", *parts[1::2]], parts[::2], strict=True))
    return {title: re.findall(r"^    \$ ((?:.*\\\n)*.*)$", text, flags=re.M) for title, text in found.items()}


def run(service: Service, folder: Path, commands: list[str]) -> None:
    """All in one shell, as who may do everything."""
    with service.bearer("generate", "models", "keys", "train", "data") as client:
        token = client.headers["authorization"].removeprefix("Bearer ")
        settings = {"KARTINA": service.url, "TOKEN": token, "MODEL": "edits", "IMAGE_MODEL": "edits", "LABEL": "a"}
        lines = "\n".join(f"echo '#{i}' >&2\n{command}" for i, command in enumerate(commands))
        done = subprocess.run(
            ["bash", "-c", "set -e\nshopt -s expand_aliases\n" + lines],
            cwd=folder,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, (done.stderr[-300:], done.stdout[-300:])


@needs_curl
def test_the_guide_runs(service: Service, tmp_path: Path) -> None:
    found = sections()
    del found["Train"]
    commands = [command for each in found.values() for command in each]
    assert len(commands) > 30
    save(tiny.sampler("flow"), "edits", PROVENANCE, CARD, root=service.home / "models")
    run(service, tmp_path, commands)
    assert "event: status" in (tmp_path / "events.txt").read_text()
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "favourites.zip").read_bytes().startswith(b"PK")
    assert '"name":"mine"' in (tmp_path / "mine.json").read_text()
    assert (tmp_path / "seven.png").read_bytes().startswith(b"\x89PNG")
    assert len(zipfile.ZipFile(tmp_path / "many.zip").namelist()) == 62


@needs_curl
@pytest.mark.slow
def test_a_training_as_the_guide_says(service: Service, tmp_path: Path) -> None:
    found = sections()
    run(service, tmp_path, found[""] + found["Train"])
    told = (tmp_path / "training.txt").read_text()
    assert "event: progress" in told and "event: log" in told
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
