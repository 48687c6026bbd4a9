"""Muon (Jordan 2024): momentum whose matrices are made orthogonal before they are taken as a step.

A gradient's matrix has few strong directions; Adam follows those, and Muon gives all of them the same length. On the
small denoising networks here it needs less than half of the images (docs/LOG.md). The algorithm is that of
`torch.optim.Muon`; what is different is what suits small networks on any device: the iteration runs on the small
square X X^T instead of X, for all matrices of one short side together, and in float32 (torch's is in bfloat16, which a
CPU may only imitate). Here is also what it wants of a network: kernels seen as matrices, out x (in * height * width),
and a choice of parameters. Vectors, thin matrices and embeddings of labels stay Adam's: a first layer is one of them
where few channels come in, a last one where few go out.

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
EMBEDDINGS = frozenset(("label", "told", "prior", "shared"))  # modules whose rows are looked up, each by itself
STEPS = 5  # of Newton and Schulz
QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b, c of a X + b (X X^T) X + c (X X^T)^2 X: steep at 0 (Jordan 2024)


def suits(name: str, p: Tensor) -> bool:
    """Whether a parameter is a matrix, or a kernel that can be seen as one, with both sides at least THIN, and no
    embedding, however many classes there are."""
    return p.dim() in (2, 4) and min(p.shape[0], p[0].numel()) >= THIN and not EMBEDDINGS & {*name.split(".")}


def flat(p: Tensor) -> Tensor:
    """A matrix N,M or a kernel N,C,H,W -> N,C*H*W, in the order of its memory: a view of a dense parameter."""
    if p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last):
        p = p.permute(0, 2, 3, 1)
    return p.reshape(len(p), -1)


def polar(gram: Tensor) -> Tensor:
    """Q B,N,N of X X^T B,N,N, for matrices X B,N,M of norm 1 or less, so that Q X is nearly U V^T of X = U S V^T.

    Newton's and Schulz's X <- P X with P = a I + b G + c G^2 and G = X X^T never needs X itself: G becomes P G P. The
    singular values of Q X are between 0.68 and 1.13, but for those that were next to nothing in X.
    """
    a, b, c = QUINTIC
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    q = eye.expand_as(gram)
    for step in range(STEPS):
        p = torch.baddbmm(torch.add(a * eye, gram, alpha=b), gram, gram, alpha=c)
        q = p if step == 0 else p @ q
        if step < STEPS - 1:
            gram = p @ gram @ p
    return q


class Muon(torch.optim.Optimizer):
    """Muon on `parameters`, each seen as a matrix; `matrices` are those views, in the same order."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, momentum: float = MOMENTUM, weight_decay: float = 0.0
    ):
        self.parameters = list(parameters)
        self.matrices = [nn.Parameter(flat(p.detach())) for p in self.parameters]
        super().__init__(self.matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        lr, momentum = group["lr"], group["momentum"]
        live = [(p, m) for p, m in zip(self.parameters, self.matrices, strict=True) if p.grad is not None]
        if not live:
            return

        # Nesterov's momentum.
        grads = [laid_out(p) for p, _ in live]
        for (_, matrix), grad in zip(live, grads, strict=True):
            if not self.state[matrix]:
                self.state[matrix]["momentum_buffer"] = torch.zeros_like(grad)
        means = [self.state[matrix]["momentum_buffer"] for _, matrix in live]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        updates = torch._foreach_lerp(grads, means, momentum)
        torch._foreach_div_(updates, [n.clamp(min=1e-7) for n in torch._foreach_norm(updates)])

        # All wide, those of one short side together.
        alike: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for (_, matrix), update in zip(live, updates, strict=True):
            pair = (matrix, update) if update.shape[0] <= update.shape[1] else (matrix.mT, update.mT)
            alike.setdefault(len(pair[1]), []).append(pair)
        for found in alike.values():
            for (wide, update), q in zip(found, polar(torch.stack([x @ x.mT for _, x in found])), strict=True):
                step = lr * 0.2 * math.sqrt(update.shape[1])
                wide.addmm_(q, update, beta=1 - lr * group["weight_decay"], alpha=-step)


def laid_out(p: nn.Parameter) -> Tensor:
    """The gradient as a matrix, in the order of the parameter's memory, whatever its own is."""
    assert p.grad is not None
    return flat(p.grad if p.grad.stride() == p.stride() else torch.empty_like(p).copy_(p.grad))
