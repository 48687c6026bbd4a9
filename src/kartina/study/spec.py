"""STUDY.toml: what is compared, on what, for how long, how it is measured, and the rule that chooses.

    name = "clothes"
    data = ["fashion"]                  # imported data sets
    seeds = [0, 1, 2]                   # of training

    [budget]
    minutes = 4                         # of active time for each run, or: images = 200_000

    [[presets]]
    preset = "flow-32-cpu"

    [[presets]]
    preset = "flow-32-cpu"
    label = "flow, half the rate"
    settings = {lr = 1e-3}              # as kartina train --set

    [evaluation]
    samples = 1000

    [choose]
    latency_ms = 500

All of it is fixed when the study begins: a file that was changed afterwards is refused.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from kartina.config import Frozen, read
from kartina.errors import ConfigError

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"  # what a study may be called
SELECTION, SCORE, TEST = 100, 200, 300  # first generation seed of each use: none is used for two

Metric = Literal["class_agreement", "coverage", "diversity", "fd", "fd_infinity", "kid", "is", "precision", "recall",
                 "density", "memorisation", "copies", "cas"]  # fmt: skip
METRICS: tuple[Metric, ...] = (
    "class_agreement", "coverage", "diversity", "fd", "kid", "precision", "recall", "density", "memorisation", "copies",
)  # fmt: skip


class Budget(Frozen):
    """Of one run: active minutes, turned into images once for each preset and data set; or images."""

    minutes: float | None = Field(None, gt=0, le=100_000)
    images: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.minutes is None) == (self.images is None):
            raise ValueError("expected one of minutes and images, and only one")
        return self


class Entry(Frozen):
    """One thing that is compared: a preset with settings over it."""

    preset: str
    label: str = ""  # what it is called in the report; default: the preset's name
    settings: dict[str, Any] = Field(default_factory=dict)  # over the preset, as --set
    controls: dict[str, Any] = Field(default_factory=dict)  # of sampling, over the family's defaults
    images: int | None = Field(None, ge=1)  # the budget of its runs where it is not the study's: what a time bought
    data: tuple[str, ...] = ()  # only on these of the study's data sets; default: on all

    @property
    def name(self) -> str:
        return self.label or self.preset

    def budget(self, whole: Budget) -> Budget:
        """Of each of its runs, where the study's is `whole`."""
        return whole if self.images is None else Budget(minutes=None, images=self.images)

    @property
    def key(self) -> str:
        """The name as files are called."""
        return re.sub(r"[^a-z0-9._]+", "-", self.name.lower()).strip("-.") or "entry"


class Evaluation(Frozen):
    """How every run is measured; equal for all."""

    samples: int = Field(2000, ge=1, le=10_000)  # generated images per seed, at most the split's size
    generation_seeds: int = Field(3, ge=1, le=100)  # of the final numbers
    checkpoints: int = Field(4, ge=1, le=10)  # evaluations of a run, each at twice the images of the one before
    selection_samples: int = Field(0, ge=0, le=10_000)  # of those evaluations; 0: as many as `samples`
    selection_seeds: int = Field(1, ge=1, le=100)
    metrics: tuple[Metric, ...] = METRICS
    extractor: Literal["domain", "inception", "mobilenet"] = "domain"
    weights: str | None = None  # of the extractor
    batch: int = Field(64, ge=1, le=4096)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of a run's images after which it is evaluated: 1/8, 1/4, 1/2, 1 for four."""
        return tuple(0.5 ** (self.checkpoints - 1 - k) for k in range(self.checkpoints))

    def seeds(self, first: int) -> tuple[int, ...]:
        """Generation seeds of one use: SELECTION, SCORE or TEST."""
        n = self.selection_seeds if first == SELECTION else self.generation_seeds
        return tuple(range(first, first + n))


class Choose(Frozen):
    """The rule: the lowest mean of `metric` on val among those that meet every condition."""

    metric: Literal["kid", "fd"] = "kid"
    agreement_slack: float = Field(0.05, ge=0, le=1)  # class agreement >= that of real images - this
    coverage_share: float = Field(0.8, ge=0, le=1)  # coverage >= this share of the floor
    copies_factor: float = Field(2.0, ge=0)  # flagged copies <= this times the rate of real images
    copies_by: Literal["memorisation", "copies"] = "memorisation"  # what flags: nearer than 99% of real images, or half
    latency_ms: float | None = Field(None, gt=0)  # one image alone, default controls; none: no limit
    failed: int = Field(0, ge=0)  # runs that may have failed
    tie_share: float = Field(0.015, ge=0, le=1)  # a gap under this share is a tie
    level: float = Field(0.95, gt=0, lt=1)  # of intervals


class StudySpec(Frozen):
    """A whole STUDY.toml."""

    name: str = Field(pattern=rf"^{NAME}$")
    about: str = ""
    data: tuple[str, ...] = Field(min_length=1)
    presets: tuple[Entry, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)  # of training
    budget: Budget
    settings: dict[str, Any] = Field(default_factory=dict)  # over every preset
    device: str = "auto"
    threads: int = Field(0, ge=0, le=1024)  # CPU threads; 0 = as many as there are cores when it begins
    evaluation: Evaluation = Evaluation.model_validate({})
    choose: Choose = Choose.model_validate({})

    @field_validator("data", "seeds")
    @classmethod
    def _distinct(cls, found: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(found)) != len(found):
            raise ValueError("expected each of them once")
        return found

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, found: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= seed < 2**63 for seed in found):
            raise ValueError("expected seeds from 0 to 2**63 - 1")
        return found

    @model_validator(mode="after")
    def _fits(self) -> StudySpec:
        keys = [entry.key for entry in self.presets]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(
                f"found {', '.join(twice)} more than once among presets, as files are called (by the Latin letters, "
                f"digits, dots and _ of a label); give each a label of its own"
            )
        for entry in self.presets:
            unknown = [name for name in entry.data if name not in self.data]
            if unknown:
                raise ValueError(f"found {entry.name} on {', '.join(unknown)}, which is not among the study's data")
            if "seed" in entry.settings or "seed" in self.settings:
                raise ValueError("found seed among settings; the study's seeds are those of training")
        if self.choose.metric not in self.evaluation.metrics:
            raise ValueError(f"found no {self.choose.metric} among evaluation.metrics; the rule chooses by it")
        asked = ("class_agreement", "coverage", self.choose.copies_by)
        unmeasured = [key for key in asked if key not in self.evaluation.metrics]
        if unmeasured:
            raise ValueError(f"found no {', '.join(unmeasured)} among evaluation.metrics; the rule asks for it")
        return self

    def pairs(self) -> list[tuple[Entry, str]]:
        """Every entry with every data set it is tried on, data set by data set."""
        return [(entry, data) for data in self.data for entry in self.presets if not entry.data or data in entry.data]

    def set(self, entry: Entry) -> list[str]:
        """The settings of an entry as `kartina train --set` takes them."""
        return [f"{key}={json.dumps(value)}" for key, value in {**self.settings, **entry.settings}.items()]


def parse(text: str, what: str = "a study") -> StudySpec:
    """The study that a TOML text describes. Raises ConfigError naming each wrong key."""
    try:
        values: Mapping[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Found {what} that is not TOML ({error}); docs/guides/study.md has an example.") from None
    return read(StudySpec, values, what)


def dump(spec: StudySpec) -> str:
    """The study as STUDY.toml, which `parse` reads as the same study; what was left to its default stays out."""
    given = spec.model_dump(mode="json", exclude_unset=True)
    tables = {key: given.pop(key) for key in ("budget", "evaluation", "choose") if key in given}
    presets = given.pop("presets")
    lines = _pairs(given)
    for key, table in tables.items():
        lines += ["", f"[{key}]", *_pairs(table)]
    for entry in presets:
        lines += ["", "[[presets]]", *_pairs(entry)]
    return "\n".join(lines) + "\n"


def _pairs(table: Mapping[str, Any]) -> list[str]:
    return [f"{_toml(key)} = {_toml(value)}" for key, value in table.items() if value is not None]


def _toml(value: Any) -> str:
    """JSON's texts, numbers and lists are TOML's, but for what follows."""
    if isinstance(value, dict):
        return "{" + ", ".join(_pairs(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def load(path: Path) -> tuple[StudySpec, str]:
    """The study of a file, and the file's text. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Found no readable study at {path} ({error}); expected a TOML file.") from None
    return parse(text, str(path)), text
