"""Runs before they are accepted: room on the disk, and whose data they may use."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kartina import owners
from kartina.errors import (
    IntegrityError,
    NotFoundError,
    QueueFullError,
    QuotaError,
    StorageError,
    UnavailableError,
    of_code,
)
from kartina.jobs.table import Jobs
from kartina.services.access import LOCAL, Caller
from kartina.services.desk import WAITING, Desk
from kartina.services.estimates import check_room
from kartina.services.jobs import Work
from kartina.services.models import Models
from kartina.services.runs import Asked, Runs, usable_data
from kartina.services.studies import Studies
from kartina.storage.usage import Quota
from kartina.study.spec import StudySpec
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
