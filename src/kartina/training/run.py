"""Run: the folder of one training, KARTINA_HOME/runs/ID.

    config.json      RunConfig: all that decides the weights
    start.safetensors    the weights that a transferred run starts from, see training.transfer
    status.json      status, images seen, active seconds, warnings, error
    stats.jsonl      one line per logging interval
    tensorboard/     the same for TensorBoard
    grids/           fixed-seed samples over time, <images>.png
    checkpoints/     see training.checkpoint

One process trains a run at a time (a lock on `.lock`); reading needs no lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from kartina import registry
from kartina.config import FORMAT, RunConfig, explain, home
from kartina.data.imageset import ImageSet, open_set
from kartina.errors import ConflictError, IntegrityError, NotFoundError, disk_errors
from kartina.files import make_folder
from kartina.generators.base import Family, build
from kartina.models import package
from kartina.models.package import PackageRef
from kartina.training import checkpoint


@dataclass(frozen=True)
class Run:
    path: Path
    config: RunConfig

    @property
    def id(self) -> str:
        return self.path.name

    # -- folders -------------------------------------------------------------------------------------------------

    @staticmethod
    def create(config: RunConfig, files: Mapping[str, bytes] | None = None) -> Run:
        """Make a new, numbered run folder for `config`, with `files` beside it from the beginning."""
        root = home() / "runs"
        with disk_errors("make the run's folder"):
            make_folder(root)
            taken = [int(m[1]) for p in root.iterdir() if (m := re.match(r"(\d+)-", p.name))]
            for number in range(max(taken, default=0) + 1, 10**6):
                path = root / f"{number:04d}-{config.preset}-{config.data}"
                try:
                    path.mkdir()
                    break
                except FileExistsError:  # another process was faster
                    continue
            run = Run(path, config)
            try:
                for name, content in (files or {}).items():
                    (path / name).write_bytes(content)
                write_json(path / "config.json", config.model_dump(mode="json"))  # makes the folder a run
                run.set_status("created", images=0, seconds=0.0)
            except OSError:
                shutil.rmtree(path, ignore_errors=True)
                raise
        return run

    @staticmethod
    def open(ref: str | Path) -> Run:
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
            return Run(path, RunConfig.model_validate(raw))
        except ValidationError as error:
            raise IntegrityError(
                f"Found run {path.name} with an unusable config.json: {explain(error)}. Restore it or train anew."
            ) from None
        except ValueError as error:
            raise IntegrityError(
                f"Found run {path.name} with a config.json that cannot be read ({error}); restore it or train anew."
            ) from None

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

    # -- weights -------------------------------------------------------------------------------------------------

    def data(self) -> ImageSet:
        """The data set it is trained on. Raises IntegrityError when the name now stands for other images."""
        data = open_set(self.config.data)
        if data.hash != self.config.data_hash:
            raise IntegrityError(
                f"Found data set {self.config.data!r} with hash {data.hash[:12]}; run {self.id} was trained on "
                f"{self.config.data_hash[:12]}. Import the original data again under that name."
            )
        return data

    def checkpoint(self) -> Path:
        """Its newest intact checkpoint; NotFoundError when there is none yet."""
        found = checkpoint.newest(self.path / "checkpoints")
        if found is None:
            raise NotFoundError(
                f"Found no checkpoint in run {self.id}; train it first: kartina train --resume {self.id}"
            )
        return found

    def ema(self, device: str = "cpu") -> Family:
        """The averaged weights of the newest checkpoint, settled: ready to sample, evaluate and package."""
        return self.trained(device)[0]

    def trained(self, device: str = "cpu") -> tuple[Family, dict[str, Any]]:
        """`ema`, and the counters of the checkpoint that it was read from (images, seconds, ...)."""
        found = checkpoint.read(self.checkpoint())
        family = build(registry.family(self.config.family), self.config.config, self.config.spec).sampler()
        fill(family, found.tensors["ema"], self.id)
        family.to(device)
        family.settle(self.data().part("train"), torch.Generator().manual_seed(self.config.train.seed))
        return family.eval(), found.state


def fill(family: Family, tensors: dict[str, Tensor], run: str) -> None:
    """Load a checkpoint's tensors. Raises IntegrityError where they are those of other networks."""
    try:
        family.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if len(str(error).splitlines()) > 1 else str(error)
        raise IntegrityError(
            f"Found a checkpoint of run {run} that does not fit the networks of this version ({first}). Continue it "
            f"with the version that made it, or train anew."
        ) from None


def names() -> list[str]:
    """Ids of all runs, oldest first."""
    root = home() / "runs"
    found = [p.parent.name for p in root.glob("*/config.json")] if root.is_dir() else []
    return sorted((n for n in found if re.match(r"\d+-", n)), key=lambda n: (int(n.split("-")[0]), n))


def find(ref: str) -> PackageRef | Run:
    """What a reference stands for: a model (name, name@2, hash, folder), else a run (id, number, folder).

    Raises NotFoundError naming both kinds when there is neither.
    """
    for kind in (package.find, Run.open):
        with suppress(NotFoundError):
            return kind(ref)
    known = list(dict.fromkeys(p.name for p in package.list_packages())) + names()
    raise NotFoundError.named("model or run", ref, known, "See `kartina models list` and `kartina runs list`.")


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
