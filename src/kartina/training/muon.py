"""Muon (Jordan 2024): momentum whose matrices are made orthogonal before they are taken as a step.

A gradient's matrix has few strong directions; Adam follows those, and Muon gives all of them the same length. On the
small denoising networks here it needs less than half of the images (docs/LOG.md). The algorithm is that of
`torch.optim.Muon`; what is different is what suits small networks on any device: matrices of one shape are made
orthogonal together, in the precision that the device computes in (torch's are always bfloat16). Here is also what it
wants of a network: kernels seen as matrices, out x (in * height * width), and a choice of parameters. Vectors and the
thin matrices of first and last layers and label embeddings stay Adam's.

`lr` is Adam's: with steps of 0.2 sqrt(longer side) an update is as large as one of Adam's (Liu 2025, "Muon is
scalable", eq. 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
THIN = 32  # a matrix with a side below this has no directions to spare
STEPS = 5  # of Newton and Schulz
QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b, c of a X + b (X X^T) X + c (X X^T)^2 X: steep at 0 (Jordan 2024)


def suits(p: Tensor) -> bool:
    """Whether a parameter is a matrix, or a kernel that can be seen as one, with both sides at least THIN."""
    return p.dim() in (2, 4) and min(p.shape[0], p[0].numel()) >= THIN


def flat(p: Tensor) -> Tensor:
    """A matrix N,M or a kernel N,C,H,W -> N,C*H*W, in the order of its memory: a view of a dense parameter."""
    if p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last):
        p = p.permute(0, 2, 3, 1)
    return p.reshape(len(p), -1)


def orthogonal(x: Tensor) -> Tensor:
    """Nearly U V^T of matrices x B,N,M = U S V^T with N <= M: singular values end between 0.68 and 1.13."""
    a, b, c = QUINTIC
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value is above 1
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Muon on `parameters`, each seen as a matrix; `matrices` are those views, in the same order."""

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        momentum: float = MOMENTUM,
        weight_decay: float = 0.0,
        precision: torch.dtype = torch.float32,
    ):
        self.parameters = list(parameters)
        self.matrices = [nn.Parameter(flat(p.detach())) for p in self.parameters]
        self.precision = precision
        super().__init__(self.matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]

        # Nesterov's momentum; wide matrices, those of one shape together.
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p, matrix in zip(self.parameters, self.matrices, strict=True):
            if p.grad is None:
                continue
            if p.dim() == 4:  # in the order of the parameter's memory, whatever the gradient's is
                grad = flat(torch.empty_like(p).copy_(p.grad))
            else:
                grad = p.grad
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(grad)
            mean = state["momentum_buffer"].lerp_(grad, 1 - momentum)
            update, view = grad.lerp(mean, momentum), matrix.detach()
            if update.shape[0] > update.shape[1]:
                update, view = update.mT, view.mT
            alike.setdefault((update.shape[0], update.shape[1]), []).append((view, update))

        for (_, longer), found in alike.items():
            moves = orthogonal(torch.stack([update for _, update in found]).to(self.precision))
            for (view, _), move in zip(found, moves, strict=True):
                view.mul_(1 - lr * decay).add_(move, alpha=-lr * 0.2 * math.sqrt(longer))
