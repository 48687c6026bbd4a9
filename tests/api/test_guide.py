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


def commands() -> list[str]:
    """Lines that begin with `$ `, with those that go on after a backslash."""
    return re.findall(r"^    \$ ((?:.*\\\n)*.*)$", GUIDE.read_text(), flags=re.M)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="curl and jq are not installed")
def test_the_guide_runs(service: Service, tmp_path: Path) -> None:
    found = commands()
    assert len(found) > 30
    save(tiny.sampler("flow"), "edits", PROVENANCE, CARD, root=service.home / "models")
    with service.bearer("generate", "models", "keys", "train", "data") as client:
        token = client.headers["authorization"].removeprefix("Bearer ")
        told = {"KARTINA": service.url, "TOKEN": token, "MODEL": "edits", "IMAGE_MODEL": "edits", "LABEL": "a"}
        script = "set -e\nshopt -s expand_aliases\n" + "\n".join(f"echo '#{i}' >&2\n{c}" for i, c in enumerate(found))
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, (done.stderr[-300:], done.stdout[-300:])
    assert "event: status" in (tmp_path / "events.txt").read_text()
    assert (
        "event: progress" in (tmp_path / "training.txt").read_text()
        and "event: log" in (tmp_path / "training.txt").read_text()
    )
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "favourites.zip").read_bytes().startswith(b"PK")
    assert '"name":"mine"' in (tmp_path / "mine.json").read_text()
    assert (tmp_path / "seven.png").read_bytes().startswith(b"\x89PNG")
    assert len(zipfile.ZipFile(tmp_path / "many.zip").namelist()) == 62
