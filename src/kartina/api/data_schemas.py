"""What the HTTP API takes and gives about data: uploads, data sets, bulk generations. See `schemas` for the rest."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, JsonValue

from kartina.api.estimates import Range
from kartina.api.schemas import MAX_SEED, TEXT, FromCard, Request, Response
from kartina.data.paths import SPLITS, Split
from kartina.services.archives import MAX_BYTES
from kartina.services.bulk import MAX_IMAGES, BulkSubmission, Estimate
from kartina.services.datasets import Found, ImportOptions, Member, Options
from kartina.storage.records import Format
from kartina.storage.uploads import Upload as StoredUpload

Text = Annotated[str, Field(pattern=TEXT, max_length=1000)]

# -- uploads --------------------------------------------------------------------------------------------------------


class UploadRequest(Request):
    """Begin the upload of an archive."""

    filename: str = Field(
        min_length=1, max_length=500, pattern=TEXT, description="Ends in .zip or .npz", examples=["photos.zip"]
    )
    bytes: int = Field(ge=1, le=MAX_BYTES, description="Of the whole file")
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Of the whole file: where it is given, it has to be that"
    )


class Upload(Response):
    """An archive, whole or on its way."""

    id: str
    filename: str
    bytes: int = Field(description="Of the whole file")
    received: int = Field(description="That are on the disk: where the next part begins")
    complete: bool
    sha256: str | None = Field(description="As announced; of a complete one, as found")
    created_at: datetime
    url: str

    @classmethod
    def of(cls, found: StoredUpload) -> Upload:
        return cls(
            id=found.id,
            filename=found.name,
            bytes=found.bytes,
            received=found.received,
            complete=found.complete,
            sha256=found.digest or found.sha256,
            created_at=found.created_at,
            url=f"/v1/uploads/{found.id}",
        )


class UploadPage(Response):
    items: list[Upload]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


# -- data sets ------------------------------------------------------------------------------------------------------


class InspectRequest(Request):
    """Look at an upload before its import."""

    upload: str = Field(max_length=100, pattern=TEXT, description="The id of a complete one")
    class_names: list[Text] = Field(
        default=[], max_length=10_000, description="Names of the classes of idx and npz; of folders, their order"
    )
    group_by: str | None = Field(
        default=None,
        max_length=200,
        pattern=TEXT,
        description="A regular expression (RE2): its first group, found in an image's path, names a group; a group "
        "keeps to one split",
    )
    unlabelled: bool = Field(default=False, description="Use the images without classes")

    def options(self) -> Options:
        return Options(tuple(self.class_names), self.group_by, self.unlabelled)


class DatasetRequest(Request):
    """Import an upload, or what a bulk generation made, as a data set."""

    name: str = Field(
        max_length=64,
        pattern=TEXT,
        description="1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first",
        examples=["photos"],
    )
    upload: str | None = Field(
        default=None, max_length=100, pattern=TEXT, description="The id of a complete one; it goes with its import"
    )
    bulk: str | None = Field(
        default=None, max_length=100, pattern=TEXT, description="The id of a bulk generation's job that has succeeded"
    )
    class_names: list[Text] = Field(default=[], max_length=10_000, description="As for an inspection")
    group_by: str | None = Field(default=None, max_length=200, pattern=TEXT, description="As for an inspection")
    unlabelled: bool = Field(default=False, description="Use the images without classes")
    size: int | None = Field(
        default=None, ge=4, le=1024, description="Pixels a side; the images' own when all are equal and square, else 64"
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        default="crop",
        description="crop: scale and cut the middle; pad: never enlarge, fill the rest; stretch: ignore the aspect",
    )
    channels: Literal["auto", "1", "3"] = Field(default="auto", description="auto: 1 when all images are grey")
    flip: Literal["auto", "on", "off"] = Field(
        default="auto", description="Whether a mirrored image keeps its class; auto: no for digits, letters, sides"
    )
    skip_bad: bool = Field(default=False, description="Leave out and record what cannot be used")
    replace: bool = Field(default=False, description="Take the place of your data set of that name")
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Of the splits that are made")

    def options(self) -> ImportOptions:
        return ImportOptions(
            class_names=tuple(self.class_names),
            group_by=self.group_by,
            unlabelled=self.unlabelled,
            size=self.size,
            fit=self.fit,
            channels=self.channels,
            flip=self.flip,
            skip_bad=self.skip_bad,
            replace=self.replace,
            seed=self.seed,
        )


class DatasetProblem(FromCard):
    """Something that should be looked at."""

    kind: str = Field(description="corrupt, exact_duplicate, near_duplicate, tiny_class, ...")
    message: str
    count: int = Field(description="Images that it concerns")
    paths: list[str] = Field(description="The first of them")


class DatasetReport(FromCard):
    """What was found in the archive before it was imported; lists are cut short, counts are not."""

    images: int = Field(description="That can be used")
    sizes: dict[str, int] = Field(description="Width x height, the most common first")
    modes: dict[str, int] = Field(description="Pillow's names of pixel formats")
    grey: int = Field(description="Images without colour")
    ignored: dict[str, int] = Field(description="Files that are no images, by suffix")
    problems: list[DatasetProblem]
    problem_counts: dict[str, int]
    advice: list[str] = Field(description="What to do about it, in sentences")


class DatasetUrls(Response):
    self: str
    images: str


class DatasetSummary(Response):
    """A data set, in a list."""

    name: str
    images: int
    width: int
    height: int
    channels: int
    classes: int
    splits: dict[str, int] = Field(description="Images of train, val and test")
    paired: bool = Field(description="Every image has a source that it is to be made from")
    flip_safe: bool = Field(description="A mirrored image keeps its class")
    hash: str | None = Field(description="Of its content; null for the embedded set before its first use")
    created_at: datetime | None
    own: bool = Field(description="Yours; else everybody's")
    urls: DatasetUrls

    @classmethod
    def of(cls, found: Found) -> DatasetSummary:
        return cls(**_summary(found), classes=len(found.record["spec"]["classes"]))


class DatasetClass(Response):
    """A class of a data set."""

    name: str
    count: int = Field(description="Images")
    counts: dict[str, int] = Field(description="Images of each split")
    example: str = Field(description="URL of its first training image")


class Dataset(Response):
    """A data set: its histogram, splits, origin, and what was found in it."""

    name: str
    images: int
    width: int
    height: int
    channels: int
    classes: list[DatasetClass] = Field(description="In label order; counts are empty while `hash` is null")
    splits: dict[str, int] = Field(description="Images of train, val and test")
    imbalance: float | None = Field(description="Largest to smallest class")
    paired: bool = Field(description="Every image has a source that it is to be made from")
    flip_safe: bool = Field(description="A mirrored image keeps its class")
    hash: str | None = Field(description="Of its content; null for the embedded set before its first use")
    created_at: datetime | None
    own: bool = Field(description="Yours; else everybody's")
    made: dict[str, JsonValue] = Field(description="From what, and how")
    skipped: int = Field(description="Files that could not be used and were left out")
    report: DatasetReport | None = Field(description="Null for what was not imported over HTTP")
    urls: DatasetUrls

    @classmethod
    def of(cls, found: Found) -> Dataset:
        about, base = found.record, f"/v1/datasets/{quote(found.name)}"
        counts = about["counts"]
        classes = [
            DatasetClass(
                name=name,
                count=sum(part.get(name, 0) for part in counts.values()),
                counts={split: part.get(name, 0) for split, part in counts.items()},
                example=f"{base}/classes/{i}.png",
            )
            for i, name in enumerate(about["spec"]["classes"])
        ]
        some = [one.count for one in classes if one.count]
        return cls(
            **_summary(found),
            classes=classes,
            imbalance=round(max(some) / min(some), 2) if some else None,
            made=about["made"],
            skipped=len(about["skipped"]),
            report=None if found.report is None else DatasetReport.model_validate(found.report),
        )


def _summary(found: Found) -> dict[str, Any]:
    """What a set is told of in lists and alone."""
    about, base = found.record, f"/v1/datasets/{quote(found.name)}"
    return {
        "name": found.name,
        "images": about["images"],
        **{key: about["spec"][key] for key in ("width", "height", "channels", "paired", "flip_safe")},
        "splits": {s: about["bounds"][s][1] - about["bounds"][s][0] for s in SPLITS if s in about["bounds"]},
        "hash": about["hash"],
        "created_at": about["created_at"],
        "own": found.own,
        "urls": DatasetUrls(self=base, images=f"{base}/images"),
    }


class DatasetPage(Response):
    items: list[DatasetSummary]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")


class DatasetImage(Response):
    """An image of a data set."""

    index: int = Field(description="Its place in the data set")
    split: Split
    label: str | None
    url: str
    source_url: str | None = Field(description="Of a pair: what the image is to be made from")


class DatasetImagePage(Response):
    items: list[DatasetImage]
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the next page; null at the end")

    @classmethod
    def of(cls, name: str, paired: bool, members: list[Member], after: int | None) -> DatasetImagePage:
        base = f"/v1/datasets/{quote(name)}"
        items = [
            DatasetImage(
                index=one.index,
                split=one.split,
                label=one.label,
                url=f"{base}/images/{one.index}.png",
                source_url=f"{base}/sources/{one.index}.png" if paired else None,
            )
            for one in members
        ]
        return cls(items=items, next_cursor=None if after is None else str(after))


# -- bulk generation ------------------------------------------------------------------------------------------------


class BulkRequest(Request):
    """Ask for many images of one model, as the ZIP of a data set."""

    model: str = Field(min_length=1, max_length=200, pattern=TEXT, description="name, name@version, or a hash")
    n: int | None = Field(default=None, ge=1, le=MAX_IMAGES, description="Images in all; left out with `counts`")
    labels: list[Text] | None = Field(
        default=None, min_length=1, max_length=10_000, description="Image i is of labels[i mod len]; null: every class"
    )
    counts: dict[Text, Annotated[int, Field(ge=0, le=MAX_IMAGES)]] | None = Field(
        default=None, max_length=10_000, description="Images of each class, instead of n and labels"
    )
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED - MAX_IMAGES, description="Image i has seed + i")
    controls: dict[str, JsonValue] = Field(default={}, max_length=64, description="As the model's card describes them")
    format: Format = "png"

    def submission(self) -> BulkSubmission:
        return BulkSubmission(
            model=self.model,
            n=self.n,
            labels=None if self.labels is None else tuple(self.labels),
            counts=self.counts,
            seed=self.seed,
            controls=dict(self.controls),
            format=self.format,
        )


class BulkEstimate(Response):
    """What a bulk generation would take."""

    images: int
    seconds: Range | None = Field(description="Null where nothing was measured")
    bytes: Range = Field(description="Of the ZIP")
    free_bytes: int = Field(description="Of the disk")
    fits: bool = Field(description="The disk has room, even if it gets as large as it may")
    basis: Literal["earlier job", "engine", "nothing"] = Field(
        description="Where the time comes from: an earlier bulk generation with the same controls; what the engine "
        "measured at activation, without encoding and with one evaluation a step; or nothing"
    )

    @classmethod
    def of(cls, found: Estimate) -> BulkEstimate:
        return cls(
            images=found.images,
            seconds=None if found.seconds is None else Range.of(found.seconds),
            bytes=Range.of(found.bytes),
            free_bytes=max(0, found.free),
            fits=found.fits,
            basis=found.basis,
        )
