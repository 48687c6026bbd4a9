"""docs/guides/client.md is run as it stands against a running service: its commands, then its Python. So is the
README's Python, and what the guide of the HTTP API says of OpenAI's client."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import Service

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "client.md").read_text()
START = "import os\n\nfrom kartina.client import Client\n\nclient = Client()\n"


def python(text: str) -> str:
    """The Python of a part of the guide."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S))


def parts() -> tuple[str, str]:
    """(the guide without its long work, its long work)."""
    before, _, rest = GUIDE.partition("\n## Long work\n")
    long, title, after = rest.partition("\n## When things go wrong\n")
    assert long and after
    return before + title + after, long


def run(service: Service, where: Path, code: str, commands: list[str]) -> str:
    """Run shell commands, then Python, in a folder, and return what they print."""
    (where / "guide.py").write_text(code)
    script = "\n".join(["set -e", *commands, f"'{sys.executable}' -W error guide.py"])
    with service.bearer("generate", "models", "keys", "data", "train") as bearer:
        key = bearer.headers["authorization"].removeprefix("Bearer ")
    told = {"KARTINA_URL": service.url, "KARTINA_KEY": key, "MODEL": "flow", "IMAGE_MODEL": "flow", "LABEL": "a"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=where, env={**os.environ, **told}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, (done.stderr[-1500:], done.stdout[-300:])
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_guide_runs(service: Service, tmp_path: Path) -> None:
    commands = re.findall(r"^    \$ ((?:.*\\\n)*.*)$", GUIDE, flags=re.M)
    code = python(parts()[0])
    assert len(commands) == 2 and code.count("client.") > 15
    said = run(service, tmp_path, code, commands)
    assert "no class called" in said and "not_found" in said
    made = {"job.json", "first.png", "images.zip", "inpainted.png", "favourites.zip", "package.zip", "3.png"}
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert len(list((tmp_path / "images").iterdir())) == 4


@pytest.mark.slow
def test_its_long_work_runs(service: Service, archive: Path, tmp_path: Path) -> None:
    shutil.copy(archive, tmp_path / "photos.zip")
    said = run(service, tmp_path, START + python(parts()[1]), [])
    assert "bytes" in said and "finished" in said
    assert (tmp_path / "synthetic.zip").read_bytes().startswith(b"PK")


def test_its_python_is_typed(tmp_path: Path) -> None:
    """For a program's mypy --strict, too: `py.typed` is there."""
    (tmp_path / "guide.py").write_text(python(GUIDE))
    command = [sys.executable, "-m", "mypy", str(tmp_path / "guide.py")]  # with the settings, and the cache, of ours
    environment = {**os.environ, "MYPYPATH": "src"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert (ROOT / "src" / "kartina" / "py.typed").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("file", "blocks"), [("README.md", 2), ("docs/guides/api.md", 1)])
def test_python_of_other_texts_runs(service: Service, tmp_path: Path, file: str, blocks: int) -> None:
    """As it stands, but for the address and the key."""
    text = (ROOT / file).read_text()
    found = re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    found += [
        re.sub("^    ", "", code, flags=re.M)
        for code in re.findall(r"^    from openai .*\n(?:(?:    .*)?\n)+", text, flags=re.M)
    ]
    assert len(found) == blocks
    with service.bearer("generate") as bearer:
        key = bearer.headers["authorization"].removeprefix("Bearer ")
    code = "\n".join(found).replace("http://127.0.0.1:8765", service.url).replace("kt_...", key)
    (tmp_path / "it.py").write_text(code.replace("api_key=KEY", f"api_key={key!r}"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "it.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-1500:]
    made = {path.name for path in tmp_path.iterdir()}
    assert made == ({"it.py", "bag.png", "grid.png"} if file == "README.md" else {"it.py"})
