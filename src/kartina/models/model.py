"""A model: a family with its weights, loaded from a package and ready to sample; and the writing of packages.

Weights are checked before they are believed: the file's header under a cap, its hash, then names, types and shapes
against the architecture built on torch's meta device, where nothing is allocated. There is no pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from kartina import __version__, registry
from kartina.config import FORMAT, ImageSpec, read
from kartina.data.decode import Fit
from kartina.errors import ConfigError, IntegrityError, NotFoundError, disk_errors
from kartina.files import make_folder, sync
from kartina.generators.base import Family, Row, check_inputs, from_uint8, generate, rows_for
from kartina.models import package
from kartina.models.inputs import Given, Source, check_masks, read_images, read_masks
from kartina.models.package import Manifest, PackageRef, Part, Provenance, Task
from kartina.models.samples import Samples

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
           torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A family ready to sample. `manifest` is None for one that is not packaged (a run's)."""

    family: Family
    ref: str  # name@version, or the run's id
    manifest: Manifest | None = None
    card: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)  # controls per task, over the package's
    data: str | None = None  # the data set a run learnt from (a package's manifest tells)

    @property
    def spec(self) -> ImageSpec:
        return self.family.spec

    @property
    def classes(self) -> tuple[str, ...]:
        return self.family.spec.classes

    def controls(self, task: str = "generate", /, **given: Any) -> BaseModel:
        """The task's controls: the family's defaults, the package's over them, `given` over both. What the package
        chose for "generate" counts for a task that has the same controls, or starts from no image either.

        Raises NotFoundError for a task that the model has not, ConfigError naming each wrong key or value.
        """
        capabilities = self.family.capabilities()
        if task not in capabilities:
            raise NotFoundError.named("task", task, capabilities, f"Those are what {self.ref} can do.")
        stored = {name: found.defaults for name, found in self.manifest.tasks.items()} if self.manifest else {}
        defaults = {**inherited(self.family, task, stored), **inherited(self.family, task, self.defaults)}
        return read(capabilities[task].controls, {**defaults, **given}, f"controls of {self.ref}")

    def label(self, name: str | int) -> int:
        """Index of a class given by name or index; NotFoundError lists the classes."""
        if isinstance(name, str) and self.classes:
            return self.spec.label(name)
        if isinstance(name, str) or not 0 <= name < self.family.classes:
            raise NotFoundError.named("class", str(name), self.classes)
        return int(name)

    def inputs(
        self,
        task: str,
        given: Mapping[str, Source | Sequence[Source] | None],
        fit: Fit = "crop",
        *,
        rows: Collection[int] | None = None,
        before: Callable[[], object] | None = None,
    ) -> dict[str, list[Given]]:
        """What was given for `task`, by kind, brought to the size and channels that it takes. Where `rows` tells which
        images are to be made, what those do not use is black. `before` is called before each image is read, and what
        it raises is raised.

        Raises ConfigError where a kind is missing or has no use, DataError for an image that cannot be used.
        """
        found = {kind: one for kind, one in given.items() if one is not None}
        check_inputs(self.family, task, found)
        size, takes = (self.spec.height, self.spec.width), self.family.capabilities()[task]
        channels = takes.channels or self.spec.channels
        read = {
            kind: read_images(one, size, channels, fit, takes.shrink, rows, before)
            for kind, one in found.items()
            if kind != "mask"
        }
        if "mask" in found:
            read["mask"] = read_masks(found["mask"], read["image"], size, fit, rows, before)
        return read

    def rows(
        self,
        labels: Sequence[str | int] | None,
        n: int | None,
        seed: int,
        controls: BaseModel | None = None,
        task: str = "generate",
        inputs: Mapping[str, Sequence[Given]] | None = None,
    ) -> list[Row]:
        """The rows of `run`: image i has seed + i, labels[i mod len(labels)], and so on with inputs of each kind."""
        if labels is None and inputs and self.family.labelled:
            raise ConfigError(
                f"Found no class for the task {task!r}; expected one, or one for each image, of: "
                f"{', '.join(self.classes)}. Name it with --class (labels=[...] in Python)."
            )
        every = [0] if inputs else list(range(self.family.classes))
        named = [labels] if isinstance(labels, str) else labels
        asked = every if named is None else [self.label(name) for name in named]
        if not asked:
            raise ConfigError("Found an empty list of classes; expected at least one, or none given for all of them.")
        count = max(len(asked), *map(len, (inputs or {}).values()), 1) if n is None else n
        if seed < 0 or seed + count > 2**63:
            raise ConfigError(f"Found the seed {seed}; expected 0 <= seed < 2**63.")
        return rows_for(
            self.family, asked, count, seed, controls or self.controls(task), task, as_tensors(inputs or {})
        )

    def run(
        self,
        task: str,
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        *,
        images: Source | Sequence[Source] | None = None,
        to_images: Source | Sequence[Source] | None = None,
        masks: Source | Sequence[Source] | None = None,
        fit: Fit = "crop",
        batch: int = 64,
        progress: Callable[[int], None] | None = None,
        controls: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Samples:
        """Do one of the model's tasks, n images in all: image i has seed + i, labels[i mod len(labels)] and, where the
        task takes them, images[i mod len(images)], to_images likewise and masks (white is made anew, black stays).

        Neither `batch` nor its neighbours change an image beyond rounding. Controls are the task's, such as
        guidance=2, as a mapping or as keywords. Input images are fitted as import does (`fit`: crop, pad or stretch).
        Raises NotFoundError for an unknown task or class, ConfigError for an unusable control, DataError for an
        unusable image.
        """
        if batch < 1:
            raise ConfigError(f"Found batch={batch}; expected at least 1.")
        settings = self.controls(task, **{**(controls or {}), **more})
        inputs = self.inputs(task, {"image": images, "to_image": to_images, "mask": masks}, fit)
        rows = self.rows(labels, n, seed, settings, task, inputs)
        if "mask" in inputs:
            side = max(self.spec.height, self.spec.width)
            check_masks(inputs["mask"], inputs["image"], side, fit, range(len(rows)))
        made = generate(self.family, rows, batch, progress)
        return Samples(
            images=made.images.numpy(),
            labels=np.array([int(row.weights.argmax()) for row in rows], np.int64),
            classes=self.classes,
            seeds=tuple(row.seed for row in rows),
            recipe=self.recipe(settings, task),
            inputs={kind: tuple(found[: len(rows)]) for kind, found in inputs.items()},
            extras={key: value.numpy() for key, value in made.extras.items()},
        )

    def sample(
        self,
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        *,
        batch: int = 64,
        progress: Callable[[int], None] | None = None,
        controls: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> Samples:
        """Make n images of the classes `labels` (default: all, one of each): `run` for the task "generate"."""
        return self.run(
            "generate", labels, n, seed, batch=batch, progress=progress, controls={**(controls or {}), **more}
        )

    def translate(
        self,
        images: Source | Sequence[Source],
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> Samples:
        """Make each image's counterpart (pix2pix: a map's photo); `more` as in `run`."""
        return self.run("translate", labels, n, seed, images=images, **more)

    def upscale(
        self,
        images: Source | Sequence[Source],
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> Samples:
        """Make each image larger, to the model's size; one that is as large already is made small first. `more` as in
        `run`."""
        return self.run("upscale", labels, n, seed, images=images, **more)

    def colorize(
        self,
        images: Source | Sequence[Source],
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> Samples:
        """Give each image colours; those it has are not looked at. `more` as in `run`."""
        return self.run("colorize", labels, n, seed, images=images, **more)

    def transform(
        self,
        images: Source | Sequence[Source],
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> Samples:
        """Turn each image into one of a class; strength=0 keeps it as it is, 1 keeps nothing. `more` as in `run`."""
        return self.run("transform", labels, n, seed, images=images, **more)

    def inpaint(
        self,
        images: Source | Sequence[Source],
        masks: Source | Sequence[Source],
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> Samples:
        """Make anew what is white in each image's mask, as of a class; the rest stays byte for byte. `more` as in
        `run`."""
        return self.run("inpaint", labels, n, seed, images=images, masks=masks, **more)

    def interpolate(
        self, labels: Sequence[str | int] | None = None, n: int | None = None, seed: int = 0, **more: Any
    ) -> Samples:
        """Make images on the way from their own seeds to `to_seed`, and from their classes to `to_class`, a `share` of
        it done; what is not named stays. `more` as in `sample`."""
        return self.run("interpolate", labels, n, seed, **more)

    def morph(
        self,
        images: Source | Sequence[Source],
        to_images: Source | Sequence[Source],
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> Samples:
        """Make images on the way from each image to its `to_image`, a `share` of it done. `more` as in `run`."""
        return self.run("morph", labels, n, seed, images=images, to_images=to_images, **more)

    def invert(
        self,
        images: Source | Sequence[Source],
        labels: Sequence[str | int] | None = None,
        n: int | None = None,
        seed: int = 0,
        **more: Any,
    ) -> Samples:
        """Find the model's own picture that is nearest to each image; where it lies is in `extras`. `more` as in
        `run`."""
        return self.run("invert", labels, n, seed, images=images, **more)

    def recipe(self, controls: BaseModel, task: str = "generate") -> dict[str, Any]:
        """What images of one call share in their recipes."""
        return {
            "model": self.ref,
            "hash": self.manifest.hash if self.manifest else None,
            "task": task,
            "controls": controls.model_dump(mode="json"),
            "kartina": __version__,
        }


def as_tensors(inputs: Mapping[str, Sequence[Given]]) -> dict[str, list[Tensor]]:
    """Inputs by kind as a family takes them: float32 C,H,W, images in [-1, 1] and masks in [0, 1]."""
    found: dict[str, list[Tensor]] = {}
    for kind, given in inputs.items():
        once = {id(one): torch.from_numpy(one.pixels) for one in given}  # the same file may have been given often
        made = {key: x.float() / 255 if kind == "mask" else from_uint8(x) for key, x in once.items()}
        found[kind] = [made[id(one)] for one in given]
    return found


def inherited(family: Family, task: str, defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The defaults of `task` among `defaults` per task, over those of "generate" for controls that it has too, where
    they mean the same: it has all of them, or starts from no image either."""
    capabilities = family.capabilities()
    plain, own = capabilities.get("generate"), capabilities[task]
    same = plain is not None and (issubclass(own.controls, plain.controls) or not own.inputs)
    chosen = defaults.get("generate", {}) if same else {}
    return {**{k: v for k, v in chosen.items() if k in own.controls.model_fields}, **defaults.get(task, {})}


# -- load --------------------------------------------------------------------------------------------------------------


def load(ref: str | Path | PackageRef, device: str = "cpu") -> Model:
    """Load a package: name, name@version, hash or folder.

    Raises NotFoundError where there is none, IntegrityError where a file is not what it claims to be.
    """
    found = ref if isinstance(ref, PackageRef) else package.find(str(ref))
    manifest = package.read_manifest(found.path)
    package.check_caps(manifest)
    family = on_meta(manifest).sampler()
    if set(manifest.parts) != set(family.parts):
        raise IntegrityError(
            f"Found the parts {', '.join(sorted(manifest.parts))} in {found}; {manifest.family} has "
            f"{', '.join(sorted(family.parts))}. Get the package again."
        )
    for name, part in manifest.parts.items():
        load_part(family, name, part, found.path)
    _no_meta(family, manifest.family)
    return Model(family.to(device).eval().requires_grad_(False), str(found), manifest, package.read_card(found.path))


def on_meta(manifest: Manifest) -> Family:
    """The architecture that a manifest describes, on the meta device: shapes without storage."""
    family = registry.family(manifest.family)
    try:
        config = read(family.Config, manifest.config, f"settings of {manifest.family}")
        with torch.device("meta"):
            built: Family = family(config, manifest.spec)
        return built
    except (ConfigError, RuntimeError, ValueError, TypeError, ArithmeticError, AssertionError, MemoryError) as error:
        raise IntegrityError(
            f"Could not build {manifest.family} from the settings in model.json on the meta device: {error}. "
            "Get the package again, or the version of Kartina that wrote it."
        ) from error


def load_part(family: Family, name: str, part: Part, path: Path) -> None:
    """Give the part `name` of a family on the meta device its weights, when names, types and shapes all fit."""
    module: nn.Module = getattr(family, name)
    module.load_state_dict(_read(module, list(module.state_dict()), part, path, family.name), strict=True, assign=True)


def load_training(manifest: Manifest, path: Path) -> dict[str, Tensor]:
    """What a package keeps for transfer, checked as parts are: tensors by the family's keys; {} where it has none."""
    package.check_caps(manifest)
    if manifest.train is None:
        return {}
    family = on_meta(manifest)
    return _read(family, training_keys(family), manifest.train, path, family.name)


def training_keys(family: Family) -> list[str]:
    """State keys of what only trains and is worth keeping: a discriminator's, a learned noise level's.

    Buffers of the family itself, and of children without parameters (ADA's p), are the state of one training.
    """
    own = {key for key, _ in family.named_parameters(recurse=False)}
    children = ((name, child) for name, child in family.named_children() if name not in family.parts)
    nets = {name for name, child in children if next(child.parameters(), None) is not None}
    return [key for key in family.state_dict() if key in own or key.split(".")[0] in nets]


def _read(module: nn.Module, keys: Sequence[str], part: Part, path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a part, when they are those that `keys` name in `module`: names, types and shapes."""
    state, parameters = module.state_dict(), dict(module.named_parameters())
    expected = {key: (_DTYPES[state[key].dtype], tuple(state[key].shape)) for key in keys}
    found, content = package.read_part(path, part)
    # A float32 parameter may be stored as float16; nothing else may differ.
    for key in expected.keys() & parameters.keys():
        if expected[key][0] == "F32" and found.tensors.get(key) == ("F16", expected[key][1]):
            expected[key] = found.tensors[key]
    if found.tensors != expected:
        unlike = sorted(k for k in expected.keys() | found.tensors.keys() if expected.get(k) != found.tensors.get(k))
        key = unlike[0]
        raise IntegrityError(
            f"Found weights in {path / part.file} that do not fit {what}: {len(unlike)} tensors differ, first "
            f"{key!r} (found {found.tensors.get(key)}, expected {expected.get(key)}). Get the package again.",
            details=unlike[:50],
        )
    return {k: v.float() if v.dtype == torch.float16 else v for k, v in load_tensors(content).items()}


def _no_meta(family: Family, name: str) -> None:
    """A buffer that a constructor computes and state_dict leaves out would have no values: name it."""
    tensors = {**dict(family.named_parameters()), **dict(family.named_buffers())}
    empty = [key for key, tensor in tensors.items() if tensor.is_meta]
    if empty:
        raise IntegrityError(
            f"Found tensors of {name} that no file gives values: {', '.join(empty[:5])}. A family must register "
            "buffers as persistent, or compute such tensors where they are used."
        )


# -- save --------------------------------------------------------------------------------------------------------------

Pictures = Callable[[Model], Mapping[str, bytes]]


def save(
    family: Family,
    name: str,
    provenance: Provenance,
    card: Mapping[str, Any],
    *,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
    training: Family | None = None,
    pictures: Pictures | None = None,
    root: Path | None = None,
) -> PackageRef:
    """Write a settled family as the next version of the package `name`, all or nothing.

    `defaults` gives controls per task over the family's own; `training` is the same family with the parts that only
    train, kept in train.safetensors for transfer where there are any; `pictures` makes the other files ("samples.png",
    "classes/0.png") from the model as it will be addressed. Raises ConfigError for an unusable name or default,
    StorageError on a full disk.
    """
    package.check_name(name)
    where = (root or package.folder()) / name
    stored = {part: _pack(part, getattr(family, part)) for part in family.parts}
    extra = training_keys(training) if training is not None else []
    train = _pack("train", training, extra) if training is not None and extra else None
    parts = {part: described for part, (described, _) in stored.items()}
    tasks = {}
    for task, capability in family.capabilities().items():
        given = inherited(family, task, defaults or {})
        read(capability.controls, given, f"defaults of {task}")
        schema = capability.controls.model_json_schema()
        tasks[task] = Task(inputs=capability.inputs, schema=schema, defaults=given)
    with disk_errors(f"write the model {name}"):
        made = not where.exists()
        make_folder(where)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=where))
        try:
            for part, content in [*stored.values(), *([train] if train else [])]:
                _write(staging / part.file, content)
            _write(staging / "card.json", _json(card))
            while True:
                manifest = _manifest(family, name, _next(name, where), tasks, parts, train and train[0], provenance)
                package.check_caps(manifest)
                model = Model(family, manifest.ref, manifest, dict(card))
                for file, content in (pictures(model) if pictures else {}).items():
                    (staging / file).parent.mkdir(exist_ok=True)
                    _write(staging / file, content)
                _write(staging / "model.json", _json(manifest.json_shape()))  # last: it makes the folder a package
                sync(staging)
                final = where / str(manifest.version)
                try:
                    staging.rename(final)
                    break
                except OSError:
                    if not final.exists():
                        raise  # else another process took this version: write the next
            os.chmod(final, 0o755)  # mkdtemp's own is private
            sync(where)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if made and not any(where.iterdir()):
                where.rmdir()
    return PackageRef(name=name, version=manifest.version, path=final, bundled=False)


def _next(name: str, where: Path) -> int:
    taken = [int(p.name) for p in where.iterdir() if p.name.isdigit()]
    return max([package.next_version(name), *(version + 1 for version in taken)])


def _manifest(
    family: Family, name: str, number: int, tasks: dict[str, Task], parts: dict[str, Part], train: Part | None,
    provenance: Provenance,
) -> Manifest:  # fmt: skip
    draft = Manifest(
        format=FORMAT, name=name, version=number, family=family.name, config=family.config.model_dump(mode="json"),
        spec=family.spec, tasks=tasks, parts=parts, train=train, provenance=provenance, hash="0" * 64,
    )  # fmt: skip
    return draft.model_copy(update={"hash": package.content_hash(draft.json_shape())})


def round_to_half(family: Family, keys: Container[str] | None = None) -> Family:
    """Round the parameters (those in `keys`) to what float16 can hold, in place; returns the family, still float32.

    Do it before measuring what will be stored in half precision. Raises ConfigError for a weight beyond its range.
    """
    for name, p in family.named_parameters():
        if p.dtype == torch.float32 and (keys is None or name in keys):
            rounded = p.detach().half().float()
            if not torch.isfinite(rounded).all():
                raise ConfigError(f"Found a weight in {name} beyond float16's range; publish with --precision fp32.")
            p.data.copy_(rounded)
    return family


def _pack(name: str, module: nn.Module, keys: Sequence[str] | None = None) -> tuple[Part, bytes]:
    """The module's state (that in `keys`) as a file of safetensors and its record; tied tensors are written once each.

    A parameter that float16 holds exactly (see `round_to_half`) is stored so, in half the bytes.
    """
    parameters = {k for k, p in module.named_parameters() if p.dtype == torch.float32}
    whole = module.state_dict()
    state: dict[str, Tensor] = {}
    for key in whole if keys is None else keys:
        tensor = whole[key].detach().cpu().contiguous().clone()
        half = tensor.half() if key in parameters else tensor
        state[key] = half if torch.equal(half.to(tensor.dtype), tensor) else tensor
    content: bytes = save_tensors(state)
    numbers, digest = sum(tensor.numel() for tensor in state.values()), hashlib.sha256(content).hexdigest()
    return Part(file=f"{name}.safetensors", sha256=digest, bytes=len(content), parameters=numbers), content


def _json(found: Mapping[str, Any]) -> bytes:
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
