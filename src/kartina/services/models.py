"""Use cases on models: which there are, what each can do, and its pictures. Reads packages without torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from kartina.config import ImageSpec
from kartina.errors import IntegrityError, NotFoundError
from kartina.models import package
from kartina.models.package import Manifest, PackageRef

log = structlog.get_logger("kartina.services.models")

RACY = 50_000_000  # ns in which two changes of a folder may have the same time


@dataclass(frozen=True)
class TaskInfo:
    inputs: tuple[str, ...]
    schema: Mapping[str, Any]  # JSON Schema of the controls
    defaults: Mapping[str, Any]  # of every control that has one


@dataclass(frozen=True)
class ModelInfo:
    """A package, as the service shows it."""

    path: Path
    bundled: bool
    manifest: Manifest
    card: Mapping[str, Any]
    tasks: Mapping[str, TaskInfo]
    samples: Path | None
    class_images: tuple[Path | None, ...]  # in label order
    active: bool = True  # what its name alone means

    @property
    def ref(self) -> str:
        return self.manifest.ref

    @property
    def hash(self) -> str:
        return self.manifest.hash

    @property
    def spec(self) -> ImageSpec:
        return self.manifest.spec

    @property
    def created_at(self) -> datetime | None:
        try:
            return datetime.fromisoformat(self.manifest.provenance.created_at)
        except ValueError:
            return None

    @property
    def counts(self) -> dict[str, int]:
        """Training images per class, as far as the card tells."""
        data = self.card.get("data")
        counts = data.get("counts") if isinstance(data, dict) else None
        return {str(k): int(v) for k, v in counts.items()} if isinstance(counts, dict) else {}

    @property
    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """Name -> {value, interval, floor, identity}: the card's numbers, less those that were not measured."""
        found = self.card.get("metrics")
        named = found.items() if isinstance(found, dict) else ()
        return {k: v for k, v in named if isinstance(v, dict) and v.get("value") is not None}

    @property
    def per_class(self) -> Sequence[Mapping[str, Any]]:
        found = self.card.get("per_class")
        return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []

    def text(self, key: str) -> str:
        """A line of the card: "about" or "licence"; "" where there is none."""
        return str(self.card.get(key) or "")


@dataclass(frozen=True)
class _Listed:
    """The packages there are, as long as the folders that they are in do not change."""

    folders: Mapping[Path, int]  # when each last changed; none: they cannot be relied upon
    packages: Sequence[PackageRef]
    named: Mapping[str, PackageRef]  # by "name@version", and what each name alone means


class Models:
    """The packages in KARTINA_HOME and the bundled ones. Methods block on the disk; call them from a thread."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[int, ...], ModelInfo]] = {}
        self._listed = _Listed({}, (), {})
        self._lock = threading.Lock()

    def list(self, limit: int, cursor: str | None = None) -> tuple[list[ModelInfo], str | None]:
        """A page of models, your own first, and the cursor of the next page. Unreadable packages are logged and left
        out; ask for one by name to learn what is wrong with it."""
        packages = package.list_packages()
        start = next((i + 1 for i, found in enumerate(packages) if str(found) == cursor), 0) if cursor else 0
        page: list[ModelInfo] = []
        for at in range(start, len(packages)):
            try:
                info = self._with_active(self._info(packages[at]), packages)
            except IntegrityError as error:
                log.warning("model_unreadable", model=str(packages[at]), error=str(error))
                continue
            if len(page) == limit:
                return page, str(packages[at - 1]) if at else None
            page.append(info)
        return page, None

    def get(self, ref: str) -> ModelInfo:
        """The model that `ref` names: name, name@version or hash prefix, never a folder.

        Raises NotFoundError, and IntegrityError for a package that cannot be read.
        """
        listed = self._look()
        info = self._info(listed.named.get(ref) or package.find(ref, paths=False, packages=listed.packages))
        active = listed.named.get(info.manifest.name)
        return replace(info, active=active is not None and active.version == info.manifest.version)

    def by_hash(self, hash: str, ref: str) -> ModelInfo:
        """The very package that a recipe pins. Raises NotFoundError when it is no longer here."""
        for found in package.list_packages():
            try:
                info = self._info(found)
            except IntegrityError:
                continue
            if info.hash == hash:
                return info
        raise NotFoundError(f"Found no model with the hash {hash[:12]} ({ref}); it was removed since it was asked for.")

    def samples(self, ref: str) -> Path:
        """The model's sample sheet (PNG). Raises NotFoundError."""
        found = self.get(ref)
        if found.samples is None:
            raise NotFoundError(f"Found no sample sheet in the model {found.ref}.")
        return found.samples

    def class_image(self, ref: str, index: int) -> Path:
        """The example image of the class `index` (PNG). Raises NotFoundError."""
        found = self.get(ref)
        path = found.class_images[index] if 0 <= index < len(found.class_images) else None
        if path is None:
            raise NotFoundError(
                f"Found no example image of class {index} in {found.ref}, which has {len(found.spec.classes)} classes."
            )
        return path

    def _look(self) -> _Listed:
        """The packages, listed again when a folder has changed: a request costs a look at each, and no search."""
        with self._lock:
            listed = self._listed
        if listed.folders and listed.folders == {path: _changed_at(path) for path in listed.folders}:
            return listed
        now = time.time_ns()
        folders = {path: _changed_at(path) for path in (package.folder(), package.BUNDLED)}
        packages = package.list_packages()
        for found in packages:  # which version is active is written among one's own, also of bundled ones
            for path in (found.path.parent, package.folder() / found.name):
                folders[path] = _changed_at(path)
        named = {str(found): found for found in packages}
        named |= {name: package.meant(name, packages) for name in {found.name for found in packages}}
        if any(now - at < RACY for at in folders.values()):  # a second change would look like the first
            folders = {}
        listed = _Listed(folders, packages, named)
        with self._lock:
            self._listed = listed
        return listed

    @staticmethod
    def _with_active(info: ModelInfo, packages: Sequence[PackageRef]) -> ModelInfo:
        active = package.meant(info.manifest.name, packages).version == info.manifest.version
        return info if info.active == active else replace(info, active=active)

    def _info(self, found: PackageRef) -> ModelInfo:
        """Read the package, unless it was read before and has not changed."""
        state = _state(found.path)
        with self._lock:
            known = self._read.get(found.path)
        if known and known[0] == state:
            return known[1]
        manifest, card = package.read_manifest(found.path), package.read_card(found.path)
        tasks = {
            name: TaskInfo(task.inputs, task.schema_, {**_defaults(task.schema_), **task.defaults})
            for name, task in manifest.tasks.items()
        }
        names = [f"classes/{i}.png" for i in range(len(manifest.spec.classes))]
        info = ModelInfo(
            path=found.path,
            bundled=found.bundled,
            manifest=manifest,
            card=card,
            tasks=tasks,
            samples=_picture(found.path, "samples.png"),
            class_images=tuple(_picture(found.path, name) for name in names),
        )
        with self._lock:
            self._read[found.path] = (state, info)
        return info


def _state(path: Path) -> tuple[int, ...]:
    """What changes when the package does."""
    found = []
    for name in ("model.json", "card.json"):
        try:
            found += [(stat := (path / name).stat()).st_mtime_ns, stat.st_size, stat.st_ino]
        except OSError:
            found += [0]
    return tuple(found)


def _changed_at(folder: Path) -> int:
    """When something was last added to the folder or removed, in ns; 0 where there is none."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _picture(path: Path, name: str) -> Path | None:
    """The file, when it is there and no link leads out of the package."""
    picture = path / name
    return picture if picture.is_file() and picture.resolve().is_relative_to(path.resolve()) else None


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v["default"] for k, v in schema.get("properties", {}).items() if "default" in v}
