"""Configuration: frozen pydantic models, every default declared once, JSON in and out.

An ImageSpec says what images look like, a FamilyConfig (one per family, beside its nets) how they are modelled, a
TrainConfig how the model is trained; a Preset names a tested combination; a RunConfig is all of it, as stored in a
run's `config.json`. `override` applies `--set key=value` to the right model with the field's own validation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kartina.errors import ConfigError, NotFoundError

FORMAT = 1  # of run folders and model packages: raised when an older program could not read a newer folder


def home() -> Path:
    """The folder that holds everything the user makes: $KARTINA_HOME, else ~/.kartina."""
    return Path(os.environ.get("KARTINA_HOME") or Path.home() / ".kartina").expanduser().absolute()


class Frozen(BaseModel):
    """Immutable; a key that it does not know, and a number that is not finite, are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageSpec(Frozen):
    """What every image of a data set or model looks like."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: int = Field(ge=1, le=4)
    classes: tuple[str, ...] = ()  # in label order; empty means unconditional
    flip_safe: bool = False  # a mirrored image keeps its class
    paired: bool = False  # every image has a source image (A -> B)
    source_channels: int = Field(default=0, ge=0, le=4, exclude_if=lambda n: n == 0)  # of the sources; 0 = no pairs

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width

    def label(self, name: str) -> int:
        """Index of the class called `name`: see `label_of`."""
        return label_of(self.classes, name)


def label_of(classes: Sequence[str], name: str) -> int:
    """Index of the class called `name`, whatever its case (or of the index written as text); NotFoundError lists the
    classes."""
    if name in classes:
        return classes.index(name)
    folded = [c.casefold() for c in classes]
    if folded.count(name.casefold()) == 1:
        return folded.index(name.casefold())
    if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(classes):
        return int(name)
    raise NotFoundError.named("class", name, classes)


class FamilyConfig(Frozen):
    """Base of every family's `Config`: its widths, depths, loss weights, and its optimiser's settings."""


class TrainConfig(Frozen):
    """How any family is trained. Counts are in images, so they do not change with the batch size."""

    batch: int = Field(64, ge=1, le=65536)  # images per update
    optimizer: Literal["adam", "muon"] = "adam"  # of the matrices; vectors and thin matrices are always Adam's
    lr: float = Field(2e-4, gt=0, le=1)  # the peak learning rate, Adam's (a family may set one per optimiser)
    warmup: int = Field(0, ge=0, le=10**12)  # images over which the learning rate rises from 0
    decay: Literal["none", "linear", "cosine"] = "none"  # from its peak to `decay_to` at the end of the budget
    decay_from: float = Field(0.0, ge=0, lt=1)  # share of the budget after which the decay starts
    decay_to: float = Field(0.0, ge=0, le=1)  # the last learning rate, as a share of the peak
    ema: int = Field(10_000, ge=0, le=10**12)  # half-life of the weights' moving average, in images; 0 = none
    ema_ramp: float = Field(0.05, ge=0, le=1e6)  # the half-life is at most this share of the images seen
    clip: float = Field(0.0, ge=0, le=1e12)  # largest gradient norm; 0 = not clipped
    labels: Literal["data", "balanced", "tempered"] = "data"  # how labels are drawn, real and generated
    temper: float = Field(0.5, ge=0, le=1)  # tempered: class probability ~ count ** temper
    flip: Literal["auto", "on", "off"] = "auto"  # horizontal flips; auto: where the data says it is safe
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # of training: autocast; auto: as suits the device
    seed: int = Field(0, ge=0, lt=2**63)
    threads: int = Field(0, ge=0, le=1024)  # CPU threads; 0 = as many as there are cores
    grids: int = Field(12, ge=0, le=10_000)  # sample grids drawn over the run
    checkpoint_every: float = Field(60.0, ge=0, le=1e6)  # seconds between checkpoints; 0 = only at the end


@dataclass(frozen=True)
class Preset:
    """A tested combination: what `kartina train NAME` uses. Keys are checked against the two configs by a test."""

    size: int  # images are size x size
    about: str  # one line for `kartina presets`
    config: Mapping[str, Any] = field(default_factory=dict)  # over the family's Config
    train: Mapping[str, Any] = field(default_factory=dict)  # over TrainConfig


class Start(Frozen):
    """Where a run's first weights come from; the weights themselves are in the run's `start.safetensors`."""

    ref: str  # the package (name@version) or the run that was given; the teacher, where only that was
    teacher: str | None = Field(None, exclude_if=lambda t: t is None)  # that of the networks that it learns from
    hash: str  # sha256 of start.safetensors: what the weights are, whatever `ref` may mean later
    taken: int = Field(ge=1)  # tensors that came from there
    new: tuple[str, ...] = ()  # those that start anew: of another shape there, or not there at all


class RunConfig(Frozen):
    """All that decides a run's weights; `config.json` in its folder."""

    format: int = FORMAT
    kartina: str  # version that started the run
    preset: str
    family: str
    config: dict[str, Any]  # the family's Config, complete
    train: TrainConfig
    spec: ImageSpec
    data: str  # the data set's name
    data_hash: str
    images: int = Field(ge=1)  # images to be seen: given, or measured from the budget once
    budget: float | None = None  # seconds asked for, when the images came from a time budget
    device: str = "cpu"
    start: Start | None = None  # None: from random weights
    extended: tuple[int, ...] = Field(default=(), exclude_if=lambda t: not t)  # what `images` was before each extension


M = TypeVar("M", bound=BaseModel)


def read(model: type[M], values: Mapping[str, Any], what: str) -> M:
    """Validate `values` as `model`; ConfigError names each wrong key, what was found and what was expected."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"Found {what} that cannot be used: {explain(error)}", details=lines(error)) from None


def lines(error: ValidationError) -> list[str]:
    """One line per wrong value: key, value found, what is expected."""
    out = []
    for e in error.errors():
        key = ".".join(map(str, e["loc"])) or "value"
        found = "" if e["type"] in ("extra_forbidden", "missing") else f" (found {e['input']!r})"
        said = "no such key" if e["type"] == "extra_forbidden" else e["msg"].removeprefix("Value error, ")
        out.append(f"{key}: {said[:1].lower()}{said[1:]}{found}")
    return out


def explain(error: ValidationError) -> str:
    return "; ".join(lines(error))


def parse(text: str) -> Any:
    """The value of a text from the command line: as JSON where that works (`1,2` is a list), else the text."""
    for json_text in (text, f"[{text}]") if "," in text else (text,):
        try:
            return json.loads(json_text)
        except json.JSONDecodeError:
            continue
    return text


def override(pairs: Sequence[str], *targets: tuple[str, type[BaseModel], dict[str, Any]]) -> None:
    """Apply `key=value` texts to the first target (title, model, values) that has the key, in place.

    Values are read as `parse` does. Raises ConfigError for a text without "=" and for a key that no target has (listing
    the keys there are).
    """
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"Found --set {pair!r}; expected key=value, such as batch=32.")
        value = parse(text)
        for _, model, values in targets:
            if key in model.model_fields:
                values[key] = value
                break
        else:
            known = [f for _, model, _ in targets for f in model.model_fields]
            raise ConfigError(str(NotFoundError.named("key", key, known, "Pass --set key=value with one of those.")))
