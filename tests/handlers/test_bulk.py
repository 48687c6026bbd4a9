"""Bulk generation: the ZIP is a data set, the same bytes however often its making was interrupted, and made in little
memory."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from kartina.config import ImageSpec
from kartina.data import imageset, prepare
from kartina.errors import ConfigError, NotFoundError, StorageError
from kartina.handlers import bulk as module
from kartina.handlers.bulk import NAME, make
from kartina.handlers.specs import BulkJob
from kartina.jobs.context import Interrupted
from kartina.jobs.table import Job, Jobs
from kartina.models import package, png
from kartina.models.model import Model, load
from kartina.models.package import PackageRef
from kartina.storage.usage import Used, used
from tests.engine import SPEC, toy_package, toys  # noqa: F401  a fixture

HOSTILE = SPEC.model_copy(update={"classes": ("T-shirt/top", "../up", "train", "t-SHIRT top")})


@pytest.fixture
def toy(toys: None, home: Path) -> PackageRef:  # noqa: F811
    return toy_package(home / "models")


def spec(ref: PackageRef, n: int, **more: Any) -> BulkJob:
    hash = package.read_manifest(ref.path).hash
    return BulkJob(model=str(ref), hash=hash, n=n, **{"seed": 7, "controls": {"steps": 2}, "device": "cpu", **more})


def made(model: Model, given: BulkJob, folder: Path, every: int = 0) -> bytes:
    """The ZIP; with `every`, it is interrupted after so many batches, again and again."""
    folder.mkdir()
    saved: dict[str, Any] = {}
    batches = 0

    def check() -> None:
        nonlocal batches
        batches += 1
        if every and batches % every == 0:
            raise Interrupted

    while True:
        try:
            make(model, given, folder, saved, saved.update, check=check)
            return (folder / NAME).read_bytes()
        except Interrupted:
            assert batches < 1000, "it gets on"


def test_the_zip_is_a_data_set_that_import_takes_back(toys: None, home: Path, tmp_path: Path) -> None:  # noqa: F811
    ref = toy_package(home / "models", spec=HOSTILE)
    model = load(ref)
    given = spec(ref, 90, counts={"T-shirt/top": 40, "../up": 20, "train": 10, "t-SHIRT top": 20})
    made(model, given, tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a" / NAME) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert Counter(name.partition("/")[0] for name in names[:90]) == {
            "T-shirt-top": 40, "up": 20, "train": 10, "t-SHIRT-top-3": 20,
        }  # fmt: skip
        assert names[40] == "up/40-seed47.png" and names[90:] == ["manifest.csv", "recipe.json"]
        content = archive.read(names[40])
        recipe = png.read_recipe(content)
        assert png.is_synthetic(content) and recipe is not None
        assert (recipe["label"], recipe["seed"], recipe["hash"]) == ("../up", 47, given.hash)
        about = json.loads(archive.read("recipe.json"))
        assert about["counts"] == given.counts and about["synthetic"] is True and about["seed"] == 7
    found = prepare.import_path(tmp_path / "a" / NAME, "again")
    assert found.spec.classes == ("../up", "T-shirt/top", "t-SHIRT top", "train")
    assert found.counts().tolist() == [20, 40, 20, 10]
    # The images are those that the model makes alone.
    row = (imageset.folder("again") / "files.txt").read_text().splitlines().index("up/40-seed47.png")
    alone = model.sample(["../up"], 1, 47, steps=2).images[0]
    assert np.abs(found.images[row].astype(int) - alone).max() <= 1


def test_interrupted_anywhere_it_is_the_same_zip(
    toy: PackageRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE", 0.0)
    model, given = load(toy), spec(toy, 64 * 9 + 5, labels=("dog", "cat", "кот"))
    whole = made(model, given, tmp_path / "whole")
    for every in (5, 7):  # a batch is written three after it was begun
        assert made(model, given, tmp_path / f"{every}", every) == whole
    assert zipfile.ZipFile(tmp_path / "whole" / NAME).namelist()[:3] == [
        "dog/000-seed7.png", "cat/001-seed8.png", "class-2/002-seed9.png",
    ]  # fmt: skip


def test_it_asks_at_the_gate_before_every_evaluation(toy: PackageRef, tmp_path: Path) -> None:
    asked: list[str] = []
    model, given = load(toy), spec(toy, 150, controls={"steps": 3})
    make(model, given, tmp_path, gate=lambda: asked.append("gate"), check=lambda: asked.append("batch"))
    assert asked == (["batch"] + ["gate"] * 4) * 3


def test_what_is_lost_is_made_again(toy: PackageRef, tmp_path: Path) -> None:
    model, given = load(toy), spec(toy, 300)
    whole = made(model, given, tmp_path / "whole")
    saved: dict[str, Any] = {}
    batches: list[int] = []

    def check() -> None:
        batches.append(0)
        if len(batches) == 5:
            raise Interrupted

    (tmp_path / "a").mkdir()
    with pytest.raises(Interrupted):
        make(model, given, tmp_path / "a", saved, saved.update, check=check)
    assert saved["done"] == 64
    (tmp_path / "a" / NAME).unlink()
    make(model, given, tmp_path / "a", saved)
    assert (tmp_path / "a" / NAME).read_bytes() == whole


def test_webp_and_a_model_without_classes(toys: None, home: Path, tmp_path: Path) -> None:  # noqa: F811
    ref = toy_package(home / "models", spec=ImageSpec(height=8, width=8, channels=1))
    made(load(ref), spec(ref, 70, format="webp"), tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a" / NAME) as archive:
        assert archive.namelist()[69] == "images/69-seed76.webp" and png.is_synthetic(
            archive.read("images/69-seed76.webp")
        )
    assert len(prepare.import_path(tmp_path / "a" / NAME, "again", unlabelled=True)) == 70


def test_what_cannot_be_made_is_refused(toy: PackageRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(toy)
    for more, error, says in (
        ({"labels": ("cow",)}, NotFoundError, "no class called 'cow'"),
        ({"counts": {"cat": 5}}, ConfigError, "counts of 5 images and n=100"),
        ({"controls": {"stepz": 3}}, ConfigError, "stepz"),
    ):
        with pytest.raises(error, match=says):
            make(model, spec(toy, 100, **more), tmp_path)
    monkeypatch.setattr(module, "SPARE", 2**60)
    with pytest.raises(StorageError, match="of the disk free; expected"):
        make(model, spec(toy, 1000), tmp_path)


# -- as a job ----------------------------------------------------------------------------------------------------------


def got_on(jobs: Jobs, job: int, images: int) -> bool:
    """Wait until more than so many images are saved; False: the job has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        now = jobs.get(job)
        if now.finished or (now.status == "running" and now.saved.get("done", 0) > images):
            return not now.finished
        time.sleep(0.02)
    raise AssertionError(f"it does not get on: {jobs.get(job)}")


def run_job(jobs: Jobs, given: BulkJob, kills: int) -> Job:
    """The job at its end; kill -9 on the way, in turn of its process and of the worker that started it."""
    command = [sys.executable, "-m", "kartina.cli", "jobs", "work", "--until-idle", "--watch-stdin"]
    job, killed = jobs.submit("bulk", given.model_dump()), 0
    while not jobs.get(job.id).finished:
        worker = subprocess.Popen(command, stdin=subprocess.PIPE)
        while killed < kills and got_on(jobs, job.id, jobs.get(job.id).saved.get("done", 0)):
            killed += 1
            if killed % 2 == 0:
                worker.kill()
                break
            for child in psutil.Process(worker.pid).children():
                child.send_signal(signal.SIGKILL)
        worker.wait(900)
        worker.communicate()
    assert killed == kills
    return jobs.get(job.id)


def digest(job: Job) -> str:
    assert job.status == "succeeded", job.error
    return hashlib.sha256((job.folder / (job.output or "") / NAME).read_bytes()).hexdigest()


@pytest.mark.slow
def test_killed_and_gone_on_with_as_a_job(toy: PackageRef, tmp_path: Path) -> None:
    jobs = Jobs.open()
    given = spec(toy, 2500, controls={"steps": 3, "delay": 0.02})
    whole = made(load(toy), given, tmp_path / "whole")
    job = run_job(jobs, given, kills=1)
    assert digest(job) == hashlib.sha256(whole).hexdigest()
    assert job.result == {"images": 2500, "bytes": len(whole), "rate": job.result["rate"]}  # type: ignore[index]
    assert not (job.folder / "kept").exists() and [p.name for p in job.folder.iterdir()] == [job.output]
    with jobs.database.read() as c:
        assert used(c, "local") == Used(0, 2500, len(whole))
    jobs.delete(job.id)
    with jobs.database.read() as c:
        assert used(c, "local") == Used() and not job.folder.exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_images(toy: PackageRef, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ZIP of 100,000 images: killed five times it is the same bytes, and takes no more memory than 10,000 do."""
    script = (
        "import sys, resource, json, pathlib; sys.path.insert(0, sys.argv[4]); import kartina_toy; "
        "from kartina import registry; 'toy' in registry.names() or registry.register('toy')(kartina_toy.Toy); "
        "from kartina.handlers.bulk import make; from kartina.handlers.specs import BulkJob; "
        "from kartina.models.model import load; given = BulkJob.model_validate_json(sys.argv[1]); "
        "make(load(given.model), given, pathlib.Path(sys.argv[2]), {}); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )

    def peak(n: int) -> int:
        where = tmp_path / str(n)
        where.mkdir()
        path = Path(__file__).parents[1] / "toys"
        command = [sys.executable, "-c", script, spec(toy, n).model_dump_json(), str(where), "", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
        return int(done.stdout.split()[-1])

    small, large = peak(10_000), peak(100_000)
    whole = hashlib.sha256((tmp_path / "100000" / NAME).read_bytes()).hexdigest()
    job = run_job(Jobs.open(), spec(toy, 100_000), kills=5)
    with capsys.disabled():
        print(f"\n  peak RSS: 10,000 images {small / 2**20:.0f} MiB, 100,000 {large / 2**20:.0f} MiB; {job.result}")
    assert digest(job) == whole
    assert large - small < 16 * 2**20
