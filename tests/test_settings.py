"""Settings: precedence, words for what is wrong, no secret in print; and the guide's table is the model's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from kartina.cli.settings import settings as verb
from kartina.errors import ConfigError
from kartina.serving import batching, client, residency
from kartina.serving import cache as results
from kartina.settings import Settings, default, load, show, variable, without_password

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "operations.md"


def test_a_flag_beats_the_environment_beats_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().port is None and load().source("port") == "default"
    home.mkdir()
    file = home / "config.toml"
    file.write_text('port = 1\nbatch = 2\nmemory = 3\nallow_host = ["a.example", "b.example"]\n')
    monkeypatch.setenv("KARTINA_BATCH", "20")
    monkeypatch.setenv("KARTINA_MEMORY", "30")
    monkeypatch.setenv("KARTINA_CACHE", "")  # empty is not set
    found = load({"memory": 300, "batch": None})
    assert (found.port, found.batch, found.memory, found.cache) == (1, 20, 300, 64)
    assert [found.source(name) for name in ("port", "batch", "memory", "cache")] == [
        str(file), "KARTINA_BATCH", "--memory", "default"
    ]  # fmt: skip
    assert found.allow_host == ("a.example", "b.example")
    monkeypatch.setenv("KARTINA_ALLOW_HOST", "c.example, d.example")
    assert load().allow_host == ("c.example", "d.example")
    other = home / "other.toml"
    other.write_text("port = 7")
    assert load(config=other).port == 7 and load(config=other).batch == 20
    monkeypatch.setenv("KARTINA_CONFIG", str(other))
    assert load().port == 7
    with pytest.raises(ValidationError):
        found.port = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "the key 'prot'.*config.toml.*Did you mean port"),
        ("zzz = 1", "the key 'zzz'.*Expected one of: home, database"),
        ('port = "x"', "config.toml with 'x'.*integer"),
        ("port = 70000", "70000; input should be less than or equal to 65535"),
        ('device = "gpu"', "'gpu'; input should be auto, cpu, cuda, mps, or several as in cuda:0,cuda:1"),
        ('precision = "fp16"', "'fp16'; input should be 'fp32' or 'bf16'"),
        ("port", "not TOML"),
        ('home = "/tmp"', "Set KARTINA_HOME instead"),
        ('secret = "short"', "at least 16"),
    ],
)
def test_what_a_file_has_wrong_is_said(home: Path, text: str, says: str) -> None:
    home.mkdir()
    (home / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load()
    assert "short" not in str(caught.value)


def test_what_the_environment_has_wrong_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KARTINA_PROT", "1")
    load()  # verbs that read one setting do not mind
    with pytest.raises(ConfigError, match=r"KARTINA_PROT, which is no setting\. Did you mean KARTINA_PORT"):
        load(strict=True)
    monkeypatch.delenv("KARTINA_PROT")
    monkeypatch.setenv("KARTINA_THREADS", "many")
    with pytest.raises(ConfigError, match="KARTINA_THREADS with 'many'"):
        load()
    monkeypatch.delenv("KARTINA_THREADS")
    monkeypatch.setenv("KARTINA_CONFIG", str(home / "nothing.toml"))
    with pytest.raises(ConfigError, match=r"no settings at .*nothing\.toml"):
        load()


def test_no_secret_is_printed(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KARTINA_SECRET", "hunter2-hunter2-hunter2")
    monkeypatch.setenv("KARTINA_DATABASE", "postgresql://me:hunter2@db.example/kartina?sslpassword=hunter2&host=/run")
    found = load(strict=True)
    verb(json=True)
    printed = capsys.readouterr().out
    said = json.loads(printed)
    verb()
    printed += capsys.readouterr().out + repr(found) + str(found)
    assert "hunter2" not in printed
    assert set(said) == set(Settings.model_fields)
    assert said["secret"] == {"value": "(set; never shown)", "source": "KARTINA_SECRET", "variable": "KARTINA_SECRET"}
    assert said["database"]["value"] == "postgresql://me:***@db.example/kartina?sslpassword=***&host=/run"
    assert said["batch"] == {"value": 64, "source": "default", "variable": "KARTINA_BATCH"}
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert without_password("s3://bucket/prefix") == "s3://bucket/prefix"


def test_serve_takes_the_file_and_its_words_are_the_models(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text('runtime = "fast"')
    command = [sys.executable, "-m", "kartina.cli", "serve"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "config.toml with 'fast'" in done.stderr.replace("\n", "")
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=120)
    told = " ".join(helped.stdout.split())
    for name, field in Settings.model_fields.items():
        if name not in ("home", "database", "blobs", "secret", "busy"):
            assert f"--{name.replace('_', '-')}" in told, name
            assert (field.description or "").rstrip(".") in told, name


def test_defaults_are_declared_once() -> None:
    """What the engine takes where nobody says anything is what the settings say."""
    assert default("batch") == batching.BATCH
    assert default("memory") * 2**20 == residency.MAX_BYTES
    assert default("cache") * 2**20 == results.SIZE
    assert default("queue") == client.CAPACITY


def test_the_guide_has_every_setting() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \| (.*?) \|$", GUIDE.read_text(), flags=re.M)
    wanted = []
    for name, field in Settings.model_fields.items():
        value = "" if name == "home" else show(default(name))
        wanted.append((name, variable(name), f"`{value}`" if value else "", field.description))
    assert rows == wanted, "\n".join(f"| `{a}` | `{b}` | {c} | {d} |" for a, b, c, d in wanted)
