"""The folder of one training, KARTINA_HOME/runs/ID: what can be said of a run without its networks. Torch-free.

    config.json      RunConfig: all that decides the weights
    start.safetensors    the weights that a transferred run starts from, see training.transfer
    status.json      status, images seen, active seconds, warnings, error
    stats.jsonl      one line per logging interval
    tensorboard/     the same for TensorBoard
    grids/           fixed-seed samples over time, <images>.png
    checkpoints/     see training.checkpoint
    owner            whose it is, see kartina.owners

One process trains a run at a time (a lock on `.lock`); reading needs no lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from kartina.config import FORMAT, ImageSpec, RunConfig, explain, home
from kartina.data.imageset import ImageSet, open_set
from kartina.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, disk_errors
from kartina.files import make_folder

KEPT = 3  # checkpoints at a time: two that stay and the one that is being written
RETIRED = ".retired"  # beside the runs: the highest number of those that were deleted
GRID_COLUMNS = 8
GRID_ROWS = 10  # classes in the picture


@dataclass(frozen=True)
class RunFolder:
    path: Path
    config: RunConfig

    @property
    def id(self) -> str:
        return self.path.name

    # -- folders -------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, config: RunConfig, files: Mapping[str, bytes] | None = None, name: str | None = None) -> Self:
        """Make a new, numbered run folder for `config`, with `files` in it from the beginning.

        After the number comes `name` (a-z, 0-9, ".", "_", "-"), or what is trained on what.
        """
        root = home() / "runs"
        with disk_errors("make the run's folder"):
            make_folder(root)
            taken = [int(m[1]) for p in root.iterdir() if (m := re.match(r"(\d+)-", p.name))]
            for number in range(max([*taken, _retired(root)]) + 1, 10**6):
                path = root / f"{number:04d}-{name or f'{config.preset}-{config.data}'}"
                try:
                    path.mkdir()
                    break
                except FileExistsError:  # another process was faster
                    continue
            run = cls(path, config)
            try:
                for name, content in (files or {}).items():
                    (path / name).write_bytes(content)
                write_json(path / "config.json", config.model_dump(mode="json"))  # makes the folder a run
                run.set_status("created", images=0, seconds=0.0)
            except OSError:
                shutil.rmtree(path, ignore_errors=True)
                raise
        return run

    @classmethod
    def open(cls, ref: str | Path) -> Self:
        """Open a run by id, by number, or by folder. Raises NotFoundError, IntegrityError (another version's run)."""
        path = Path(ref).absolute()
        if not (path / "config.json").is_file():
            known = names()
            number = int(str(ref)) if str(ref).isdecimal() else None
            match = [r for r in known if r == str(ref) or int(r.split("-")[0]) == number]
            if not match:
                raise NotFoundError.named("run", str(ref), known, "See `kartina runs list`.")
            path = home() / "runs" / match[0]
        try:
            raw = json.loads((path / "config.json").read_text())
            if not isinstance(raw, dict):
                raise ValueError("found no JSON object")
            version = raw.get("format")
            if version != FORMAT:
                raise IntegrityError(
                    f"Found run {path.name} of format {version}, made by kartina {raw.get('kartina', '?')}; this "
                    f"version reads format {FORMAT}. Continue it with the version that made it, or train anew."
                )
            return cls(path, RunConfig.model_validate(raw))
        except ValidationError as error:
            raise IntegrityError(
                f"Found run {path.name} with an unusable config.json: {explain(error)}. Restore it or train anew."
            ) from None
        except ValueError as error:
            raise IntegrityError(
                f"Found run {path.name} with a config.json that cannot be read ({error}); restore it or train anew."
            ) from None

    def extend(self, images: int) -> Self:
        """The run with `images` in all to be seen, once it is trained on; as it is where it has as many already.

        What it has learnt so far stays, and from here on it is a function of the new config: a learning rate that falls
        towards the end rises again. Raises ConflictError while a process trains it, StorageError.
        """
        with self.lock(), disk_errors("extend the run"):
            now = type(self).open(self.path)
            if images <= now.config.images:
                return now
            config = now.config.model_copy(
                update={"images": images, "extended": (*now.config.extended, now.config.images)}
            )
            write_json(self.path / "config.json", config.model_dump(mode="json"))
            if now.status()["status"] == "finished":
                now.set_status("paused", total=images)
            return type(self)(self.path, config)

    def images_in(self, seconds: float) -> int:
        """As many images as the run has seen in that (active) time so far. Raises ConflictError before the first."""
        seen, active = int(self.status()["images"]), float(self.status()["seconds"])
        if not seen or not active:
            raise ConflictError(f"Found run {self.id} without any image seen, so its speed is unknown; give images.")
        return max(1, int(seconds * seen / active))

    def left(self, total: int) -> tuple[int, int]:
        """(images, sample grids) that are to come when it is trained to `total` images in all."""
        seen, grids = int(self.status()["images"]), self.config.train.grids
        return max(0, total - seen), grids - min(grids, int(seen / total * grids + 1e-9))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process. Raises ConflictError when another one trains it."""
        with disk_errors("lock the run"), (self.path / ".lock").open("w") as f:
            for attempt in range(10):  # a reader that looks whether it is locked holds it for an instant
                try:
                    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt < 9:
                        time.sleep(0.05)
            else:
                raise ConflictError(
                    f"Found run {self.id} being trained by another process; stop that one first (Ctrl-C saves it), "
                    f"or start a new run."
                )
            yield

    def locked(self) -> bool:
        """Whether some process trains it now."""
        try:
            with (self.path / ".lock").open("r") as f:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False

    def checkpoints(self) -> list[Path]:
        """The folders of its checkpoints, oldest first."""
        return sorted(p for p in (self.path / "checkpoints").glob("*") if p.name.isdigit())

    def sizes(self) -> list[tuple[int, dict[str, int]]]:
        """(images seen, bytes of each file) of its checkpoints, oldest first, but of one that goes meanwhile: a
        training removes its old ones."""
        found = []
        for folder in self.checkpoints():
            with suppress(FileNotFoundError):
                found.append((int(folder.name), {file.name: file.stat().st_size for file in folder.iterdir()}))
        return found

    # -- averages ------------------------------------------------------------------------------------------------

    def check_average(self, others: Sequence[RunFolder], with_training: bool) -> None:
        """Raise ConfigError where its weights cannot be averaged with those of `others`, as far as settings tell."""
        if len({one.path for one in (self, *others)}) <= len(others):
            raise ConfigError(f"Found a run twice among those to be averaged with {self.id}; name each once.")
        if others and with_training:
            raise ConfigError("Found with_training and average; what only trains is of one run. Leave one of them out.")
        for other in others:
            same = ("family", "data_hash", "spec")
            self.check_like(other, [k for k in same if getattr(self.config, k) != getattr(other.config, k)])

    def check_like(self, other: RunFolder, unlike: Sequence[str]) -> None:
        """Raise ConfigError where anything is unlike that has to be like in averaged runs."""
        if unlike:
            raise ConfigError(
                f"Found run {other.id}, whose {' and '.join(unlike)} are not those of run {self.id}; only weights of "
                "one network that has learnt from the same images can be averaged."
            )

    # -- status --------------------------------------------------------------------------------------------------

    def set_status(self, status: str, **fields: Any) -> None:
        write_json(self.path / "status.json", {**self._status(), "status": status, **fields})

    def _status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.path / "status.json").read_text())
            return found
        except (OSError, ValueError):
            return {}

    def status(self) -> dict[str, Any]:
        """status (running, interrupted, paused, finished, failed, created), images, seconds, warnings."""
        found = {"status": "created", "images": 0, "seconds": 0.0, "warnings": [], **self._status()}
        if found["status"] == "running" and not self.locked():
            found["status"] = "interrupted"
        return found

    def stats(self) -> list[dict[str, Any]]:
        """The lines of stats.jsonl, oldest first; a last line cut by a kill is left out."""
        path = self.path / "stats.jsonl"
        out = []
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                out.append(json.loads(line))
            except ValueError:
                break
        return out

    def data(self) -> ImageSet:
        """The data set it is trained on. Raises IntegrityError when the name now stands for other images."""
        data = open_set(self.config.data)
        if data.hash != self.config.data_hash:
            raise IntegrityError(
                f"Found data set {self.config.data!r} with hash {data.hash[:12]}; run {self.id} was trained on "
                f"{self.config.data_hash[:12]}. Import the original data again under that name."
            )
        return data


def picture(spec: ImageSpec) -> int:
    """Bytes of a sample grid, at most: without compression."""
    return GRID_COLUMNS * GRID_ROWS * spec.channels * (spec.height + 2) * (spec.width + 2)


def retire(path: Path) -> None:
    """A run's folder is about to go: its number is not given to another one, for which a job that names it could take
    that. Raises OSError."""
    number = int(path.name.partition("-")[0])
    if number > _retired(path.parent):
        (path.parent / RETIRED).write_text(str(number))


def _retired(root: Path) -> int:
    """The highest number of the runs that were deleted."""
    try:
        return int((root / RETIRED).read_text())
    except (OSError, ValueError):
        return 0


def names() -> list[str]:
    """Ids of all runs, oldest first."""
    root = home() / "runs"
    found = [p.parent.name for p in root.glob("*/config.json")] if root.is_dir() else []
    return sorted((n for n in found if re.match(r"\d+-", n)), key=lambda n: (int(n.split("-")[0]), n))


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader, or a kill, never meets half a file."""
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temp.open("w") as f:
            json.dump(value, f, indent=1)
        temp.replace(path)
    except OSError:
        temp.unlink(missing_ok=True)
        raise
