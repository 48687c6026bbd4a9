"""What the service answers, as data. Each class has the name and the fields that /openapi.json gives it.

A newer service may say more: fields that are not known here are left out, and values of the open kinds below
(`Status`, `Format`, `Scope`) may be others than the ones listed.
"""

from __future__ import annotations

import base64
import io
from datetime import datetime
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Status = Literal["queued", "running", "succeeded", "failed", "canceling", "canceled", "expired"] | str
Format = Literal["png", "webp"] | str
Scope = Literal["generate", "models", "keys", "data", "train", "metrics"] | str
D = TypeVar("D", bound=BaseModel)


class Data(BaseModel):
    """Base of everything that the service answers."""

    model_config = ConfigDict(frozen=True, extra="ignore", serialize_by_alias=True, validate_by_name=True)


class Page(Data, Generic[D]):
    """A part of a list, and where the next one begins; None after the last."""

    items: list[D]
    next_cursor: str | None = None


class Problem(Data):
    """An error: what was found, what was expected, what to do."""

    type: str = "about:blank"
    title: str = ""
    status: int
    detail: str = ""
    code: str = "http"  # for a program; stable
    errors: list[str] = []  # one line for each wrong value
    request_id: str | None = None  # names the request in the service's log
    message: str | None = None


class Health(Data):
    status: str


class Session(Data):
    """Who asks, and what they may do."""

    mode: Literal["local", "key"] | str
    version: str  # Kartina's
    name: str
    scopes: list[Scope]


# -- keys -----------------------------------------------------------------------------------------------------------


class KeyQuota(Data):
    """The most that a key may use; None for no bound."""

    steps: int | None = None  # images x steps a day (UTC)
    images: int | None = None  # stored
    bytes: int | None = None  # stored
    jobs: int | None = 20  # that are not at their end


class KeyUsage(Data):
    steps: int  # today (UTC)
    images: int
    bytes: int


class Key(Data):
    """An API key, without its secret."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    quota: KeyQuota
    used: KeyUsage
    rate: str
    created_at: datetime
    expires_at: datetime | None
    used_at: datetime | None
    revoked_at: datetime | None


class NewKey(Data):
    """A key that was just made: `secret` is shown this once."""

    key: Key
    secret: str


class KeyPage(Data):
    items: list[Key]


# -- models ---------------------------------------------------------------------------------------------------------


class Metric(Data):
    """A number, its interval over seeds, what real images score, and how it was measured."""

    value: float
    interval: tuple[float, float] | None = None
    floor: float | None = None
    identity: dict[str, JsonValue] = {}


class ClassQuality(Data):
    """How well one class is generated."""

    name: str = Field(alias="class")
    agreement: float | None = None
    coverage: float | None = None
    diversity: float | None = None
    train: int | None = None
    reason: str | None = None  # why a number is None


class DataRef(Data):
    name: str
    hash: str
    counts: dict[str, int]  # training images per class


class ImageShape(Data):
    height: int
    width: int
    channels: int


class Task(Data):
    """One thing that a model can do."""

    inputs: list[str]  # what it needs beside labels: image, to_image, mask
    controls: dict[str, JsonValue] = Field(alias="schema")  # JSON Schema of its controls
    defaults: dict[str, JsonValue]


class ModelUrls(Data):
    self: str
    samples: str | None
    classes: list[str | None]
    package: str


class Model(Data):
    """A model package: what it makes, how well, and where it came from."""

    ref: str  # name@version
    name: str
    version: int
    hash: str
    family: str
    preset: str | None
    about: str
    bundled: bool
    active: bool  # what the name alone means
    licence: str
    created_at: datetime | None
    data: DataRef
    image: ImageShape
    classes: list[str]
    tasks: dict[str, Task]
    metrics: dict[str, Metric]
    per_class: list[ClassQuality]  # worst first
    parameters: int
    urls: ModelUrls


class ModelPage(Page[Model]):
    pass


# -- generations ----------------------------------------------------------------------------------------------------


class GenerationSettings(Data):
    """The request as it was accepted: sent again, it makes the same images."""

    model: str
    task: str
    labels: list[str]
    n: int
    seed: int
    controls: dict[str, JsonValue]
    image: list[str] | None = None  # ids of assets
    to_image: list[str] | None = None
    mask: list[str] | None = None
    format: Format = "png"


class OutputImage(Data):
    """A finished image: number `index` of its generation."""

    id: str
    index: int
    label: str | None
    seed: int
    url: str
    width: int
    height: int
    hash: str  # SHA-256 of its file


class Progress(Data):
    value: float  # 0 to 1
    step: int
    steps: int  # 0 before it is known


class JobMetrics(Data):
    queue_ms: float | None = None
    execution_ms: float | None = None


class JobUrls(Data):
    self: str
    events: str
    cancel: str
    zip: str


class Job(Data):
    """A generation that was accepted, and what has become of it."""

    id: str
    kind: str = "generation"
    status: Status
    created_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    queue_position: int | None = None
    progress: Progress
    request: GenerationSettings
    outputs: list[OutputImage]
    error: Problem | None = None
    metrics: JobMetrics
    urls: JobUrls


class JobPage(Page[Job]):
    pass


# -- images and assets ----------------------------------------------------------------------------------------------


class GalleryImage(Data):
    """A stored image."""

    id: str
    generation: str
    index: int
    model: str
    label: str | None
    seed: int
    width: int
    height: int
    format: Format
    hash: str
    size: int  # bytes
    favourite: bool
    created_at: datetime
    trashed_at: datetime | None
    url: str


class GalleryPage(Page[GalleryImage]):
    pass


class Asset(Data):
    """An uploaded image or mask."""

    id: str
    hash: str
    width: int
    height: int
    channels: int
    note: str  # what was done to it
    created_at: datetime
    url: str


class AssetPage(Page[Asset]):
    pass


class ImagesChanged(Data):
    """What came of a change of several images."""

    changed: int  # images that were found, and changed


# -- events ---------------------------------------------------------------------------------------------------------


class StatusEvent(Data):
    """The whole job: first as it is, then whenever its status changes."""

    type: Literal["status"] = "status"
    job: Job


class ProgressEvent(Data):
    type: Literal["progress"] = "progress"
    progress: Progress


class PreviewImage(Data):
    index: int
    url: str  # data:image/png;base64,...

    @property
    def content(self) -> bytes:
        """The PNG."""
        return base64.b64decode(self.url.partition(",")[2])

    def pil(self) -> Picture:
        return as_pil(self.content)


class PreviewEvent(Data):
    """What unfinished images look like so far."""

    type: Literal["preview"] = "preview"
    images: list[PreviewImage]


class OutputEvent(Data):
    """One image is finished."""

    type: Literal["output"] = "output"
    output: OutputImage


def as_pil(content: bytes) -> Picture:
    """A PNG or WebP file as a PIL image."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["PNG", "WEBP"]) as image:
        image.load()
        return image.copy()
