"""Run: the folder of one training (see `training.folder`) with what it has learnt."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kartina import registry
from kartina.config import TrainConfig
from kartina.data.imageset import ImageSet
from kartina.data.loader import class_weights
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

    def trained(self, device: str = "cpu", others: Sequence[Run] = ()) -> tuple[Family, dict[str, Any]]:
        """`ema`, and the counters of the checkpoint that it was read from (images, seconds, ...).

        With other runs, the mean of its weights and theirs, all alike (Wortsman 2022, "Model soups"): of runs that went
        on from one start it is often better than each. Raises ConfigError for runs of other networks; what else can be
        wrong with them `check_average` says before.
        """
        self._check_stated(others)
        found = checkpoint.read(self.checkpoint())
        family = build(registry.family(self.config.family), self.config.config, self.config.spec).sampler()
        each = [found.tensors["ema"], *(self._alike(other, found.tensors["ema"]) for other in others)]
        fill(family, averaged(each), self.id)
        family.to(device)
        train, data = self.config.train, self.data().part("train")
        family.settle(data, torch.Generator().manual_seed(train.seed), label_share(train, data))
        return family.eval(), found.state

    def _check_stated(self, others: Sequence[Run]) -> None:
        """ConfigError for runs whose networks are of one shape, and mean something else."""
        family = registry.family(self.config.family)

        def stated(run: Run) -> dict[str, Any]:
            config: Any = family.Config.model_validate(run.config.config)
            return {key: getattr(config, key) for key in family.stated_by}

        mine = stated(self)
        for other in others:
            self.check_like(other, [key for key, value in stated(other).items() if value != mine[key]])

    def _alike(self, other: Run, mine: dict[str, Tensor]) -> dict[str, Tensor]:
        """The averaged weights of a run that has this one's networks; ConfigError for another."""
        found = checkpoint.read(other.checkpoint()).tensors["ema"]
        same = {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in found.items()}
        self.check_like(other, [] if same else ["networks"])
        return found


def label_share(train: TrainConfig, data: ImageSet) -> Tensor | None:
    """How often labels are drawn in training, K; None where that is as in `data`."""
    if train.labels == "data":
        return None
    return torch.from_numpy(class_weights(data.counts(), train.labels, train.temper)).float()


def averaged(found: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of networks' tensors by name; of what is no number with a fraction, the first's."""
    first = found[0]
    return {
        name: torch.stack([tensors[name].double() for tensors in found]).mean(dim=0).to(one.dtype)
        if len(found) > 1 and one.is_floating_point()
        else one
        for name, one in first.items()
    }


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
