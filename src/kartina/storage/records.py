"""Generations and their images in the database: what was asked, what has become of it, and the gallery of all images.

A generation is a row, each of its images another one beside a blob. Every method that serves a caller takes its
`owner`, and what is somebody else's is not found. Those that take a connection are parts of a transaction (see
`kartina.storage.commits`); the others read.

A page of the gallery is a range of an index whose leading columns are the filters, and ids sort by time: the last page
costs what the first does. Trash keeps an image for 30 days.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field

from kartina.config import Frozen
from kartina.errors import NotFoundError
from kartina.storage.blobs import Blobs
from kartina.storage.database import Database
from kartina.storage.ids import first_id, new_id, time_of
from kartina.storage.tables import generations, images
from kartina.storage.usage import charge

Status = Literal["queued", "running", "succeeded", "failed", "canceling", "canceled", "expired"]
TERMINAL: frozenset[Status] = frozenset(("succeeded", "failed", "canceled", "expired"))
UNFINISHED: tuple[Status, ...] = ("queued", "running", "canceling")
Format = Literal["png", "webp"]
Change = Literal["favourite", "ordinary", "trash", "restore", "delete"]  # of an image; delete is for good
TRASH = 30 * 24 * 3600.0  # seconds that an image stays in the trash
LAST = 200  # generations that say which models are used
PREFIX = "gen"


class Made(Frozen):
    """A finished image."""

    index: int
    label: str | None
    seed: int
    width: int
    height: int
    format: Format = "png"
    hash: str = ""  # SHA-256 of its file
    size: int = 0  # bytes of its file
    event: int = 0  # the number of the event that told of it


class Failure(Frozen):
    code: str
    message: str


class Input(Frozen):
    """An image that a generation starts from: kept as long as the generation, whatever becomes of the asset."""

    asset: str
    blob: str


class Generation(Frozen):
    """A request for images, with nothing left open, and what has become of it."""

    id: str
    owner: str
    model: str  # name@version
    model_hash: str
    task: str
    labels: tuple[str, ...]  # empty for an unconditional model
    n: int = Field(ge=1)
    seed: int = Field(ge=0)
    controls: dict[str, Any]
    inputs: dict[str, tuple[Input, ...]] = Field(default={})  # by kind: image i takes the one at i mod M
    format: Format = "png"
    width: int
    height: int
    status: Status = "queued"
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    attempt: int = 1  # raised when a restarted service takes it up again
    crashes: int = 0  # services that died while it was running
    history: tuple[tuple[int, Status], ...] = ()  # events that told of its status
    step: int = 0
    steps: int = 0
    outputs: tuple[Made, ...] = ()  # by index; those in the trash are left out
    error: Failure | None = None

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL

    @property
    def progress(self) -> float:
        """0..1."""
        if self.status == "succeeded":
            return 1.0
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def queue_ms(self) -> float | None:
        return _ms(self.created_at, self.started_at)

    @property
    def execution_ms(self) -> float | None:
        return _ms(self.started_at, self.completed_at)

    @property
    def last_event(self) -> int:
        """The highest number of an event that is kept."""
        return max((0, *(event for event, _ in self.history), *(out.event for out in self.outputs)))

    def label_of(self, index: int) -> str | None:
        """The class of image `index`, labels[index mod len(labels)]; None of an unconditional model."""
        return self.labels[index % len(self.labels)] if self.labels else None

    def made(self, index: int, **file: Any) -> Made:
        """What image `index` is, whose seed is seed + index; of its `file` what is known."""
        size = {"width": self.width, "height": self.height, "format": self.format}
        return Made(index=index, label=self.label_of(index), seed=self.seed + index, **{**size, **file})

    def image_id(self, index: int) -> str:
        return image_id(self.id, index)


@dataclass(frozen=True)
class Picture:
    """An image of the gallery."""

    id: str
    generation: str
    made: Made
    model: str
    favourite: bool
    created_at: datetime
    trashed_at: datetime | None


@dataclass(frozen=True)
class Filter:
    """Which images of the gallery are wanted; None for any."""

    model: str | None = None  # name@version
    label: str | None = None
    favourite: bool = False  # only those
    since: datetime | None = None
    until: datetime | None = None  # before this time
    trash: bool = False  # what is in the trash, instead
    ids: tuple[str, ...] | None = None  # only these


def _ms(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else round((end - start).total_seconds() * 1000, 3)


def now() -> datetime:
    return datetime.now(UTC)


def new_generation_id() -> str:
    return new_id(PREFIX)


def image_id(generation: str, index: int) -> str:
    return f"{generation}-{index:03d}"


def asked_at(id: str) -> datetime:
    """When a generation, or an image's, was asked for: its id says so, to the millisecond."""
    return datetime.fromtimestamp(time_of(id), UTC)


@dataclass(frozen=True)
class Records:
    """The generations of one database. Methods block; call them from a thread."""

    database: Database
    blobs: Blobs

    # -- generations: parts of a transaction -------------------------------------------------------------------------

    def insert(self, c: sa.Connection, record: Generation) -> None:
        """Accept a generation."""
        c.execute(sa.insert(generations), _row(record))
        for blob in {one.blob for given in record.inputs.values() for one in given}:
            self.blobs.refer(c, _inputs_of(record.id), blob)

    def update(self, c: sa.Connection, record: Generation) -> bool:
        """Write down what has become of it; False when it is no longer there."""
        return c.execute(_UPDATE, _changed(record)).rowcount == 1

    def give_back(self, c: sa.Connection, ids: Sequence[str]) -> None:
        """Running generations whose service stops on purpose: they wait again."""
        running = sa.and_(generations.c.id.in_(ids), generations.c.status == "running")
        c.execute(sa.update(generations).where(running).values(status="queued"))

    def end(self, c: sa.Connection, record: Generation) -> None:
        """Write down how it ended, once, and give back what was promised and not made."""
        if c.execute(_END, _changed(record)).rowcount and len(record.outputs) < record.n:
            charge(c, self.database, record.owner, images=len(record.outputs) - record.n)
            self._forgo(c, record.id, record.n)

    def expect_images(self, c: sa.Connection, record: Generation, made: Sequence[Made]) -> None:
        """The bytes of images are about to be put among the blobs."""
        self.blobs.expect_all(c, [(_image_owner(record.image_id(one.index)), one.hash, one.size) for one in made])

    def add_images(self, c: sa.Connection, record: Generation, made: Sequence[Made]) -> None:
        """Images whose bytes are there."""
        self.blobs.arrived(c, *(one.hash for one in made))
        same = {"owner": record.owner, "generation": record.id, "model": record.model, "favourite": False}
        rows = [
            {"id": record.image_id(one.index), "number": one.index, **one.model_dump(exclude={"index"}), **same}
            for one in made
        ]
        c.execute(sa.insert(images), rows)
        charge(c, self.database, record.owner, bytes=sum(one.size for one in made))

    def delete(self, c: sa.Connection, owner: str, id: str) -> None:
        """Forget a generation and its images; where its end was never written down, give back what was promised, too.
        Raises NotFoundError."""
        mine = sa.and_(generations.c.id == id, generations.c.owner == owner)
        found = c.execute(sa.select(generations.c.status, generations.c.request).where(mine)).one_or_none()
        if found is None:
            raise NotFoundError(f"Found no generation {id!r}.")
        n = found.request["n"]
        made = self._remove(c, owner, images.c.generation == id)
        if found.status in UNFINISHED:
            charge(c, self.database, owner, images=made - n)
        self._forgo(c, id, n)
        self.blobs.let_go(c, [_inputs_of(id)])
        c.execute(sa.delete(generations).where(generations.c.id == id))

    def _forgo(self, c: sa.Connection, id: str, n: int) -> None:
        """Let go of the blobs of images that were expected and never came: a full disk, a kill. No more may come."""
        there = set(c.execute(sa.select(images.c.id).where(images.c.generation == id)).scalars())
        self.blobs.let_go(c, [_image_owner(one) for i in range(n) if (one := image_id(id, i)) not in there])

    # -- generations: reads ------------------------------------------------------------------------------------------

    def get(self, owner: str, id: str) -> Generation:
        """The generation `id` of this owner. Raises NotFoundError."""
        with self.database.read() as c:
            row = c.execute(sa.select(generations).where(generations.c.id == id)).one_or_none()
            if row is None or row.owner != owner:
                raise NotFoundError(f"Found no generation {id!r}.")
            return self._with_outputs(c, [row])[0]

    def page(self, owner: str, limit: int, cursor: str | None = None) -> tuple[list[Generation], str | None]:
        """A page of this owner's generations, newest first, and the cursor of the next one."""
        mine = sa.select(generations).where(generations.c.owner == owner)
        if cursor is not None:
            mine = mine.where(generations.c.id < cursor)
        with self.database.read() as c:
            rows = c.execute(mine.order_by(generations.c.id.desc()).limit(limit + 1)).all()
            found = self._with_outputs(c, rows[:limit])
        return found, found[-1].id if len(rows) > limit else None

    def unfinished(self) -> list[Generation]:
        """Everybody's generations that were accepted and have not ended, oldest first."""
        wanted = sa.select(generations).where(generations.c.status.in_(UNFINISHED)).order_by(generations.c.id)
        with self.database.read() as c:
            return self._with_outputs(c, c.execute(wanted).all(), trash=True)

    def models_used(self) -> list[tuple[str, str]]:
        """(hash, name@version) of the models of everybody's last generations, the last one first."""
        last = sa.select(generations.c.model_hash, generations.c.model).order_by(generations.c.id.desc()).limit(LAST)
        with self.database.read() as c:
            return list({row.model_hash: (row.model_hash, row.model) for row in c.execute(last)}.values())

    def _with_outputs(self, c: sa.Connection, rows: Sequence[Any], trash: bool = False) -> list[Generation]:
        """Generations with their images; with those in the trash, too, where `trash`."""
        ids = [row.id for row in rows]
        of: dict[str, list[Made]] = {id: [] for id in ids}
        wanted = sa.select(images).where(images.c.generation.in_(ids))
        if not trash:
            wanted = wanted.where(images.c.trashed_at.is_(None))
        for image in c.execute(wanted.order_by(images.c.number)):
            of[image.generation].append(_made(image))
        return [_generation(row, tuple(of[row.id])) for row in rows]

    # -- images ------------------------------------------------------------------------------------------------------

    def picture(self, owner: str, id: str) -> Picture:
        """An image of this owner, also one in the trash. Raises NotFoundError."""
        with self.database.read() as c:
            row = c.execute(sa.select(images).where(images.c.id == id)).one_or_none()
        if row is None or row.owner != owner:
            raise NotFoundError(f"Found no image {id!r}.")
        return _picture(row)

    def gallery(
        self, owner: str, wanted: Filter, limit: int, cursor: str | None = None
    ) -> tuple[list[Picture], str | None]:
        """A page of this owner's images, newest first, and the cursor of the next one."""
        found = sa.select(images).where(images.c.owner == owner)
        found = found.where(images.c.trashed_at.is_not(None) if wanted.trash else images.c.trashed_at.is_(None))
        if wanted.model is not None:
            found = found.where(images.c.model == wanted.model)
        if wanted.label is not None:
            found = found.where(images.c.label == wanted.label)
        if wanted.favourite:
            found = found.where(images.c.favourite.is_(sa.true()))
        if wanted.since is not None:
            found = found.where(images.c.id >= first_id(PREFIX, wanted.since.timestamp()))
        if wanted.ids is not None:
            found = found.where(images.c.id.in_(wanted.ids))
        before = [] if wanted.until is None else [first_id(PREFIX, wanted.until.timestamp())]
        before += [] if cursor is None else [cursor]
        if before:
            found = found.where(images.c.id < min(before))
        with self.database.read() as c:
            rows = c.execute(found.order_by(images.c.id.desc()).limit(limit + 1)).all()
        return [_picture(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None

    def set_favourite(self, c: sa.Connection, owner: str, id: str, favourite: bool) -> None:
        """Raises NotFoundError."""
        self._change(c, owner, id, favourite=favourite)

    def trash(self, c: sa.Connection, owner: str, id: str) -> None:
        """Put an image into the trash; one that is there stays as it is. Raises NotFoundError."""
        at = sa.func.coalesce(images.c.trashed_at, self.database.clock(c))
        self._change(c, owner, id, trashed_at=at)

    def restore(self, c: sa.Connection, owner: str, id: str) -> None:
        """Take an image out of the trash. Raises NotFoundError."""
        self._change(c, owner, id, trashed_at=None)

    def remove(self, c: sa.Connection, owner: str, id: str) -> None:
        """Delete an image for good. Raises NotFoundError."""
        if not self._remove(c, owner, images.c.id == id):
            raise NotFoundError(f"Found no image {id!r}.")

    def change_many(self, c: sa.Connection, owner: str, ids: Sequence[str], change: Change) -> int:
        """Do the same to several images; says to how many. What is not there, or somebody else's, is passed over."""
        if change == "delete":
            return self._remove(c, owner, images.c.id.in_(ids))
        kept = sa.func.coalesce(images.c.trashed_at, self.database.clock(c))  # twice in the trash: its time goes on
        values: dict[Change, dict[str, Any]] = {
            "favourite": {"favourite": True},
            "ordinary": {"favourite": False},
            "trash": {"trashed_at": kept},
            "restore": {"trashed_at": None},
        }
        mine = sa.and_(images.c.id.in_(ids), images.c.owner == owner)
        return c.execute(sa.update(images).where(mine).values(**values[change])).rowcount

    def purge(self, c: sa.Connection, most: int = 500) -> int:
        """Delete what has been in the trash for 30 days, at most so many images; says how many went."""
        old = images.c.trashed_at <= self.database.clock(c) - TRASH
        found = c.execute(sa.select(images.c.owner, images.c.id).where(old).limit(most)).all()
        for owner in sorted({row.owner for row in found}):
            self._remove(c, owner, images.c.id.in_([row.id for row in found if row.owner == owner]))
        return len(found)

    def _change(self, c: sa.Connection, owner: str, id: str, **values: Any) -> None:
        mine = sa.and_(images.c.id == id, images.c.owner == owner)
        if not c.execute(sa.update(images).where(mine).values(**values)).rowcount:
            raise NotFoundError(f"Found no image {id!r}.")

    def _remove(self, c: sa.Connection, owner: str, which: sa.ColumnElement[bool]) -> int:
        """Delete images of one owner, with their references to blobs and what they count for; says how many."""
        found = c.execute(sa.select(images.c.id, images.c.size).where(which, images.c.owner == owner)).all()
        if found:
            ids = [row.id for row in found]
            c.execute(sa.delete(images).where(images.c.id.in_(ids)))
            self.blobs.let_go(c, [_image_owner(id) for id in ids])
            charge(c, self.database, owner, images=-len(ids), bytes=-sum(row.size for row in found))
        return len(found)


_CHANGING = ("status", "attempt", "crashes", "history", "step", "steps", "error", "started_at", "completed_at")
_UPDATE = (
    sa.update(generations)
    .where(generations.c.id == sa.bindparam("of"))
    .values({key: sa.bindparam(key, type_=generations.c[key].type) for key in _CHANGING})
)
_END = _UPDATE.where(generations.c.status.in_(UNFINISHED))


def _changed(record: Generation) -> dict[str, Any]:
    return {"of": record.id, **_state(record)}


def _image_owner(id: str) -> str:
    return f"image:{id}"


def _inputs_of(id: str) -> str:
    return f"inputs:{id}"


def _row(record: Generation) -> dict[str, Any]:
    """The columns of a generation's row."""
    asked = {"labels", "n", "seed", "controls", "inputs", "format", "width", "height"}
    return {
        **record.model_dump(include={"id", "owner", "model", "model_hash", "task"}),
        **_state(record),
        "created_at": record.created_at.timestamp(),
        "request": record.model_dump(mode="json", include=asked),
    }


def _state(record: Generation) -> dict[str, Any]:
    """Those of its columns that change."""
    return {
        "status": record.status,
        "attempt": record.attempt,
        "crashes": record.crashes,
        "history": [list(event) for event in record.history],
        "step": record.step,
        "steps": record.steps,
        "error": None if record.error is None else record.error.model_dump(),
        "started_at": _epoch(record.started_at),
        "completed_at": _epoch(record.completed_at),
    }


def _generation(row: Any, outputs: tuple[Made, ...]) -> Generation:
    times = {at: _time(getattr(row, at)) for at in ("created_at", "started_at", "completed_at")}
    kept = {key: getattr(row, key) for key in ("id", "owner", "model", "model_hash", "task", "status", "attempt",
                                               "crashes", "history", "step", "steps", "error")}  # fmt: skip
    return Generation.model_validate({**row.request, **kept, **times, "outputs": outputs})


def _made(row: Any) -> Made:
    return Made(
        index=row.number, label=row.label, seed=row.seed, width=row.width, height=row.height, format=row.format,
        hash=row.hash, size=row.size, event=row.event,
    )  # fmt: skip


def _picture(row: Any) -> Picture:
    return Picture(
        id=row.id,
        generation=row.generation,
        made=_made(row),
        model=row.model,
        favourite=row.favourite,
        created_at=asked_at(row.id),
        trashed_at=_time(row.trashed_at),
    )


def _epoch(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
