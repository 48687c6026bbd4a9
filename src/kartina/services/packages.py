"""Use cases on model packages: import one from a ZIP, export one, activate a version, roll back, delete.

What is imported comes from anywhere. Its names are matched, not cleaned; links, traversal, other files, bombs and
anything but safetensors, JSON and PNG are refused before a byte of weights is read, and whether the weights fit the
architecture is tried in a process of its own.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kartina.data.sandbox import Sandbox
from kartina.errors import ConflictError, DataError, IntegrityError, disk_errors
from kartina.files import make_folder
from kartina.models import package
from kartina.models.package import Manifest, PackageRef
from kartina.process import command_of
from kartina.services.models import ModelInfo, Models
from kartina.services.zips import stream_files
from kartina.serving import kept

MAX_ENTRIES = 4096
MAX_PICTURE = 8 * 2**20  # bytes of a PNG in a package
MAX_RATIO = 100  # of a file to its compressed form
TIME = 300.0  # seconds that the check of one package may take
_PART = 1 << 20  # bytes copied at a time
_NAMES = re.compile(
    r"(?P<json>model\.json|card\.json)|(?P<png>samples\.png|classes/(?:0|[1-9][0-9]{0,5})\.png)"
    r"|(?P<weights>[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.safetensors)"
)


class Packages:
    """The packages in KARTINA_HOME. Methods block; call them from a thread."""

    def __init__(self, models: Models, sandbox: Sandbox):
        self.models = models
        self.sandbox = sandbox

    def add(self, file: IO[bytes], name: str | None = None) -> tuple[ModelInfo, bool]:
        """Import a package's ZIP, under another name where one is given: (the model, whether it is new).

        The same weights under the same name again are the model that is there. Raises DataError or IntegrityError
        saying what is wrong with it, ConfigError for a name, StorageError; then nothing was changed.
        """
        if name is not None:
            package.check_name(name)
        with disk_errors("import the model"):
            make_folder(package.folder())
            staging = Path(tempfile.mkdtemp(prefix=".import-", dir=package.folder()))
        try:
            try:
                self._unpack(file, staging)
                manifest = self._checked(staging)
                return self._place(staging, manifest, package.check_name(name or manifest.name))
            except IntegrityError as error:
                # What a stranger brought is their mistake (4xx), not damage to what is stored here.
                message = str(error).replace(f" in {staging}", "").replace(f"{staging}/", "")
                raise DataError(message, details=error.details) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _unpack(self, file: IO[bytes], into: Path) -> None:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                if len(entries) > MAX_ENTRIES:
                    raise DataError(f"Found {len(entries)} files in the ZIP; expected at most {MAX_ENTRIES}.")
                seen: set[str] = set()
                left = package.MAX_BYTES + MAX_ENTRIES * 2**16
                for entry in entries:
                    left -= _extract(archive, entry, into, seen, left)
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, ValueError) as error:
            raise DataError(f"Found a file that is not a whole ZIP ({error}); expected a model package's.") from None
        except RuntimeError as error:  # encrypted
            raise DataError(f"Found a ZIP that cannot be read ({error}); expected one without a password.") from None

    def _checked(self, path: Path) -> Manifest:
        """The manifest of a package that can be trusted to load."""
        manifest = package.read_manifest(path)
        package.read_card(path)
        package.check_caps(manifest)
        parts = [*manifest.parts.values(), *([manifest.train] if manifest.train else [])]
        there = {found.name for found in path.glob("*.safetensors")}
        if there != {part.file for part in parts}:
            raise DataError(
                f"Found the weights {', '.join(sorted(there)) or 'none'}; model.json names "
                f"{', '.join(sorted(part.file for part in parts))}."
            )
        for picture in [*path.glob("*.png"), *path.glob("classes/*.png")]:
            self.sandbox.clean(picture.read_bytes())
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
        command = command_of("kartina.models.check", str(path))
        try:
            done = subprocess.run(command, env=environment, capture_output=True, timeout=TIME, check=False)
            found = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError):
            raise DataError("Found a model whose check did not end well; expected one that Kartina made.") from None
        if found:
            raise IntegrityError(found["message"])
        return manifest

    def _place(self, staging: Path, manifest: Manifest, name: str) -> tuple[ModelInfo, bool]:
        """Give the package its name and version, and move it among the others."""
        same = [p for p in package.list_packages() if p.name == name and package.hash_of(p) == manifest.hash]
        if same:
            return self.models.get(str(same[0])), False
        for _ in range(100):  # another import may take a version meanwhile
            versions = {p.version for p in package.list_packages() if p.name == name}
            version = manifest.version if manifest.version not in versions else package.next_version(name)
            renamed = manifest.model_copy(update={"name": name, "version": version})
            with disk_errors("import the model"):
                (staging / "model.json").write_text(json.dumps(renamed.json_shape(), indent=1, ensure_ascii=False))
                (package.folder() / name).mkdir(exist_ok=True)
                staging.chmod(0o755)
                try:
                    staging.replace(package.folder() / name / str(version))  # atomic; fails where there is one
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    continue
                return self.models.get(renamed.ref), True
        raise ConflictError(f"Found no free version of {name}; try again.")

    def export(self, ref: str) -> tuple[str, Iterator[bytes]]:
        """(file name, bytes) of a package's ZIP, made while it is sent. Raises NotFoundError, IntegrityError."""
        info = self.models.get(ref)
        parts = [*info.manifest.parts.values(), *([info.manifest.train] if info.manifest.train else [])]
        names = ["model.json", "card.json", *(part.file for part in parts)]
        pictures = [info.samples, *info.class_images]
        names += [str(found.relative_to(info.path)) for found in pictures if found is not None]
        return f"{info.manifest.name}-{info.manifest.version}.zip", stream_files(info.path, names)

    def activate(self, ref: str) -> ModelInfo:
        """From now on the name alone means this version. Raises NotFoundError."""
        return self.models.get(str(package.activate(self.models.get(ref).ref)))

    def roll_back(self, name: str) -> ModelInfo:
        """Make the version active that was before. Raises NotFoundError, ConflictError."""
        return self.models.get(str(package.roll_back(name)))

    def delete(self, ref: str) -> None:
        """Raises NotFoundError, ConflictError for a bundled one."""
        remove(self.models.get(ref).ref)


def remove(ref: str) -> PackageRef:
    """Delete a package, and what the engine keeps of it, unless the same weights are here under another name too.

    Raises NotFoundError, ConflictError for a bundled one.
    """
    hash = package.hash_of(package.find(ref))
    removed = package.remove(ref)
    if hash and hash not in {package.hash_of(left) for left in package.list_packages()}:
        kept.forget(hash)
    return removed


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, into: Path, seen: set[str], left: int) -> int:
    """Write one file of a ZIP below `into`; says how many bytes it had. Raises DataError."""
    if entry.is_dir() and entry.filename == "classes/":
        return 0
    match = _NAMES.fullmatch(entry.filename)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if match is None or kind not in (0, stat.S_IFREG):
        raise DataError(
            f"Found {entry.filename[:200]!r} in the ZIP; expected regular files: model.json, card.json, "
            "NAME.safetensors, samples.png, classes/N.png."
        )
    if entry.filename.casefold() in seen:
        raise DataError(f"Found {entry.filename!r} twice in the ZIP.")
    seen.add(entry.filename.casefold())
    most = min(
        left, {"json": package.MAX_JSON, "png": MAX_PICTURE, "weights": package.MAX_BYTES}[match.lastgroup or ""]
    )
    if entry.file_size > most or entry.file_size > MAX_RATIO * max(entry.compress_size, 1024):
        raise DataError(f"Found {entry.filename} of {entry.file_size:,} bytes; expected at most {most:,}, and no bomb.")
    with disk_errors("import the model"), archive.open(entry) as source:
        target = into / entry.filename
        target.parent.mkdir(exist_ok=True)
        done = 0
        with target.open("xb") as out:
            while part := source.read(_PART):
                done += len(part)
                if done > most:
                    raise DataError(f"Found {entry.filename} longer than the ZIP says.")
                out.write(part)
    return done
