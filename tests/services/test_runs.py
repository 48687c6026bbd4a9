"""Runs, evaluations and publications before they are accepted: room on the disk, and whose data they may use."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from kartina import owners
from kartina.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    KeyReusedError,
    NotFoundError,
    QueueFullError,
    QuotaError,
    StorageError,
    UnavailableError,
    of_code,
)
from kartina.jobs.table import Job, Jobs
from kartina.services.access import LOCAL, Caller
from kartina.services.datasets import Datasets
from kartina.services.desk import WAITING, Desk
from kartina.services.estimates import check_room, disk_free
from kartina.services.evaluations import Asked as AskedNumbers
from kartina.services.evaluations import Evaluations
from kartina.services.jobs import Work
from kartina.services.models import Models
from kartina.services.publications import Publications
from kartina.services.runs import Asked, RunInfo, Runs, usable_data
from kartina.services.studies import Studies
from kartina.storage.uploads import Uploads
from kartina.storage.usage import Quota
from kartina.study.spec import StudySpec
from kartina.training.folder import RunFolder
from kartina.training.loop import train
from kartina.training.run import Run
from tests import tiny

ASKED = Asked(preset="vae-32-cpu", data="digits", images=9)
KEY = Caller("key_a", frozenset({"train"}), Quota(jobs=0))


class Says(Desk):
    """A desk that has one answer."""

    def __init__(self, answer: dict[str, Any]):
        super().__init__()
        self.answer = answer

    async def ask(self, question: str, **given: Any) -> Any:
        return self.answer


def test_a_start_without_room_is_refused_and_leaves_nothing(home: Path) -> None:
    jobs = Jobs.open()
    for disk, caller, error in ((2**60, LOCAL, StorageError), (1, KEY, QuotaError)):
        runs = Runs(Says({"disk": disk}), Work(jobs), Models())
        with pytest.raises(error, match="MiB free" if error is StorageError else "jobs"):
            asyncio.run(runs.start(caller, ASKED))
        assert jobs.recent() == []
    accepted = asyncio.run(Runs(Says({"disk": 1}), Work(jobs), Models()).start(LOCAL, ASKED))
    assert accepted.spec["data"] == "digits" and accepted.caller == "local"
    check_room(1, "a byte")
    with pytest.raises(StorageError, match="takes up to 1,099,511,627,776 MiB"):
        check_room(2**60, "much")


def test_a_run_is_told_while_its_training_removes_old_checkpoints(home: Path) -> None:
    """A page asks for it every second, a training removes one every minute: then it was an error of the service."""
    made = tiny.run("vae", home)
    found = RunInfo(RunFolder.open(made.path), made.status(), None)
    over = threading.Event()

    def trains() -> None:
        n = 0
        while not over.is_set():
            n += 1
            there = made.path / "checkpoints" / f"{n:012d}"
            there.mkdir(parents=True)
            for name in ("ema", "model", "optim"):
                (there / f"{name}.safetensors").write_bytes(b"x" * 100)
            if n > 3:
                shutil.rmtree(there.with_name(f"{n - 3:012d}"))

    training = threading.Thread(target=trains)
    training.start()
    try:
        told = [found.checkpoints() for _ in range(1000)]
    finally:
        over.set()
        training.join()
    assert any(told) and max(size for one in told for _, size in one) == 300


def test_a_study_that_is_refused_leaves_no_plan(home: Path) -> None:
    jobs = Jobs.open()
    wanted = StudySpec.model_validate(
        {"name": "small", "data": ["digits"], "budget": {"images": 9}, "presets": [{"preset": "vae-32-cpu"}]}
    )
    for disk, caller, error in ((2**60, LOCAL, StorageError), (1, KEY, QuotaError)):
        (home / "studies" / "small").mkdir(parents=True)  # what the desk makes
        with pytest.raises(error):
            asyncio.run(Studies(Says({"disk": disk}), Work(jobs)).begin(caller, wanted))
        assert jobs.recent() == [] and not (home / "studies" / "small").exists()


def test_a_key_of_a_study_stands_for_all_of_it(home: Path) -> None:
    wanted = {"name": "small", "data": ["digits"], "budget": {"images": 9}, "presets": [{"preset": "vae-32-cpu"}]}
    studies = Studies(Says({"disk": 1}), Work(Jobs.open()))
    first = asyncio.run(studies.begin(LOCAL, StudySpec.model_validate(wanted), "k"))
    assert asyncio.run(studies.begin(LOCAL, StudySpec.model_validate(wanted), "k")).id == first.id
    with pytest.raises(KeyReusedError):
        asyncio.run(studies.begin(LOCAL, StudySpec.model_validate({**wanted, "budget": {"images": 10}}), "k"))
    with pytest.raises(KeyReusedError):
        asyncio.run(studies.resume(LOCAL, "small", "k"))


OPTIONS = {
    "evaluate": True, "sweep": False, "samples": 2000, "with_training": False, "average": (), "precision": "fp16",
}  # fmt: skip


@pytest.fixture
def paused(home: Path) -> Run:
    """A run of 64 images in steps of 8 with two grids, stopped after 40: it has a grid and a checkpoint."""
    run = tiny.run("vae", home, n=64, grids=2)
    steps = iter(range(4))
    assert train(run, stop=lambda: next(steps, None) is None) == "paused"
    assert run.status()["images"] == 40
    return run


def enlarge(file: Path) -> None:
    """Twice as many bytes as are free, of which none takes room."""
    with file.open("r+b") as opened:
        opened.truncate(2 * disk_free())


def refused(jobs: Jobs, asked: Coroutine[Any, Any, Any]) -> str:
    """What is said where there is no room; nothing was accepted."""
    with pytest.raises(StorageError) as error:
        asyncio.run(asked)
    assert jobs.recent() == []
    return str(error.value)


def test_the_rest_of_a_run_without_room_is_refused(paused: Run) -> None:
    jobs = Jobs.open()
    runs = Runs(Desk(), Work(jobs), Models())
    (size,) = [sum(file.stat().st_size for file in folder.iterdir()) for folder in paused.checkpoints()]
    found, picture = runs.get("local", paused.id), 8 * 10 * 18 * 18
    assert found.room(64) == 2 * size + 1 * picture, "one of three checkpoints is there, and one of two grids"
    assert found.room(400) == 2 * size + 2 * picture, "extended, it is a tenth of the way"
    accepted = asyncio.run(runs.resume(LOCAL, paused.id))
    jobs.cancel(accepted.id)
    jobs.delete(accepted.id)
    enlarge(paused.checkpoint() / "optim.safetensors")
    for asked in (runs.resume(LOCAL, paused.id), runs.extend(LOCAL, paused.id, images=8)):
        assert f"MiB free on the disk, and the rest of run {paused.id} takes up to" in refused(jobs, asked)
    assert runs.find("local", paused.id).config.images == 64


def test_who_asks_again_with_the_same_key_gets_the_same_job(paused: Run, home: Path) -> None:
    """After a broken connection: although by then a job has the run, or the disk is full; and never for another
    request."""
    jobs = Jobs.open()
    runs = Runs(Desk(), Work(jobs), Models())
    publications, evaluations = Publications(runs), Evaluations(runs)
    numbers = AskedNumbers(paused.id, None, "val", (0, 1), 2000, ("copies",), "domain")
    ways: dict[str, Callable[[str], Coroutine[Any, Any, Job]]] = {
        "extend": lambda key: runs.extend(LOCAL, paused.id, images=8, key=key),
        "longer": lambda key: runs.extend(LOCAL, paused.id, seconds=60.0, key=key),
        "resume": lambda key: runs.resume(LOCAL, paused.id, key),
        "publish": lambda key: publications.start(LOCAL, paused.id, "blobs", OPTIONS, key),
        "evaluate": lambda key: evaluations.start(LOCAL, numbers, key),
    }
    for name, ask in ways.items():
        job = asyncio.run(ask(name))
        if name in ("extend", "longer"):  # by the job, which is over
            jobs.cancel(job.id)
    for weights in paused.checkpoint().iterdir():
        enlarge(weights)
    about = json.loads((home / "data" / "blobs" / "data.json").read_text())
    about["bounds"]["train"] = [0, disk_free()]
    (home / "data" / "blobs" / "data.json").write_text(json.dumps(about))
    with pytest.raises(StorageError):
        asyncio.run(publications.start(LOCAL, paused.id, "blobs", OPTIONS, "new"))
    with pytest.raises(ConflictError):
        asyncio.run(runs.resume(LOCAL, paused.id, "new"))
    before = {job.key: job.id for job in jobs.recent()}
    for name, ask in ways.items():
        assert asyncio.run(ask(name)).id == before[f"local:{name}"], name
        for other in ways.keys() - {name}:
            with pytest.raises(KeyReusedError, match=f"'{other}' used for job {before[f'local:{other}']}, which"):
                asyncio.run(ask(other))
    assert {job.key: job.id for job in jobs.recent()} == before


def test_what_a_job_reads_is_not_deleted(paused: Run, home: Path) -> None:
    jobs = Jobs.open()
    runs, sets = Runs(Desk(), Work(jobs), Models()), Datasets(Uploads(jobs.database), jobs)
    (home / "studies" / "small").mkdir(parents=True)
    (home / "studies" / "small" / "plan.json").write_text('{"data": {"blobs": {}}}')
    for kind, spec in (
        ("train", {"run": paused.id}),
        ("publish", {"run": paused.id, "name": "x"}),
        ("train", {"data": "blobs", "start": paused.id}),
        ("evaluate", {"model": paused.id, "data": "blobs"}),
        ("study", {"study": "small", "report": True}),
        ("publish-study", {"study": "small"}),
        ("import", {"name": "blobs"}),
    ):
        job = jobs.submit(kind, spec)
        with pytest.raises(ConflictError, match=f"Found 'blobs' in use by job {job.id}"):
            sets.delete("local", "blobs")
        if kind not in ("study", "publish-study", "import"):
            with pytest.raises(ConflictError):
                runs.delete("local", paused.id)
        jobs.cancel(job.id)
    runs.delete("local", paused.id)
    assert not paused.path.exists()
    sets.delete("local", "blobs")
    assert not (home / "data" / "blobs").exists()


def test_a_deleted_runs_number_is_not_given_again(paused: Run, home: Path) -> None:
    """A job that names the run may be resumed: it must not meet another one."""
    jobs = Jobs.open()
    again = RunFolder.create(paused.config)
    Runs(Desk(), Work(jobs), Models()).delete("local", again.id)
    assert RunFolder.create(paused.config).id.startswith("0003-")
    Runs(Desk(), Work(jobs), Models()).delete("local", paused.id)
    assert RunFolder.create(paused.config).id.startswith("0004-")


def test_a_run_without_a_checkpoint_asks_the_desk_for_its_room(home: Path) -> None:
    jobs, run = Jobs.open(), tiny.run("vae", home)
    refused(jobs, Runs(Says({"disk": 2**60}), Work(jobs), Models()).resume(LOCAL, run.id))
    refused(jobs, Runs(Says({"disk": 2**60}), Work(jobs), Models()).extend(LOCAL, run.id, images=8))
    assert asyncio.run(Runs(Says({"disk": 1}), Work(jobs), Models()).resume(LOCAL, run.id)).spec == {"run": run.id}


@pytest.mark.parametrize(("with_training", "file"), [(False, "ema"), (True, "model")])
def test_a_publication_without_room_is_refused(paused: Run, with_training: bool, file: str) -> None:
    jobs = Jobs.open()
    publications = Publications(Runs(Desk(), Work(jobs), Models()))
    options = {**OPTIONS, "with_training": with_training}
    enlarge(paused.checkpoint() / f"{file}.safetensors")
    refused(jobs, publications.start(LOCAL, paused.id, "blobs", options | {"precision": "fp32"}))
    other = {**options, "with_training": not with_training}
    assert asyncio.run(publications.start(LOCAL, paused.id, "blobs", other)).kind == "publish"


def test_a_publication_whose_data_are_gone_is_not_accepted(paused: Run, home: Path) -> None:
    """And no data set of another's is named."""
    (home / "data" / "blobs").rename(home / "data" / "others")
    owners.write(home / "data" / "others", "key_b")
    publications = Publications(Runs(Desk(), Work(Jobs.open()), Models()))
    for evaluate in (True, False):
        asked = publications.start(LOCAL, paused.id, "blobs", OPTIONS | {"evaluate": evaluate})
        with pytest.raises(NotFoundError, match=r"no data set called 'blobs'; there are: digits\.?$"):
            asyncio.run(asked)


def test_what_is_averaged_is_ones_own_and_alike(paused: Run, home: Path) -> None:
    jobs = Jobs.open()
    runs = Runs(Desk(), Work(jobs), Models())
    publications = Publications(runs)

    def copy(id: str) -> Path:
        return Path(shutil.copytree(paused.path, paused.path.with_name(id)))

    alike, others, unlike, bare = copy("0002-alike"), copy("0003-others"), copy("0004-unlike"), copy("0005-bare")
    owners.write(others, "key_b")
    config = json.loads((unlike / "config.json").read_text())
    (unlike / "config.json").write_text(json.dumps({**config, "data_hash": "f" * 64}))
    shutil.rmtree(bare / "checkpoints")

    def ask(*average: str, **options: Any) -> Job:
        return asyncio.run(publications.start(LOCAL, paused.id, "mean", {**OPTIONS, **options, "average": average}))

    for average, options, error, words in (
        ([paused.id], {}, ConfigError, "a run twice"),
        ([alike.name, alike.name], {}, ConfigError, "a run twice"),
        ([alike.name], {"with_training": True}, ConfigError, "with_training and average"),
        ([alike.name, unlike.name], {}, ConfigError, "0004-unlike, whose data_hash are not those of run"),
        ([bare.name], {}, ConflictError, "no checkpoint in run '0005-bare'"),
        ([others.name], {}, NotFoundError, "no run '0003-others'"),
        (["0009-never"], {}, NotFoundError, "no run '0009-never'"),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            ask(*average, **options)
    assert not jobs.active("local")

    assert ask(alike.name).spec["average"] == [alike.name]
    with pytest.raises(ConflictError, match="in use by job"):
        runs.delete("local", alike.name)


def test_an_evaluation_without_room_is_refused(paused: Run, home: Path) -> None:
    """Copies are looked for among all training images, whose features are kept."""
    jobs = Jobs.open()
    evaluations = Evaluations(Runs(Desk(), Work(jobs), Models()))
    about = json.loads((home / "data" / "blobs" / "data.json").read_text())
    about["bounds"]["train"] = [0, disk_free()]
    (home / "data" / "blobs" / "data.json").write_text(json.dumps(about))
    asked = AskedNumbers(paused.id, None, "val", (0, 1), 2000, ("copies",), "domain")
    assert f"an evaluation of {paused.id} on blobs takes up to" in refused(jobs, evaluations.start(LOCAL, asked))
    usual = AskedNumbers(paused.id, None, "val", (0, 1), 2000, None, "domain")
    assert asyncio.run(evaluations.start(LOCAL, usual)).kind == "evaluate"


def test_whose_data_are_used(home: Path) -> None:
    data = tiny.store(tiny.images(), home)
    assert usable_data("local", "blobs") == "blobs" and usable_data("key_a", "digits") == "digits"
    with pytest.raises(NotFoundError, match="there are: digits"):
        usable_data("key_a", "blobs")
    owners.write(home / "data" / data.name, "key_a")
    assert usable_data("key_a", "blobs") == "blobs"
    for other in ("local", "key_b", ""):
        with pytest.raises(NotFoundError):
            usable_data(other, "blobs")
    (home / "data" / "blobs" / "owner").write_bytes(b"\xff")  # damaged: nobody's
    for other in ("local", "key_a"):
        with pytest.raises(NotFoundError):
            usable_data(other, "blobs")
    for wrong in ("../data/blobs", "/etc", ".", ""):
        with pytest.raises(NotFoundError):
            usable_data("key_a", wrong)


def test_a_desk_outlives_its_process(home: Path) -> None:
    """An error keeps its kind across the two processes; a killed process is replaced at the next question."""

    async def asked() -> None:
        desk = Desk()
        try:
            assert (await desk.ask("studies", names=["nope"]))[0]["problem"].startswith("Found no study called 'nope'")
            with pytest.raises(NotFoundError, match="no preset called 'vae-33'"):
                await desk.ask("plan", run={"preset": "vae-33", "data": "digits", "images": 9})
            assert desk._process is not None
            desk._process._proc.kill()
            assert await desk.ask("studies", names=[]) == []

            # Who asks while others are answered waits its turn, and so many may.
            many = [desk.ask("studies", names=[]) for _ in range(WAITING + 5)]
            found = await asyncio.gather(*many, return_exceptions=True)
            assert found.count([]) == WAITING + 1 and sum(isinstance(f, QueueFullError) for f in found) == 4
        finally:
            desk.close()

    asyncio.run(asked())


def test_errors_by_their_code() -> None:
    assert type(of_code("integrity", "x")) is IntegrityError and of_code("nope", "x", ["a"]).details == ("a",)
    assert isinstance(of_code("quota", "x"), UnavailableError)
