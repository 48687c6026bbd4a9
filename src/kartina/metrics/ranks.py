"""Metrics over several processes: each sees its part of the images, all get the same number.

Parts are gathered in the order of ranks and merged by the same sums everywhere, so that every rank holds the same bits.
Where torch.distributed was not started, a process is alone and gets its own part back.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from kartina.metrics.fd import Moments

Array = NDArray[np.float64]


def alone() -> bool:
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def gather_moments(mine: Moments) -> Moments:
    """The moments of all ranks' features: d and d,d numbers travel, no features."""
    if alone():
        return mine
    counts = _gather(torch.tensor([mine.n], dtype=torch.int64))
    means = _gather(torch.from_numpy(np.ascontiguousarray(mine.mean)))
    scatters = _gather(torch.from_numpy(np.ascontiguousarray(mine.scatter)))
    parts = [Moments(int(n), m.numpy(), s.numpy()) for n, m, s in zip(counts, means, scatters, strict=True)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.merge(part)
    return whole


def gather_rows(mine: Array) -> Array:
    """All ranks' rows n,d, rank by rank; ranks may hold unequal numbers of them, also none."""
    if alone():
        return mine
    counts = [int(n) for n in _gather(torch.tensor([len(mine)], dtype=torch.int64))]
    padded = np.zeros((max(counts), *mine.shape[1:]), mine.dtype)
    padded[: len(mine)] = mine
    parts = _gather(torch.from_numpy(padded))
    return np.concatenate([part.numpy()[:n] for part, n in zip(parts, counts, strict=True)])


def _gather(mine: Tensor) -> list[Tensor]:
    """Every rank's tensor (equal shapes), on the CPU; NCCL moves tensors of its device only."""
    here = mine.cuda() if dist.get_backend() == "nccl" else mine
    parts = [torch.empty_like(here) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, here)
    return [part.cpu() for part in parts]
