"""Run: the folder of one training (see `training.folder`) with what it has learnt."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kartina import registry
from kartina.errors import IntegrityError, NotFoundError
from kartina.generators.base import Family, build
from kartina.models import package
from kartina.models.package import PackageRef
from kartina.training import checkpoint
from kartina.training.folder import RunFolder, names


@dataclass(frozen=True)
class Run(RunFolder):
    """A run that can be sampled, evaluated and published."""

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


def find(ref: str) -> PackageRef | Run:
    """What a reference stands for: a model (name, name@2, hash, folder), else a run (id, number, folder).

    Raises NotFoundError naming both kinds when there is neither.
    """
    for kind in (package.find, Run.open):
        with suppress(NotFoundError):
            return kind(ref)
    known = list(dict.fromkeys(p.name for p in package.list_packages())) + names()
    raise NotFoundError.named("model or run", ref, known, "See `kartina models list` and `kartina runs list`.")
