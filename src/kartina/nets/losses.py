"""Adversarial losses on logits, and the gradient penalty: every GAN takes its own from here.

    name          discriminator                                    generator
    minimax       softplus(-D(x)) + softplus(D(G))                 -softplus(D(G))       Goodfellow 2014, eq. 1
    softplus      the same                                         softplus(-D(G))       Goodfellow 2014, section 3
    hinge         relu(1 - D(x)) + relu(1 + D(G))                  -D(G)                 Lim & Ye 2017
    relativistic  softplus(D(G) - D(x))                            softplus(D(x) - D(G)) Jolicoeur-Martineau 2019

softplus(-l) is -log sigmoid(l), so the first two are the paper's cross-entropies without a sigmoid to overflow. The
relativistic loss pairs row i of the real images with row i of the generated ones: they should share a label.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

AdversarialLoss = Literal["minimax", "softplus", "hinge", "relativistic"]


def d_loss(kind: AdversarialLoss, real: Tensor, fake: Tensor) -> Tensor:
    """What the discriminator minimises, from its logits N for real and generated images."""
    if kind == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def g_loss(kind: AdversarialLoss, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """What the generator minimises; `real` is needed (and used) by the relativistic loss alone."""
    if kind == "hinge":
        return -fake.mean()
    if kind == "relativistic":
        assert real is not None
        return F.softplus(real - fake).mean()
    if kind == "minimax":
        return -F.softplus(fake).mean()
    return F.softplus(-fake).mean()


def feature_matching(real: Tensor, fake: Tensor, y: Tensor | None = None) -> Tensor:
    """|E f(x) - E f(G(z))|^2 (Salimans 2016, section 3.1) from features N,A of real and of generated images.

    With label weights y N,K, which row i of both sides shares, the means are those within each class, and the squares'
    mean over the classes is estimated without bias, sum d_i.d_j <y_i, y_j> / sum <y_i, y_j> over i != j with
    d = real - fake: a batch holds a few images of a class, and the plain square of so small a mean would pull the
    generated ones together. Where no class is there twice, all pairs count: the mean of the whole batch is matched.
    """
    d = real.float() - fake.float()
    if y is None:
        return d.mean(dim=0).square().sum()
    with torch.autocast(d.device.type, enabled=False):
        same = y.float() @ y.float().T
        same = torch.where(same.sum() > same.trace(), same, torch.ones_like(same))
        same = same - same.diag().diag()
        return ((same @ d) * d).sum() / same.sum().clamp(min=1e-8)


def gradient_square(logits: Tensor, images: Tensor) -> Tensor:
    """|d logit_i / d image_i|^2 for each row, N: R1 is gamma/2 times its mean over real images (Mescheder 2018, eq. 9).

    `images` N,C,H,W must require gradients, and rows must not influence each other's logits (a minibatch statistic
    that does is counted as part of the gradient, as in Karras 2020). Keeps the graph, so that it can be minimised.
    """
    (grad,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return grad.square().sum(dim=tuple(range(1, grad.dim())))
