"""Use cases on the gallery: pages of images, favourites, trash, downloads, and what a file's own recipe asks for."""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kartina.config import lines
from kartina.errors import DataError
from kartina.models import png
from kartina.services.assets import Decoder, Read
from kartina.services.generations import Submission, file_name
from kartina.services.models import Models
from kartina.services.periodic import Periodic
from kartina.services.zips import Entry
from kartina.storage import idempotency
from kartina.storage.assets import Assets
from kartina.storage.commits import Commits
from kartina.storage.records import Change, Filter, Format, Picture, Records

SWEEP = 3600.0  # seconds between two looks for what is to be removed for good
PAGE = 100  # images that a download looks up at a time


class Recipe(BaseModel):
    """What a file of ours says about itself. The file comes from anywhere: nothing in it is believed."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    model: str = Field(max_length=200)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    task: str = Field(max_length=100)
    label: str | None = Field(default=None, max_length=1000)
    seed: int = Field(ge=0, lt=2**53)
    controls: dict[str, Any] = Field(default={}, max_length=64)


class Gallery:
    """The images of one database. Belongs to one event loop."""

    def __init__(self, records: Records, assets: Assets, commits: Commits, models: Models, decoder: Decoder):
        self.decoder = decoder
        self.records = records
        self.assets = assets
        self.commits = commits
        self.models = models
        self.sweeping = Periodic("sweep_of_gallery", self.sweep, SWEEP)

    async def sweep(self) -> None:
        """Remove what has been in the trash for 30 days, old idempotency keys, and blobs that nobody refers to."""
        while await self.commits(self.records.purge):
            pass
        await self.commits(lambda c: idempotency.sweep(c, self.records.database))
        await to_thread(self.assets.sweep)
        await to_thread(self.records.blobs.collect)

    async def list(
        self, owner: str, wanted: Filter, limit: int, cursor: str | None
    ) -> tuple[list[Picture], str | None]:
        """A page, newest first, and the cursor of the next one."""
        return await to_thread(self.records.gallery, owner, wanted, limit, cursor)

    async def get(self, owner: str, id: str) -> Picture:
        """Raises NotFoundError."""
        return await to_thread(self.records.picture, owner, id)

    async def file(self, owner: str, id: str, format: Format | None = None) -> tuple[bytes, Format, str]:
        """(an image's file, its format, its name). Raises NotFoundError, IntegrityError."""

        def read() -> tuple[bytes, Format, str]:
            found = self.records.picture(owner, id).made
            content = self.records.blobs.read(found.hash)
            if format == "webp" and found.format == "png":
                return png.as_webp(content), "webp", file_name(found.model_copy(update={"format": "webp"}))
            return content, found.format, file_name(found)

        return await to_thread(read)

    async def favour(self, owner: str, id: str, favourite: bool) -> Picture:
        """Mark an image, or take the mark away. Raises NotFoundError."""
        await self.commits(lambda c: self.records.set_favourite(c, owner, id, favourite))
        return await self.get(owner, id)

    async def delete(self, owner: str, id: str, forever: bool = False) -> None:
        """Put an image into the trash, where it stays 30 days; or delete it now. Raises NotFoundError."""
        act = self.records.remove if forever else self.records.trash
        await self.commits(lambda c: act(c, owner, id))

    async def restore(self, owner: str, id: str) -> Picture:
        """Take an image out of the trash. Raises NotFoundError."""
        await self.commits(lambda c: self.records.restore(c, owner, id))
        return await self.get(owner, id)

    async def change(self, owner: str, ids: Sequence[str], change: Change) -> int:
        """Do the same to several images, all or none; says to how many. Those that are not found are passed over."""
        return await self.commits(lambda c: self.records.change_many(c, owner, ids, change))

    def entries(self, owner: str, wanted: Filter) -> Iterator[Entry]:
        """The files of a ZIP of all images that are wanted, looked up page by page."""
        cursor = None
        while True:
            page, cursor = self.records.gallery(owner, wanted, PAGE, cursor)
            for found in page:
                yield Entry(f"{found.generation}-{file_name(found.made)}", found.made.hash, found.created_at)
            if cursor is None:
                return

    async def again(self, read: Read, n: int, inputs: dict[str, tuple[str, ...]]) -> Submission:
        """What makes a file's image again, from the file alone; the model is found by its hash.

        Raises DataError where the file says nothing that can be used, NotFoundError where the model is not here.
        """
        text = await self.decoder.recipe(read)
        if text is None:
            raise DataError("Found an image without a recipe; expected a PNG or WebP that Kartina made.")
        try:
            recipe = Recipe.model_validate_json(text)
        except ValidationError as error:
            raise DataError(
                f"Found a recipe that cannot be used: {'; '.join(lines(error)[:5])}. Expected that of one image.",
                details=lines(error)[:20],
            ) from None
        model = await to_thread(self.models.by_hash, recipe.hash, recipe.model)
        return Submission(
            model=model.ref,
            task=recipe.task,
            labels=None if recipe.label is None else (recipe.label,),
            n=n,
            seed=recipe.seed,
            controls=recipe.controls,
            inputs=inputs,
        )
