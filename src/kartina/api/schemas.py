"""What the HTTP API takes and gives. Requests are strict and refuse unknown fields; every URL is made here.

Field names are the product's JSON contract (`openapi.json`); what each status and number means is said on the field.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from kartina.services.access import SCOPES, Caller, Scope
from kartina.services.generations import Submission
from kartina.services.keys import RATE
from kartina.services.models import ModelInfo
from kartina.storage.assets import Asset as StoredAsset
from kartina.storage.keys import Key as StoredKey
from kartina.storage.records import Change, Format, Generation, Made, Picture, Status
from kartina.storage.usage import Quota, Used

TEXT = r"^[^\x00]*$"  # what a database can compare with; a NUL it cannot
MAX_IDS = 500  # images that one request names
MAX_SEED = 2**53 - 1  # the largest whole number that every JSON reader keeps exact


class Request(BaseModel):
    """Base of request bodies."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Response(BaseModel):
    """Base of response bodies."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True)


class FromCard(Response):
    """Base of what a package's card.json says: a card may say more than the API tells, and stays readable."""

    model_config = ConfigDict(extra="ignore")


class Problem(Response):
    """An error (RFC 9457): what was found, what was expected, what to do."""

    type: str = Field(description="URI of the kind of problem", examples=["urn:kartina:problem:not_found"])
    title: str = Field(description="The kind of problem, for a person")
    status: int = Field(description="The HTTP status (in a job's error: the one that the job would have answered with)")
    detail: str = Field(description="What happened: what was found, what was expected, what to do")
    code: str = Field(description="The kind of problem, for a program; stable", examples=["not_found"])
    errors: list[str] = Field(default=[], description="One line for each wrong value: where it is, what is expected")
    request_id: str | None = Field(default=None, description="Names this request in the service's log")
    message: str | None = Field(
        default=None, description="The detail again, where OpenAI's clients look", exclude_if=lambda text: text is None
    )


class Health(Response):
    status: Literal["ok"] = "ok"


# -- session --------------------------------------------------------------------------------------------------------


class Session(Response):
    mode: Literal["local", "key"] = Field(
        description="local: one person, on this machine, by the start-up token; key: by an API key"
    )
    version: str = Field(description="Kartina's version")
    name: str = Field(description="The key's name, or local")
    scopes: list[Scope] = Field(description="What this caller may do")

    @classmethod
    def of(cls, found: Caller, version: str) -> Session:
        mode: Literal["local", "key"] = "local" if found.owner == "local" else "key"
        return cls(mode=mode, version=version, name=found.name, scopes=[s for s in SCOPES if s in found.scopes])


class SessionRequest(Request):
    token: str = Field(
        min_length=1, max_length=200, description="The token that `kartina serve` printed in its URL, or a key"
    )


# -- keys -----------------------------------------------------------------------------------------------------------


class KeyQuota(Request):
    """The most that a key may use; null for no bound."""

    steps: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Images x steps a day (UTC)")
    images: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Stored images")
    bytes: int | None = Field(default=None, ge=0, le=MAX_SEED, description="Stored bytes")
    jobs: int | None = Field(default=20, ge=0, le=MAX_SEED, description="Jobs (/v1/jobs) that are not at their end")


class KeyRequest(Request):
    """Ask for an API key."""

    name: str = Field(min_length=1, max_length=200, pattern=TEXT, description="What it is for")
    scopes: list[Scope] = Field(default=["generate"], min_length=1, max_length=len(SCOPES))
    quota: KeyQuota = KeyQuota()
    rate: str = Field(default=RATE, min_length=1, max_length=50, description="Requests: 60/minute, 5/second")
    days: int | None = Field(default=None, ge=1, le=3650, description="It ends after so many days")

    def limits(self) -> Quota:
        return Quota(self.quota.steps, self.quota.images, self.quota.bytes, self.quota.jobs)


class KeyUsage(Response):
    steps: int = Field(description="Today (UTC)")
    images: int
    bytes: int


class Key(Response):
    """An API key, without its secret."""

    id: str
    name: str
    prefix: str = Field(description="How the key begins")
    scopes: list[str]
    quota: KeyQuota
    used: KeyUsage
    rate: str
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None = Field(description="About when it was last used")
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: StoredKey, used: Used) -> Key:
        return cls(
            id=key.id,
            name=key.name,
            prefix=f"kt_{key.prefix}",
            scopes=list(key.scopes),
            quota=KeyQuota(**asdict(key.quota)),
            used=KeyUsage(steps=used.steps, images=used.images, bytes=used.bytes),
            rate=key.rate,
            created_at=key.created_at,
            expires_at=key.expires_at,
            used_at=key.used_at,
            revoked_at=key.revoked_at,
        )


class NewKey(Response):
    """A key that was just made. The secret is shown this once."""

    key: Key
    secret: str = Field(description="The key itself: send it as `Authorization: Bearer ...`")


class KeyPage(Response):
    items: list[Key]


# -- models ---------------------------------------------------------------------------------------------------------


class Metric(FromCard):
    """A number and what it takes to compare it with another: the same shape wherever numbers appear."""

    value: float
    interval: tuple[float, float] | None = Field(default=None, description="[low, high] over generation seeds")
    floor: float | None = Field(
        default=None, description="What as many real images score; of class_agreement, the held-out split itself"
    )
    identity: dict[str, JsonValue] = Field(
        default={}, description="How it was measured; equal identities can be compared"
    )


class ClassQuality(FromCard):
    """How well one class is generated."""

    name: str = Field(alias="class")
    agreement: float | None = Field(default=None, description="Share that a classifier of real images calls this class")
    coverage: float | None = Field(default=None, description="Share of real images with a generated image near by")
    diversity: float | None = Field(default=None, description="Variety relative to real images: 1 is equal")
    train: int | None = Field(default=None, description="Training images of this class")
    reason: str | None = Field(default=None, description='Why a number is null: "too few" real images to tell')


class DataRef(Response):
    name: str
    hash: str = Field(description="Content hash of the data set")
    counts: dict[str, int] = Field(description="Training images per class")


class ImageShape(Response):
    height: int
    width: int
    channels: int


class Task(Response):
    """One thing that a model can do."""

    inputs: list[str] = Field(description='What it needs beside labels: "image", "mask"')
    controls: dict[str, JsonValue] = Field(alias="schema", description="JSON Schema of its controls")
    defaults: dict[str, JsonValue] = Field(description="The controls' default values")


class ModelUrls(Response):
    self: str
    samples: str | None = Field(description="A grid of uncurated images, one row a class")
    classes: list[str | None] = Field(description="One example image for each class, in label order")
    package: str = Field(description="The whole package as a ZIP: import it elsewhere")


class Model(Response):
    """A model package: what it makes, how well, and where it came from."""

    ref: str = Field(description="name@version", examples=["fashion@1"])
    name: str
    version: int
    hash: str
    family: str
    preset: str | None
    about: str
    bundled: bool = Field(description="Comes with Kartina, and cannot be deleted")
    active: bool = Field(description="What the name alone means")
    licence: str
    created_at: datetime | None
    data: DataRef
    image: ImageShape
    classes: list[str] = Field(description="Class names in label order; empty for an unconditional model")
    tasks: dict[str, Task]
    metrics: dict[str, Metric]
    per_class: list[ClassQuality] = Field(description="Worst class first")
    parameters: int = Field(description="Parameters needed for sampling")
    urls: ModelUrls

    @classmethod
    def of(cls, info: ModelInfo) -> Model:
        base = f"/v1/models/{quote(info.ref, safe='@')}"
        classes = [f"{base}/classes/{i}.png" if path else None for i, path in enumerate(info.class_images)]
        return cls(
            ref=info.ref,
            name=info.manifest.name,
            version=info.manifest.version,
            hash=info.hash,
            family=info.manifest.family,
            preset=info.manifest.provenance.preset or None,
            about=info.text("about"),
            bundled=info.bundled,
            active=info.active,
            licence=info.text("licence"),
            created_at=info.created_at,
            data=DataRef(
                name=info.manifest.provenance.data, hash=info.manifest.provenance.data_hash, counts=info.counts
            ),
            image=ImageShape(height=info.spec.height, width=info.spec.width, channels=info.spec.channels),
            classes=list(info.spec.classes),
            tasks={
                name: Task.model_validate(
                    {"inputs": list(task.inputs), "schema": dict(task.schema), "defaults": dict(task.defaults)}
                )
                for name, task in info.tasks.items()
            },
            metrics={name: Metric.model_validate(metric) for name, metric in info.metrics.items()},
            per_class=[ClassQuality.model_validate(row) for row in info.per_class],
            parameters=info.manifest.parameters,
            urls=ModelUrls(
                self=base,
                samples=f"{base}/samples.png" if info.samples else None,
                classes=classes,
                package=f"{base}/package.zip",
            ),
        )


class ModelPage(Response):
    items: list[Model]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


# -- generations ----------------------------------------------------------------------------------------------------


AssetId = Annotated[str, Field(min_length=1, max_length=100, pattern=TEXT)]
Given = AssetId | Annotated[list[AssetId], Field(min_length=1, max_length=256)] | None


class GenerationRequest(Request):
    """Ask for n images. Image i has the seed `seed + i` and the label `labels[i mod len(labels)]`."""

    model: str = Field(min_length=1, max_length=200, description="name, name@version or the start of a hash")
    task: str = Field(default="generate", min_length=1, max_length=100, description="One of the model's tasks")
    labels: list[str] | None = Field(
        default=None, min_length=1, max_length=256, description="Class names; left out: every class in turn"
    )
    n: int = Field(default=1, ge=1, le=256, description="Images in all")
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED - 256, description="Left out: a new one is drawn")
    controls: dict[str, JsonValue] = Field(
        default={}, max_length=64, description="Over the defaults; see the model's tasks"
    )
    image: Given = Field(default=None, description="Ids of assets; image i starts from the one at i mod their number")
    to_image: Given = Field(default=None, description="Ids of assets, for tasks that end at an image")
    mask: Given = Field(default=None, description="Ids of assets: white is made anew, black stays")
    format: Format = Field(default="png", description="Of the images' files; both are lossless and carry the recipe")

    def submission(self) -> Submission:
        given = {"image": self.image, "to_image": self.to_image, "mask": self.mask}
        inputs = {kind: (ids,) if isinstance(ids, str) else tuple(ids) for kind, ids in given.items() if ids}
        return Submission(
            inputs=inputs,
            format=self.format,
            model=self.model,
            task=self.task,
            labels=None if self.labels is None else tuple(self.labels),
            n=self.n,
            seed=self.seed,
            controls=self.controls,
        )


class GenerationSettings(Response):
    """The request as it was accepted: nothing left open. Sent again, it makes the same images."""

    model: str = Field(description="name@version")
    task: str
    labels: list[str]
    n: int
    seed: int
    controls: dict[str, JsonValue]
    image: list[str] | None = None
    to_image: list[str] | None = None
    mask: list[str] | None = None
    format: Format = "png"


class OutputImage(Response):
    id: str
    index: int = Field(description="Which of the n images")
    label: str | None = Field(description="Its class; null for an unconditional model")
    seed: int
    url: str
    width: int
    height: int
    hash: str = Field(description="SHA-256 of its file")


class Progress(Response):
    value: float = Field(ge=0, le=1)
    step: int = Field(description="Sampling steps done, over all images")
    steps: int = Field(description="Sampling steps there are, over all images; 0 before it is known")


class JobMetrics(Response):
    queue_ms: float | None = Field(default=None, description="From acceptance to the first step")
    execution_ms: float | None = Field(default=None, description="From the first step to the end")


class JobUrls(Response):
    self: str
    events: str
    cancel: str
    zip: str


class Job(Response):
    """A request that was accepted, and what has become of it."""

    id: str
    kind: Literal["generation"] = "generation"
    status: Status = Field(
        description="queued, running or canceling; then for good succeeded, failed, canceled, or expired: not made "
        "within a day, because the service was away"
    )
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    queue_position: int | None = Field(default=None, description="1 is next; null when not queued")
    progress: Progress
    request: GenerationSettings
    outputs: list[OutputImage] = Field(description="The images finished so far, by index")
    error: Problem | None = Field(default=None, description="Why it failed, or expired")
    metrics: JobMetrics
    urls: JobUrls

    @classmethod
    def of(cls, found: Generation, queue_position: int | None = None) -> Job:
        from kartina.api.problems import problem_of  # problems are made of schemas

        base = f"/v1/generations/{found.id}"
        return cls(
            id=found.id,
            status=found.status,
            created_at=found.created_at,
            started_at=found.started_at,
            completed_at=found.completed_at,
            queue_position=queue_position,
            progress=Progress(value=found.progress, step=found.step, steps=found.steps),
            request=GenerationSettings(
                model=found.model,
                task=found.task,
                labels=list(found.labels),
                n=found.n,
                seed=found.seed,
                controls=found.controls,
                **{kind: [one.asset for one in given] for kind, given in found.inputs.items()},
                format=found.format,
            ),
            outputs=[output_image(found, out) for out in found.outputs],
            error=None if found.error is None else problem_of(found.error.code, found.error.message),
            metrics=JobMetrics(queue_ms=found.queue_ms, execution_ms=found.execution_ms),
            urls=JobUrls(self=base, events=f"{base}/events", cancel=f"{base}/cancel", zip=f"{base}/images.zip"),
        )


def output_image(found: Generation, out: Made) -> OutputImage:
    """A finished image of the generation `found`."""
    id = found.image_id(out.index)
    return OutputImage(
        id=id,
        index=out.index,
        label=out.label,
        seed=out.seed,
        url=f"/v1/images/{id}",
        width=out.width,
        height=out.height,
        hash=out.hash,
    )


class JobPage(Response):
    items: list[Job]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


# -- gallery --------------------------------------------------------------------------------------------------------


class GalleryImage(Response):
    """A stored image."""

    id: str
    generation: str = Field(description="Id of the job that made it")
    index: int = Field(description="Which of the job's images")
    model: str = Field(description="name@version")
    label: str | None
    seed: int
    width: int
    height: int
    format: Format
    hash: str = Field(description="SHA-256 of its file")
    size: int = Field(description="Bytes of its file")
    favourite: bool
    created_at: datetime = Field(description="When it was asked for")
    trashed_at: datetime | None = Field(description="In the trash since then; it is deleted 30 days later")
    url: str

    @classmethod
    def of(cls, found: Picture) -> GalleryImage:
        made = found.made
        return cls(
            id=found.id,
            generation=found.generation,
            index=made.index,
            model=found.model,
            label=made.label,
            seed=made.seed,
            width=made.width,
            height=made.height,
            format=made.format,
            hash=made.hash,
            size=made.size,
            favourite=found.favourite,
            created_at=found.created_at,
            trashed_at=found.trashed_at,
            url=f"/v1/images/{found.id}",
        )


class GalleryPage(Response):
    items: list[GalleryImage]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


class ImageChange(Request):
    """What is to be changed about an image."""

    favourite: bool


class ImagesChange(Request):
    """What is to be done to several images."""

    ids: list[AssetId] = Field(min_length=1, max_length=MAX_IDS, description="Ids of images")
    change: Change = Field(description="ordinary: no favourite any more; delete: now and for good, past the trash")


class ImagesChanged(Response):
    changed: int = Field(description="Images that were found, and changed")


# -- assets ---------------------------------------------------------------------------------------------------------


class Asset(Response):
    """An uploaded image: name its id as `image`, `to_image` or `mask` of a generation."""

    id: str
    hash: str = Field(description="SHA-256 of the uploaded bytes, computed here")
    width: int
    height: int
    channels: int = Field(description="1 grey, 3 colour")
    note: str = Field(description="What was done to it (alpha, 16 bits, CMYK); empty for nothing")
    created_at: datetime
    url: str = Field(description="The image as it is used: a PNG, upright, 8 bits, without metadata")

    @classmethod
    def of(cls, found: StoredAsset) -> Asset:
        return cls(
            id=found.id,
            hash=found.hash,
            width=found.width,
            height=found.height,
            channels=found.channels,
            note=found.note,
            created_at=found.created_at,
            url=f"/v1/assets/{found.id}/image.png",
        )


class AssetPage(Response):
    items: list[Asset]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


# -- events ---------------------------------------------------------------------------------------------------------


class StatusEvent(Response):
    """`event: status`: the whole job. Sent on connection as the snapshot, and whenever the status changes."""

    type: Literal["status"] = "status"
    job: Job


class ProgressEvent(Response):
    """`event: progress`: at most about 4 a second; only the newest is kept for a reader that comes late."""

    type: Literal["progress"] = "progress"
    progress: Progress


class PreviewImage(Response):
    index: int
    url: str = Field(description="data:image/png;base64,...")


class PreviewEvent(Response):
    """`event: preview`: what unfinished images look like so far, at most about four times a second."""

    type: Literal["preview"] = "preview"
    images: list[PreviewImage]


class OutputEvent(Response):
    """`event: output`: one image is finished."""

    type: Literal["output"] = "output"
    output: OutputImage


class ReconnectEvent(Response):
    """`event: reconnect`: the service is about to stop; connect again with Last-Event-ID."""

    type: Literal["reconnect"] = "reconnect"


JobEvent = StatusEvent | ProgressEvent | PreviewEvent | OutputEvent | ReconnectEvent
