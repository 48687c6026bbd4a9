"""The model package, read without torch: a folder of JSON and safetensors, addressed as name@version or by hash.

    models/NAME/VERSION/
        model.json                family, config, image spec, tasks with their schemas, parts, provenance, hash
        card.json                 licence, data, budget, metrics with interval, floor and identity, per-class quality
        generator.safetensors     one file per part
        train.safetensors         what only trains (a discriminator), for transfer; optional, never read for sampling
        samples.png               uncurated, fixed seeds, one row a class
        classes/<label>.png       one example per class

A package may come from anywhere, so nothing in it is believed: names are plain names inside the folder, links are
not followed, JSON and safetensors headers are read under a cap before anything is allocated. What remains, the fit of
names and shapes to the architecture, needs torch and is in `kartina.models.model`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from kartina.config import FORMAT, Frozen, ImageSpec, explain, home
from kartina.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, disk_errors
from kartina.files import make_folder

BUNDLED = Path(__file__).parent / "bundled"  # packages that come with the product

MAX_JSON = 4 * 2**20  # bytes of model.json or card.json
MAX_HEADER = 2**20  # bytes of one safetensors header
MAX_PARAMETERS = 500_000_000  # numbers in one package
MAX_BYTES = 2 * 2**30  # of all parts together

COLUMNS = 8  # images of each class in samples.png
SHEET_CLASSES = 32  # rows of samples.png at most
SHEET_INPUTS = 16  # input images in samples.png, of a model that only works on images

JSON = 2**18  # bytes of model.json, card.json and the headers of weights, about
ROW = 2**11  # bytes of a class in the card, and of the recipe in its picture

ACTIVE = "active.json"  # in models/NAME: which versions were activated, the active one last
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
FILE = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.safetensors$"  # a plain name: no folder, no dots before the suffix
PART = r"^[a-z][a-z0-9_]{0,63}$"
SHA256 = r"^[0-9a-f]{64}$"
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


class Part(Frozen):
    """One file of weights."""

    file: str = Field(pattern=FILE)
    sha256: str = Field(pattern=SHA256)
    bytes: int = Field(ge=8, le=MAX_BYTES)
    parameters: int = Field(ge=0, le=MAX_PARAMETERS)


class Task(Frozen):
    """What a task takes, the JSON Schema of its controls, and this package's defaults over the schema's."""

    model_config = ConfigDict(populate_by_name=True)

    inputs: tuple[str, ...] = ()
    schema_: dict[str, Any] = Field(alias="schema")
    defaults: dict[str, Any] = Field(default_factory=dict)


class Provenance(Frozen):
    """Where the weights come from."""

    preset: str
    data: str
    data_hash: str
    images: int = Field(ge=0)  # seen in training
    seconds: float = Field(ge=0)  # of active training
    seed: int
    kartina: str  # version that trained it
    created_at: str  # ISO 8601, UTC


class Manifest(Frozen):
    """model.json."""

    format: int = FORMAT
    name: str
    version: int = Field(ge=1)
    family: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    config: dict[str, Any]
    spec: ImageSpec
    tasks: dict[str, Task]
    parts: dict[Annotated[str, StringConstraints(pattern=PART)], Part] = Field(min_length=1)
    train: Part | None = None  # what only trains, for transfer
    provenance: Provenance
    hash: str = Field(pattern=SHA256)

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def parameters(self) -> int:
        """Numbers in the parts that sampling needs."""
        return sum(part.parameters for part in self.parts.values())

    def json_shape(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True)


class Number(BaseModel):
    """One metric in a card; keys beyond these are kept and not looked at."""

    value: float | None = None
    interval: tuple[float, float] | None = None
    floor: float | None = None
    identity: dict[str, Any] = Field(default_factory=dict)


class ClassRow(BaseModel):
    """One class in a card."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str = Field(alias="class")
    agreement: float | None = None
    coverage: float | None = None
    diversity: float | None = None
    train: int | None = None


class Card(BaseModel):
    """The shape of card.json, as far as anything relies on it."""

    licence: str | None = None
    about: str = ""
    metrics: dict[str, Number] = Field(default_factory=dict)
    per_class: list[ClassRow] = Field(default_factory=list)
    control: dict[str, dict[str, float | None]] = Field(default_factory=dict)


class PackageRef(Frozen):
    """A package found on disk."""

    name: str
    version: int
    path: Path
    bundled: bool

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def content_hash(manifest: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON without hash, name and version: a package keeps it under every name."""
    kept = {k: v for k, v in manifest.items() if k not in ("hash", "name", "version")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def room(weights: int, spec: ImageSpec) -> int:
    """Bytes of a package with so many of weights, about: its pictures count as they are without compression."""
    classes = max(1, len(spec.classes))
    shown = max(COLUMNS * min(classes, SHEET_CLASSES), 2 * SHEET_INPUTS) + classes
    each = max(spec.channels, spec.source_channels) * (spec.height + 2) * (spec.width + 2)
    return weights + shown * each + classes * ROW + JSON


# -- finding -----------------------------------------------------------------------------------------------------------


def folder() -> Path:
    return home() / "models"


def list_packages() -> list[PackageRef]:
    """Every package: yours first, then the bundled; by name, the newest version first. A bundled one hides behind
    yours of the same name and version."""
    found: dict[tuple[str, int], PackageRef] = {}
    for root, bundled in ((folder(), False), (BUNDLED, True)):
        packages = [
            PackageRef(name=path.parent.parent.name, version=int(path.parent.name), path=path.parent, bundled=bundled)
            for path in root.glob("*/*/model.json")
            if NAME.fullmatch(path.parent.parent.name) and _is_version(path.parent.name)
        ]
        for package in sorted(packages, key=lambda p: (p.name, -p.version)):
            found.setdefault((package.name, package.version), package)
    return list(found.values())


def find(ref: str, paths: bool = True, packages: Sequence[PackageRef] | None = None) -> PackageRef:
    """The package that `ref` names: "name" (active version), "name@2", at least 8 hex digits of its hash, or a folder.

    `paths=False` refuses folders (a network caller never names a path); `packages` are those of `list_packages`, where
    they were listed just now. Raises NotFoundError listing what there is.
    """
    packages = list_packages() if packages is None else packages
    name, at, version = ref.partition("@")
    for package in packages:
        if package.name == name and (not at or version == str(package.version)):
            return package if at else meant(name, packages)
    if re.fullmatch(r"[0-9a-f]{8,64}", ref):
        hits = {hash_of(package): package for package in packages if hash_of(package).startswith(ref)}
        if len(hits) > 1:
            raise NotFoundError(f"Found {len(hits)} models whose hash starts with {ref}; give more of its digits.")
        for package in hits.values():
            return package
    if paths and _is_package(Path(ref)):
        path = Path(ref).absolute()
        manifest = read_manifest(path)
        return PackageRef(name=manifest.name, version=manifest.version, path=path, bundled=False)
    known = [str(p) for p in packages] if at else list(dict.fromkeys(p.name for p in packages))
    raise NotFoundError.named("model", ref, known, "See `kartina models list`.")


# -- the active version -----------------------------------------------------------------------------------------------


def activated(name: str, packages: Sequence[PackageRef] | None = None) -> list[int]:
    """The versions of `name` that were activated and are still here, the active one last."""
    try:
        found = json.loads(read_file(folder() / name, ACTIVE, MAX_JSON))["versions"]
    except (IntegrityError, ValueError, KeyError, TypeError, RecursionError):  # none was activated
        return []
    there = {p.version for p in (list_packages() if packages is None else packages) if p.name == name}
    return [v for v in found if v in there] if isinstance(found, list) else []


def activate(ref: str) -> PackageRef:
    """From now on the name alone means this version. Raises NotFoundError."""
    package = find(ref, paths=False)
    _set_active(package.name, [*(v for v in activated(package.name) if v != package.version), package.version])
    return package


def roll_back(name: str) -> PackageRef:
    """Go back to the version that was active before; to the newest older one where none was.

    Raises NotFoundError for an unknown name, ConflictError where there is nothing to go back to.
    """
    now = find(name, paths=False)
    before = [v for v in activated(now.name) if v != now.version]
    older = sorted(p.version for p in list_packages() if p.name == now.name and p.version < now.version)
    if not before and not older:
        raise ConflictError(f"Found no version of {now.name} before {now}; there is nothing to roll back to.")
    _set_active(now.name, before or [older[-1]])
    return find(now.name, paths=False)


def meant(name: str, packages: Sequence[PackageRef]) -> PackageRef:
    """What a name alone means: the active version; where none was activated the newest, wherever it is."""
    active = activated(name, packages)
    return max(
        (p for p in packages if p.name == name), key=lambda p: (bool(active) and p.version == active[-1], p.version)
    )


def _set_active(name: str, versions: list[int]) -> None:
    where = folder() / name
    with disk_errors("store which version is active"):
        make_folder(where)
        temporary = where / f".active-{os.getpid()}"
        temporary.write_text(json.dumps({"versions": versions}))
        temporary.replace(where / ACTIVE)


def hash_of(package: PackageRef) -> str:
    """The hash that a package's manifest claims; "" where it cannot be read."""
    try:
        return read_manifest(package.path).hash
    except IntegrityError:
        return ""


def next_version(name: str) -> int:
    """The version that the next package called `name` gets: one above the highest, bundled ones included."""
    return 1 + max((p.version for p in list_packages() if p.name == name), default=0)


def check_name(name: str) -> str:
    """`name`, when it can be a package's; ConfigError says what a name may be."""
    if not NAME.fullmatch(name) or ".." in name or re.fullmatch(r"[0-9a-f]{8,64}", name):
        raise ConfigError(
            f"Found the model name {name!r}; expected up to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter "
            "or digit, and not only hexadecimal digits. Choose another."
        )
    return name


def remove(ref: str) -> PackageRef:
    """Delete the package from KARTINA_HOME. Raises ConflictError for a bundled one and for a folder elsewhere."""
    package = find(ref)
    if package.bundled or package.path.parent.parent != folder():
        raise ConflictError(
            f"Found {package} in {package.path}, which is not among your own models; only those in {folder()} can be "
            "removed."
        )
    with disk_errors(f"remove {package}"):
        # Renamed first: a half-deleted folder is never taken for a package.
        trash = Path(tempfile.mkdtemp(prefix=".removed-", dir=folder()))
        package.path.rename(trash / "package")
        shutil.rmtree(trash)
        if not any(p.name != ACTIVE for p in package.path.parent.iterdir()):
            (package.path.parent / ACTIVE).unlink(missing_ok=True)
            package.path.parent.rmdir()
    return package


def _is_package(path: Path) -> bool:
    try:
        return (path / "model.json").is_file()
    except OSError:  # a name too long to be one
        return False


def _is_version(text: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,8}", text) is not None


# -- reading -----------------------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> Manifest:
    """model.json of the package in `path`. Raises IntegrityError where it is not one that this version can read."""
    found = read_json(path, "model.json")
    if found.get("format") != FORMAT:
        raise IntegrityError(
            f"Found format {found.get('format')!r} in {path / 'model.json'}; this version of Kartina reads format "
            f"{FORMAT}. Open it with the version that wrote it, or update Kartina."
        )
    try:
        manifest = Manifest.model_validate(found)
    except ValidationError as error:
        raise IntegrityError(
            f"Found a model.json in {path} that is not a model's: {explain(error)}. Get the package again."
        ) from None
    if manifest.hash != content_hash(manifest.json_shape()):
        raise IntegrityError(
            f"Found a model.json in {path} whose content is not what its hash {manifest.hash[:12]} says; it was "
            "changed after it was written. Get the package again."
        )
    return manifest


def read_card(path: Path) -> dict[str, Any]:
    """card.json of the package in `path`. Raises IntegrityError where it is missing or has not a card's shape."""
    found = read_json(path, "card.json")
    try:
        Card.model_validate(found)
    except ValidationError as error:
        raise IntegrityError(
            f"Found a card.json in {path} that is not a model's card: {explain(error)}. Get the package again."
        ) from None
    return found


def read_json(path: Path, name: str) -> dict[str, Any]:
    content = read_file(path, name, MAX_JSON)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"Found a {name} in {path} that is not JSON ({error}). Get the package again.") from None
    if not isinstance(found, dict):
        raise IntegrityError(f"Found a {name} in {path} that is not a JSON object. Get the package again.")
    return found


def read_file(path: Path, name: str, limit: int) -> bytes:
    """The bytes of the file `name` in the package `path`: a regular file, not a link, of at most `limit` bytes."""
    where = path / name
    with _open(path, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise IntegrityError(f"Found {where} of {size:,} bytes; expected at most {limit:,}. It was not read.")
        content: bytes = file.read(limit + 1)
    if len(content) != size:
        raise IntegrityError(f"Found {where} changing while it was read. Try again.")
    return content


def _open(path: Path, name: str) -> Any:
    """Open `name` inside `path` for reading, following no link."""
    where = path / name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*\.[a-z]+", name):
        raise IntegrityError(f"Found the file name {name!r} in a model package; expected a plain name inside it.")
    try:
        number = os.open(where, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise IntegrityError(f"Found no {name} in {path}; expected a whole model package. Get it again.") from None
    except OSError as error:
        raise IntegrityError(
            f"Could not open {where} ({error.strerror}); expected a regular file, not a link."
        ) from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise IntegrityError(f"Found {where}, which is not a regular file; links and devices are refused.")
    return os.fdopen(number, "rb")


# -- weights, up to the point where torch is needed --------------------------------------------------------------------


class Tensors(Frozen):
    """What a safetensors header promises: name -> (dtype, shape)."""

    tensors: dict[str, tuple[str, tuple[int, ...]]]
    parameters: int
    header: int  # bytes before the data


def check_caps(manifest: Manifest) -> None:
    """IntegrityError when the parts together are over the caps."""
    parts = [*manifest.parts.values(), *([manifest.train] if manifest.train else [])]
    parameters, size = sum(p.parameters for p in parts), sum(p.bytes for p in parts)
    if parameters > MAX_PARAMETERS or size > MAX_BYTES:
        raise IntegrityError(
            f"Found a model of {parameters:,} parameters in {size:,} bytes; at most {MAX_PARAMETERS:,} in "
            f"{MAX_BYTES:,} are loaded."
        )
    files = [p.file for p in parts]
    if len(set(files)) != len(files):
        raise IntegrityError("Found two parts in one file; expected a file for each part. Get the package again.")


def read_part(path: Path, part: Part) -> tuple[Tensors, bytes]:
    """Header and bytes of a part, after its size, header and hash were checked, in that order.

    Raises IntegrityError saying what does not fit.
    """
    where = path / part.file
    with _open(path, part.file) as file:
        size = os.fstat(file.fileno()).st_size
        if size != part.bytes:
            raise IntegrityError(f"Found {where} of {size:,} bytes; model.json says {part.bytes:,}. Get it again.")
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, size - 8):
            raise IntegrityError(
                f"Found a header of {length:,} bytes in {where}; expected at most {min(MAX_HEADER, size - 8):,}."
            )
        header = file.read(length)
        tensors = _parse_header(where, header, size - 8 - length)
        if tensors.parameters != part.parameters:
            raise IntegrityError(
                f"Found {tensors.parameters:,} parameters in {where}; model.json says {part.parameters:,}."
            )
        file.seek(0)
        content: bytes = file.read(size)
    if content[8 : 8 + length] != header or len(content) != size:
        raise IntegrityError(f"Found {where} changing while it was read. Try again.")
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise IntegrityError(f"Found {where} changed: its sha256 is not the one in model.json. Get the package again.")
    return tensors, content


def _parse_header(where: Path, header: bytes, data: int) -> Tensors:
    """The header's tensors, when they fill `data` bytes without gap or overlap."""

    def refuse(what: str) -> IntegrityError:
        return IntegrityError(f"Found a safetensors header in {where} {what}; expected tensors that fill the file.")

    try:
        found = json.loads(header)
        if not isinstance(found, dict):
            raise refuse("that is not an object")
        found.pop("__metadata__", None)
        spans, tensors, parameters = [], {}, 0
        for name, entry in found.items():
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if set(entry) != {"dtype", "shape", "data_offsets"} or dtype not in DTYPES or len(shape) > 8:
                raise refuse(f"with an entry for {name!r} that is not one")
            if not all(type(x) is int and 0 <= x <= MAX_PARAMETERS for x in shape):
                raise refuse(f"with the shape {shape} for {name!r}")
            if type(start) is not int or type(stop) is not int:
                raise refuse(f"with offsets for {name!r} that are not numbers")
            count = math.prod(shape)
            parameters += count
            if parameters > MAX_PARAMETERS or stop - start != count * DTYPES[dtype]:
                raise refuse(f"whose {name!r} has {stop - start} bytes for the shape {shape}")
            spans.append((start, stop))
            tensors[name] = (dtype, tuple(shape))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refuse(f"that cannot be read ({error})") from None
    at = 0
    for start, stop in sorted(spans):
        if start != at:
            raise refuse("with a gap or overlap")
        at = stop
    if at != data:
        raise refuse(f"for {at:,} of {data:,} bytes")
    return Tensors(tensors=tensors, parameters=parameters, header=8 + len(header))
