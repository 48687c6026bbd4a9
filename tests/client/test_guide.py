"""docs/guides/client.md is run as it stands against a running service: its commands, then its Python."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.service import Service

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "client.md").read_text()


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.M | re.S)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_guide_runs(service: Service, tmp_path: Path) -> None:
    commands = re.findall(r"^    \$ ((?:.*\\\n)*.*)$", GUIDE, flags=re.M)
    assert len(commands) == 2 and len(blocks()) >= 7
    (tmp_path / "guide.py").write_text("\n".join(blocks()))
    script = "\n".join(["set -e", *commands, f"'{sys.executable}' -W error guide.py"])
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for i in range(60):
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(out, "PNG")
            archive.writestr(f"{'abc'[i % 3]}/{i}.png", out.getvalue())
    with service.bearer("generate", "models", "keys", "data", "train") as bearer:
        key = bearer.headers["authorization"].removeprefix("Bearer ")
    told = {"KARTINA_URL": service.url, "KARTINA_KEY": key, "MODEL": "flow", "IMAGE_MODEL": "flow", "LABEL": "a"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, **told}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stderr[-1500:], done.stdout[-300:])
    assert "no class called" in done.stdout and "not_found" in done.stdout
    made = {
        "job.json",
        "first.png",
        "images.zip",
        "inpainted.png",
        "favourites.zip",
        "package.zip",
        "3.png",
        "synthetic.zip",
    }
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert len(list((tmp_path / "images").iterdir())) == 4


def test_its_python_is_typed(tmp_path: Path) -> None:
    """For a program's mypy --strict, too: `py.typed` is there."""
    (tmp_path / "guide.py").write_text("\n".join(blocks()))
    command = [sys.executable, "-m", "mypy", str(tmp_path / "guide.py")]  # with the settings, and the cache, of ours
    environment = {**os.environ, "MYPYPATH": "src"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert (ROOT / "src" / "kartina" / "py.typed").is_file()
