"""`kartina sample -o a.zip` and `--detach`: a data set of any size, here and now or as a job."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kartina.jobs.table import Jobs
from kartina.models.package import PackageRef
from tests.cli.conftest import Cli
from tests.engine import toy_package, toys  # noqa: F401  a fixture


@pytest.fixture
def toy(toys: None, home: Path) -> PackageRef:  # noqa: F811
    return toy_package(home / "models")


def test_a_zip_that_import_takes(toy: PackageRef, cli: Cli, tmp_path: Path) -> None:
    asked = ("--seed", 5, "--set", "steps=2")
    done = cli("sample", "toy", "-n", 70, *asked, "-o", tmp_path / "new" / "a.zip", "--json")
    assert done.code == 0, done.err
    assert done.json["n"] == 70 and done.json["bytes"] == (tmp_path / "new" / "a.zip").stat().st_size
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.zip"]
    assert cli("data", "import", tmp_path / "new" / "a.zip", "--name", "made").code == 0
    counted = cli("sample", "toy", "--count", "cat=30", "--count", "кот=12", *asked, "-o", tmp_path / "b.zip")
    assert counted.code == 0 and "Wrote 42 images" in counted.out
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert len([name for name in archive.namelist() if name.startswith("cat/")]) == 30

    # As a job it is the same.
    queued = cli("sample", "toy", "-n", 70, *asked, "--detach", "--json")
    assert queued.code == 0, queued.err
    work = [sys.executable, "-m", "kartina.cli", "jobs", "work", "--until-idle", "--lane", "device"]
    subprocess.run(work, check=True, timeout=300)
    job = Jobs.open().get(queued.json["id"])
    assert job.status == "succeeded" and job.output is not None, job.error
    made = (job.folder / job.output / "images.zip").read_bytes()
    assert hashlib.sha256(made).digest() == hashlib.sha256((tmp_path / "new" / "a.zip").read_bytes()).digest()


def test_a_job_finds_the_folder_of_a_model_that_is_nowhere_else(
    toy: PackageRef, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(toy.path, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    queued = cli("sample", "./elsewhere", "-n", 3, "--detach", "--json")
    assert queued.code == 0, queued.err
    work = [sys.executable, "-m", "kartina.cli", "jobs", "work", "--until-idle", "--lane", "device"]
    subprocess.run(work, check=True, timeout=300, cwd="/")
    job = Jobs.open().get(queued.json["id"])
    assert job.status == "succeeded", job.error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--count", "cat", "-o", "a.zip"), "expected CLASS=N"),
        (("--count", "cow=3", "-o", "a.zip"), "no class called 'cow'"),
        (("--count", "cat=3", "-c", "dog", "-o", "a.zip"), "expected one of them"),
        (("--count", "cat=3"), "Found --count without a ZIP"),
        (("--set", "stepz=3", "--detach"), "stepz"),
        (("--detach", "-o", "big.zip"), "-o big.zip with --detach"),
    ],
)
def test_what_cannot_be_made_is_refused(toy: PackageRef, cli: Cli, words: tuple[str, ...], says: str) -> None:
    refused = cli("sample", "toy", *words)
    assert refused.code == 2 and says in refused.err
    assert Jobs.open().recent() == []
