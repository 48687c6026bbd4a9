"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is a folder `checkpoints/<images>` with safetensors for the networks, the moving average and the
optimisers, and `state.json` with the counters and the SHA-256 of each file. It is written beside its place, flushed to
disk and renamed, so that a kill at any instant leaves either the whole of it or a `.tmp-` folder that the next start
removes. No random state is stored: all randomness is a function of (seed, step), see `training.loop`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kartina.errors import IntegrityError, disk_errors
from kartina.files import sync

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What `read` returns: tensors by file (model, ema, optim) and the counters."""

    tensors: dict[str, Tensors]
    state: dict[str, Any]


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def apart(group: Mapping[str, Tensor]) -> Tensors:
    """Tensors as safetensors takes them: on the CPU, contiguous, no two in the same storage."""
    out: Tensors = {}
    seen: set[int] = set()
    for key, value in group.items():
        tensor = value.detach().cpu().contiguous()
        out[key] = tensor.clone() if tensor.untyped_storage().data_ptr() in seen else tensor
        seen.add(tensor.untyped_storage().data_ptr())
    return out


def write(root: Path, tensors: Mapping[str, Tensors], state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `root/<state["images"]>` atomically and drop all but the newest `keep`. Raises StorageError.

    An intact checkpoint of the same step is left as it is: it holds the same.
    """
    target = root / f"{int(state['images']):012d}"
    if intact(target):
        return target
    temp = root / f".tmp-{os.getpid()}"
    with disk_errors("write a checkpoint"):
        try:
            shutil.rmtree(temp, ignore_errors=True)
            temp.mkdir(parents=True)
            files = {}
            for name, group in tensors.items():
                path = temp / f"{name}.safetensors"
                save_file(apart(group), path)
                with path.open("rb+") as f:
                    os.fsync(f.fileno())
                files[path.name] = sha256(path)
            with (temp / "state.json").open("w") as out:
                json.dump({**state, "files": files}, out, indent=1)
                out.flush()
                os.fsync(out.fileno())
            if target.exists():  # a damaged one of the same step: aside, so that one of the two is always there
                aside = root / f".tmp-old-{os.getpid()}"
                target.rename(aside)
                temp.rename(target)
                shutil.rmtree(aside)
            else:
                temp.rename(target)
            sync(root)
        except SafetensorError as error:
            shutil.rmtree(temp, ignore_errors=True)
            raise OSError(28, f"No space left on device: {error}") from error
        except OSError:
            shutil.rmtree(temp, ignore_errors=True)
            raise
        for old in sorted(p for p in root.iterdir() if p.name.isdigit() and p.name < target.name)[
            : -(keep - 1) or None
        ]:
            shutil.rmtree(old)
    return target


def clean(root: Path) -> None:
    """Remove what a killed process left half written."""
    for temp in root.glob(".tmp-*"):
        shutil.rmtree(temp, ignore_errors=True)


def newest(root: Path) -> Path | None:
    """The newest checkpoint whose files are what its record says; None when there are no checkpoints at all.

    Raises IntegrityError when there are some and all are damaged: starting over is for a person to decide.
    """
    folders = sorted((p for p in root.iterdir() if p.name.isdigit()), reverse=True) if root.is_dir() else []
    found = next((p for p in folders if intact(p)), None)
    if found is None and folders:
        raise IntegrityError(
            f"Found {len(folders)} checkpoints in {root}, none of them whole; restore one, or delete that "
            f"folder to train from the beginning."
        )
    return found


def intact(path: Path) -> bool:
    """Every file of the checkpoint is there and has its recorded hash."""
    try:
        files = json.loads((path / "state.json").read_text())["files"]
        return all(sha256(path / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError):
        return False


def read(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises IntegrityError where a file is damaged."""
    if not intact(path):
        raise IntegrityError(f"Found a damaged checkpoint at {path}; delete it: the one before it is then used.")
    state = json.loads((path / "state.json").read_text())
    return Checkpoint({Path(f).stem: load_file(path / f) for f in state["files"]}, state)


def pack_optimiser(optimiser: torch.optim.Optimizer, names: Mapping[int, str], prefix: str) -> Tensors:
    """An optimiser's state as flat tensors: `<prefix>/<parameter name>/<slot>`; names by id(parameter)."""
    return {
        f"{prefix}/{names[id(p)]}/{slot}": value
        for p, slots in optimiser.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def unpack_optimiser(optimiser: torch.optim.Optimizer, names: Mapping[int, str], prefix: str, flat: Tensors) -> None:
    """Put back what `pack_optimiser` took, in place."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        if key.startswith(prefix + "/"):
            name, _, slot = key[len(prefix) + 1 :].rpartition("/")
            by_name.setdefault(name, {})[slot] = value
    for group in optimiser.param_groups:
        for p in group["params"]:
            slots = by_name.get(names[id(p)])
            if slots:  # an optimiser that has not stepped yet has no state
                # Moments lie in memory as their parameter does; the fused step counter is a scalar beside it.
                optimiser.state[p] = {
                    k: v.to(p.device) if v.dim() == 0 else torch.empty_like(p).copy_(v) for k, v in slots.items()
                }
