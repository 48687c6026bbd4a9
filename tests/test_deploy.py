"""deploy/: the unit is valid and hardened, the container's commands run in clean folders, no secret is in a file."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from kartina.settings import Settings, variable

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KNOWN = {variable(name) for name in Settings.model_fields}


def bare(**more: str) -> dict[str, str]:
    """An environment without settings of ours."""
    return {**{k: v for k, v in os.environ.items() if not k.startswith("KARTINA_")}, **more}


def unit() -> dict[str, list[str]]:
    """The keys of the unit."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "kartina.service").read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = Path(sys.executable).with_name("kartina")
    copy = tmp_path / "kartina.service"
    copy.write_text((DEPLOY / "kartina.service").read_text().replace("/opt/kartina/bin/kartina", str(program)))
    told = {"capture_output": True, "text": True, "timeout": 60}
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], **told)  # type: ignore[call-overload]
    assert verified.returncode == 0 and "kartina.service" not in verified.stderr, verified.stderr
    rated = subprocess.run(["systemd-analyze", "security", "--offline=true", copy], **told)  # type: ignore[call-overload]
    exposure = re.search(r"Overall exposure level.*?: ([\d.]+)", rated.stdout + rated.stderr)
    assert exposure and float(exposure[1]) < 2.5, rated.stdout
    print(f"\nexposure level {exposure[1]}")


def test_what_is_deployed_sets_settings_that_exist_and_no_secret() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    texts = {path.name: path.read_text() for path in DEPLOY.iterdir() if path.name != ".env"}
    for name, text in texts.items():
        assert set(re.findall(r"KARTINA_\w+", text)) <= KNOWN, name
    for service in compose["services"].values():
        for key, value in service["environment"].items():
            if "PASSWORD" in key or key in ("KARTINA_SECRET", "KARTINA_DATABASE"):
                assert re.search(r"\$\{\w+:\?", value) and not re.search(r":[^$/{]+@", value)  # asked for, never given
    assert compose["services"]["kartina"]["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}
    grace = int(compose["services"]["kartina"]["stop_grace_period"].rstrip("s"))
    assert grace > 30 and int(unit()["TimeoutStopSec"][0]) > 30  # longer than a drain
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().split()


# -- the container ------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    name: str
    workdir: str = "/"
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages() -> list[Stage]:
    """The Dockerfile's stages, in order."""
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    found: list[Stage] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        if word == "FROM":
            found.append(Stage(rest.partition(" AS ")[2] or "last"))
        found[-1].steps.append((word, rest.strip()))
    return found


def variables(stage: Stage) -> dict[str, str]:
    return dict(rest.split("=", 1) for word, rest in stage.steps if word in ("ENV", "ARG"))  # type: ignore[misc]


def command(stage: Stage, word: str) -> list[str]:
    """CMD, or the command of HEALTHCHECK."""
    text = next(rest for found, rest in stage.steps if found == word)
    return json.loads(text) if word == "CMD" else shlex.split(text.partition(" CMD ")[2])


def serve_as_the_container_does(home: Path, path: str) -> None:
    """CMD with the image's environment, asked by its HEALTHCHECK; it needs a key, becomes healthy, ends on SIGTERM."""
    last = stages()[-1]
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {**variables(last), "KARTINA_HOME": str(home), "PATH": path, "KARTINA_PORT": str(port)}
    given = bare(**{k: v for k, v in given.items() if k != "TORCH_INDEX"}, KARTINA_ALLOW_HOST="images.example.org")
    refused = subprocess.run(command(last, "CMD"), env=given, cwd=home.parent, capture_output=True, text=True)
    assert refused.returncode == 2 and "kartina keys create" in refused.stderr
    subprocess.run(["kartina", "keys", "create", "admin"], env=given, check=True, capture_output=True)
    with subprocess.Popen(command(last, "CMD"), env=given, cwd=home.parent, stderr=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL) as running:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while subprocess.run(command(last, "HEALTHCHECK"), env=given, stderr=subprocess.DEVNULL).returncode:
                assert running.poll() is None and time.monotonic() < deadline
                time.sleep(0.5)
        finally:
            running.send_signal(signal.SIGTERM)
            assert running.wait(45) == 0


@pytest.mark.slow
def test_the_containers_command_serves(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    serve_as_the_container_does(tmp_path / "data", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_containers_commands_run_in_clean_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every RUN, in its stage's folder, with what COPY brings; then CMD, from what was installed there."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    folders: dict[str, Path] = {}
    programs = tmp_path / "programs"  # of the stages' images, which have a `python`
    programs.mkdir()
    program = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    (programs / "python").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (programs / "python").chmod(0o755)
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for stage in stages():
        root = folders[stage.name] = tmp_path / stage.name
        there = root
        env = bare(PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
        for word, rest in stage.steps:
            if word == "WORKDIR":
                there = root / rest.lstrip("/")
                there.mkdir(parents=True)
            elif word == "ARG":
                env.update([rest.split("=", 1)])  # type: ignore[list-item]
            elif word == "COPY" and rest == ". .":
                for name in filter(None, tracked.split("\0")):
                    (there / name).parent.mkdir(parents=True, exist_ok=True)
                    if (ROOT / name).is_file():
                        shutil.copy2(ROOT / name, there / name)
            elif word == "COPY":
                source, target = rest.split()[-2:]
                start = re.match(r"--from=(\w+) /", rest)
                origin = folders[start[1]] / source.lstrip("/") if start else ROOT / source
                (shutil.copytree if origin.is_dir() else shutil.copy2)(origin, there / target)
            elif word == "RUN":
                inside = rest.replace("/data", str(root / "data"))
                inside = inside.replace("10001:10001", f"{os.getuid()}:{os.getgid()}")
                done = subprocess.run(["sh", "-ec", inside], cwd=there, env=env, capture_output=True, text=True)
                assert done.returncode == 0, (rest, done.stdout[-2000:], done.stderr[-2000:])
    installed = folders["last"] / "opt" / "kartina" / "bin"
    alone = bare(KARTINA_HOME=str(tmp_path / "home"))
    shown = subprocess.run(
        [installed / "kartina", "models", "list", "--json"], env=alone, capture_output=True, text=True, cwd=tmp_path
    )
    assert shown.returncode == 0 and len(json.loads(shown.stdout)) >= 3
    found = next(
        (folders["last"] / "opt" / "kartina" / "lib").glob("python*/site-packages/kartina/api/static/index.html")
    )
    assert "<div" in found.read_text()
    serve_as_the_container_does(tmp_path / "data", f"{installed}{os.pathsep}{os.environ['PATH']}")


def test_the_guides_commands_run(tmp_path: Path) -> None:
    """Those of docs/guides/operations.md that end: in a home of their own, with its folders below another root."""
    text = (ROOT / "docs" / "guides" / "operations.md").read_text()
    found = re.findall(r"^    ((?:KARTINA_HOME=\S+ )?kartina (?!serve).*?)(?:  +#.*)?$", text, flags=re.M)
    assert len(found) >= 6
    script = "\n".join(found).replace("/backups/", f"{tmp_path}/backups/").replace("/srv/", f"{tmp_path}/srv/")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    told = bare(PATH=path, KARTINA_HOME=str(tmp_path / "home"))
    done = subprocess.run(["bash", "-ec", script], env=told, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (script, done.stderr)
    assert (tmp_path / "srv" / "new" / "kartina.db").is_file()
