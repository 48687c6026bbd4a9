"""Muon (Jordan 2024): momentum whose matrices are made orthogonal before they are taken as a step.

A gradient's matrix has few strong directions; Adam follows those, and Muon gives all of them the same length. On the
small denoising networks here it needs less than half of the images (docs/LOG.md). The algorithm is PyTorch's; here is
what it wants of a network: kernels seen as matrices, out x (in * height * width), and a choice of parameters. Vectors
and the thin matrices of first and last layers and label embeddings stay Adam's.

`lr` is Adam's: with `match_rms_adamw` an update is as large as one of Adam's (Liu 2025, "Muon is scalable", eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
THIN = 32  # a matrix with a side below this has no directions to spare


def suits(p: Tensor) -> bool:
    """Whether a parameter is a matrix, or a kernel that can be seen as one, with both sides at least THIN."""
    return p.dim() in (2, 4) and min(p.shape[0], p[0].numel()) >= THIN


def flat(p: Tensor) -> Tensor:
    """A matrix N,M or a kernel N,C,H,W -> N,C*H*W, in the order of its memory: a view of a dense parameter."""
    if p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last):
        p = p.permute(0, 2, 3, 1)
    return p.reshape(len(p), -1)


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` on `parameters`, each seen as a matrix; `matrices` are those views, in the same order."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, momentum: float, weight_decay: float):
        self.parameters = list(parameters)
        self.matrices = [nn.Parameter(flat(p.detach())) for p in self.parameters]
        super().__init__(
            self.matrices, lr=lr, momentum=momentum, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.parameters:
            p.grad = None

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for p, matrix in zip(self.parameters, self.matrices, strict=True):
            grad = p.grad
            if grad is not None and p.dim() == 4:  # in the order of the parameter's memory, whatever the gradient's is
                grad = flat(torch.empty_like(p).copy_(grad))
            matrix.grad = grad
        super().step(closure)  # type: ignore[no-untyped-call]
