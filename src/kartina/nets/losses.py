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


def gradient_square(logits: Tensor, images: Tensor) -> Tensor:
    """|d logit_i / d image_i|^2 for each row, N: R1 is gamma/2 times its mean over real images (Mescheder 2018, eq. 9).

    `images` N,C,H,W must require gradients, and rows must not influence each other's logits (a minibatch statistic
    that does is counted as part of the gradient, as in Karras 2020). Keeps the graph, so that it can be minimised.
    """
    (grad,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return grad.square().sum(dim=tuple(range(1, grad.dim())))
