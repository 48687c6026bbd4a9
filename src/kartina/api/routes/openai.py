"""The images API as OpenAI's clients speak it: `prompt` names a class, images come as base64.

`generate` is the model's own task; `edit` is inpaint where there is a mask, else translate or transform. What OpenAI's
API has and a conditional generator has not (quality, style, ...) is accepted and left alone, so that clients need no
special case; what would be a lie (another size, a URL, a stream, several images made one) is refused.
"""

from __future__ import annotations

import time
from asyncio import to_thread
from base64 import b64encode
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from kartina.api.dependencies import Maker, Services, ServicesDep
from kartina.api.problems import HttpProblem, responses
from kartina.api.schemas import MAX_SEED, Response
from kartina.errors import ConfigError, NotFoundError
from kartina.services.access import Caller
from kartina.services.generations import Submission
from kartina.services.models import ModelInfo
from kartina.storage.records import Format

router = APIRouter(prefix="/v1/images", tags=["openai"])

PATIENCE = 600.0  # seconds that a caller waits for the images
EDITS = ("translate", "transform", "colorize", "upscale", "invert")  # tasks that take one image, the likeliest first
Size = Annotated[str | None, Field(max_length=20, pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$")]
OutputFormat = Literal["png", "webp"]


class ImagesRequest(BaseModel):
    """OpenAI's request. `seed` and `controls` are ours."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: str = Field(min_length=1, max_length=200)
    prompt: str = Field(max_length=4000, description="A class of the model; empty for every class in turn")
    n: int | None = Field(default=1, ge=1, le=256)
    size: Size = Field(default=None, description="auto, or the model's own")
    response_format: str | None = Field(default=None, max_length=20, description="b64_json")
    stream: bool | None = Field(default=None, description="false")
    output_format: OutputFormat | None = None
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED - 256)
    controls: dict[str, JsonValue] = Field(
        default={}, max_length=64, description="Over the defaults; see the model's tasks"
    )
    user: str | None = Field(default=None, max_length=1000)


class B64Image(Response):
    b64_json: str
    revised_prompt: str | None = Field(description="The class, as the model spells it")


class ImagesResponse(Response):
    created: int
    data: list[B64Image]
    output_format: Format
    size: str


@router.post(
    "/generations",
    responses=responses("not_found", "input", "too_large", "queue_full", "quota", "unavailable", "storage"),
)
async def openai_generate(body: ImagesRequest, of: ServicesDep, who: Maker) -> ImagesResponse:
    """Create images, as OpenAI's `images.generate` does."""
    _check_answer(body.response_format, body.stream)
    asked = Submission(
        model=body.model,
        labels=_class(body.prompt),
        n=body.n or 1,
        seed=body.seed,
        controls=body.controls,
        format=body.output_format or "png",
    )
    return await _make(of, who, asked, body.size)


@router.post(
    "/edits",
    responses=responses(
        "not_found", "input", "too_large", "queue_full", "quota", "unavailable", "storage", "bad_request"
    ),
)
async def openai_edit(
    of: ServicesDep,
    who: Maker,
    model: Annotated[str, Form(min_length=1, max_length=200)],
    image: Annotated[UploadFile | None, File(description="JPEG, PNG or WebP")] = None,
    images: Annotated[
        list[UploadFile] | None, File(alias="image[]", max_length=16, description="The same in a list of one")
    ] = None,
    prompt: Annotated[str, Form(max_length=4000, description="A class of the model; empty where it has none")] = "",
    mask: Annotated[
        UploadFile | None, File(description="Transparent (or, without transparency, white) parts are made anew")
    ] = None,
    n: Annotated[int, Form(ge=1, le=256)] = 1,
    size: Annotated[str | None, Form(max_length=20, pattern=r"^(auto|[0-9]{1,5}x[0-9]{1,5})$")] = None,
    output_format: Annotated[OutputFormat | None, Form()] = None,
    response_format: Annotated[str | None, Form(max_length=20, description="b64_json")] = None,
    stream: Annotated[bool | None, Form(description="false")] = None,
) -> ImagesResponse:
    """Make images from an image, as OpenAI's `images.edit` does."""
    _check_answer(response_format, stream)
    given = [*([image] if image is not None else []), *(images or [])]
    if len(given) != 1:
        raise ConfigError(f"Found {len(given)} images; a model edits one at a time. Send one, as `image`.")
    info = await to_thread(of.models.get, model)
    task, label = _edit(info, mask is not None), _class(prompt)
    _check_size(info, size)
    if label is not None:
        info.spec.label(label[0])  # or it is refused before anything is stored
    inputs: dict[str, tuple[str, ...]] = {"image": ((await of.uploads.add(who, given[0].read)).id,)}
    if mask is not None:
        inputs["mask"] = ((await of.uploads.add(who, mask.read, "mask")).id,)
    asked = Submission(
        model=model, task=task, labels=label, n=n, inputs=inputs, format=output_format or "png"
    )  # fmt: skip
    return await _make(of, who, asked, size)


def _check_answer(response_format: str | None, stream: bool | None) -> None:
    """Raises ConfigError for a form of answer that there is not."""
    if response_format not in (None, "b64_json"):
        raise ConfigError(
            f"Found the response_format {response_format!r}; images come as b64_json only: their URLs need your key."
        )
    if stream:
        raise ConfigError(
            "Found stream=true; images come here when they are finished. Leave it out, or ask /v1/generations, whose "
            "events show them while they are made."
        )


def _class(prompt: str) -> tuple[str, ...] | None:
    """The class that a prompt names."""
    return (prompt.strip(),) if prompt.strip() else None


def _edit(info: ModelInfo, masked: bool) -> str:
    """The task of a model that an edit is. Raises NotFoundError where it has none."""
    wanted = ("inpaint",) if masked else EDITS
    for task in wanted:
        if task in info.tasks:
            return task
    have = ", ".join(info.tasks)
    raise NotFoundError(f"Found the model {info.ref}, which can {have}; expected one that can {' or '.join(wanted)}.")


def _check_size(info: ModelInfo, size: str | None) -> str:
    """The size of a model's images. Raises ConfigError where another one is asked for."""
    own = f"{info.spec.width}x{info.spec.height}"
    if size not in (None, "auto", own):
        raise ConfigError(f"Found the size {size}; this model makes images of {own}. Leave the size out.")
    return own


async def _make(of: Services, who: Caller, asked: Submission, size: str | None) -> ImagesResponse:
    own = _check_size(await to_thread(of.models.get, asked.model), size)
    accepted = await of.generations.submit(who, asked)
    done = await of.generations.wait(who.owner, accepted.id, PATIENCE)
    if done.status == "failed" and done.error is not None:
        raise HttpProblem(done.error.code, done.error.message)
    if done.status != "succeeded":
        raise HttpProblem("unavailable", f"Found the images not finished; follow /v1/generations/{done.id}.")
    data = [
        B64Image(b64_json=b64encode(await to_thread(of.generations.records.blobs.read, out.hash)).decode(),
                 revised_prompt=out.label)
        for out in done.outputs
    ]  # fmt: skip
    return ImagesResponse(created=int(time.time()), data=data, output_format=done.format, size=own)
