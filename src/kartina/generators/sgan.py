"""SGAN: a GAN whose discriminator is the classifier, so that unlabelled images help it (Odena 2016; Salimans 2016).

The discriminator knows K + 1 classes: those of the data, and "generated". A softmax over K + 1 logits has one too many,
so the last is fixed at 0 (Salimans 2016, section 5). With l the K logits and Z their log-sum-exp,

    log p(y|x, y<=K) = l_y - Z      log p_{K+1} = -softplus(Z)      log(1 - p_{K+1}) = -softplus(-Z)
    log p_y = l_y - softplus(Z)

so Z is the logit of "real", and D's losses are

    labelled real     -log p(y|x, y<=K)    cross-entropy over K classes, on `labels_used` images
    unlabelled real   -log(1 - p_{K+1})    with the next line: the softplus loss of every GAN, on Z
    generated         -log p_{K+1}

Which images are labelled is chosen once, stratified, from the run's seed. Their pixels are kept in a buffer and every
update of D draws some of them: of 25 labels in 54,000 images the stream would hardly ever show one. The labels of the
stream are not looked at one by one, unless `labels_used` is 0: then all of them are. How frequent each class is counts
as known, by all labels: it is the law of G's labels and of the `information` term; and with labels=balanced or tempered
the stream itself is drawn by it.

G, conditional (the default): it minimises -log p_y, D's own word for "a real image of class y". G, unconditional
(`conditional=false`): feature matching, |E f(x) - E f(G(z))|^2 on D's last hidden layer (Salimans 2016, section 3.1).
That G knows no classes; one is drawn from it by drawing several images and keeping the one that the classifier finds
most like it (`candidates`). The conditional G may be sampled in this way, too.

D is the classifier of Salimans 2016 made small: strided convolutions with weight normalisation, and dropout. Where this
departs (docs/LOG.md tells what was seen; `kernels=0 information=0 unlabelled=1` switches the first two off):

- Minibatch discrimination (section 3.2 there) against collapse within a class. A classifier must not look at its
  neighbours, so it adds one number to all K logits of a row: Z moves, p(y|x, y<=K) does not. Sampling and `classify`
  leave it out.
- The `information` term: on unlabelled images the classifier should be sure of each and, over all, name every class as
  often as it is (Springenberg 2016, CatGAN, eq. 7). In minutes of CPU the GAN's losses alone do not help a classifier
  of few labels; with that term they do.
- Fewer layers, no initialisation from data, a lazy gradient penalty on Z; the classifier that is kept is the moving
  average. Labelled images are not augmented: shifts and flips make few labels worse where images stand alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from kartina.config import ImageSpec, Preset
from kartina.data.subset import stratified
from kartina.errors import ConfigError
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.generators.base import (
    At,
    Batch,
    Capability,
    LatentControls,
    Loss,
    Row,
    State,
    from_uint8,
    noise,
    to_uint8,
)
from kartina.nets.dcgan import Generator, fitting, stages
from kartina.nets.layers import MinibatchDiscrimination
from kartina.nets.losses import d_loss, feature_matching
from kartina.registry import register

RAMP = 2000  # images over which the information term comes in: at first the classifier is sure of nothing


class SGANConfig(AdversarialConfig):
    width: int = Field(32, ge=4, le=1024)  # channels at the full resolution's neighbour; doubles as the map halves
    width_max: int = Field(256, ge=4, le=4096)
    labels_used: int = Field(0, ge=0, le=10_000)  # training images whose label is known; 0 = all of them
    labelled: float = Field(1.0, gt=0, le=16)  # labelled images in an update of D, as a share of the batch
    unlabelled: float = Field(0.3, gt=0, le=1e3)  # weight of D's losses on unlabelled and generated images
    information: float = Field(1.0, ge=0, le=1e3)  # weight of certainty and balance on unlabelled images; 0 = none
    kernels: int = Field(32, ge=0, le=1024)  # of minibatch discrimination; 0 = none
    kernel_dims: int = Field(5, ge=1, le=64)
    dropout: float = Field(0.2, ge=0, lt=1)  # in D, before all but the first two layers
    loss: Literal["softplus"] = "softplus"  # on Z it is the K + 1 softmax; others are not
    gamma: float = Field(0.1, ge=0, le=1e6)
    penalty_every: int = Field(8, ge=2, le=1000)


# -- the K + 1 softmax -------------------------------------------------------------------------------------------------


def log_p(logits: Tensor) -> Tensor:
    """log p_y for y = 1..K under the K + 1 softmax whose last logit is 0: float N,K -> N,K."""
    return logits - F.softplus(logits.logsumexp(dim=1, keepdim=True))


def labelled_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log p(y|x, y<=K) over the rows whose label is not -1: float N,K and int64 N -> scalar."""
    known = (labels >= 0).sum().clamp(min=1)
    return F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / known


def information_loss(logits: Tensor, prior: Tensor) -> Tensor:
    """E H(p(y|x)) + KL(E p(y|x) || prior): float N,K and K -> scalar, for images of unknown class.

    With a uniform prior it is CatGAN's (Springenberg 2016, eq. 7) up to log K: minus the mutual information between
    image and class.
    """
    log = logits.log_softmax(dim=1)
    p = log.exp()
    mean = p.mean(dim=0)
    each = -(p * log).sum(dim=1).mean()
    return each + (mean * (mean.clamp(min=1e-12).log() - prior.clamp(min=1e-12).log())).sum()


# -- networks ----------------------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """Images N,C,H,W in [-1, 1] -> Z, the logit of "real": N. `logits` gives what a row says of the classes, alone."""

    def __init__(self, config: SGANConfig, size: int, channels: int, labels: int):
        super().__init__()
        widths = stages(config.width, config.width_max, size)
        last = widths[-1]
        convs = [nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip([channels, *widths], widths, strict=False)]
        convs.append(nn.Conv2d(last, last, 3, padding=1))
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, a=0.2)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.convs = nn.ModuleList(nn.utils.parametrizations.weight_norm(conv) for conv in convs)
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Linear(last * 16, labels)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.constant_(self.head.bias, -math.log(labels))  # Z starts near 0: undecided
        self.near = MinibatchDiscrimination(last * 16, config.kernels, config.kernel_dims) if config.kernels else None
        self.crowd = nn.Linear(config.kernels, 1, bias=False) if config.kernels else None

    def features(self, x: Tensor) -> Tensor:
        """f(x): the last hidden layer, flat. N,C,H,W -> N,A."""
        for i, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(self.drop(x) if i > 1 else x), 0.2)
        return x.flatten(1)

    def classes(self, f: Tensor) -> Tensor:
        """l from f N,A: float32 N,K."""
        logits: Tensor = self.head(self.drop(f))
        return logits.float()

    def together(self, f: Tensor) -> Tensor:
        """l of the rows of one batch, real or generated, each moved as a whole by how near the others are."""
        logits = self.classes(f)
        if self.near is None or self.crowd is None:
            return logits
        shift: Tensor = self.crowd(self.near(f) / max(1, len(f) - 1))  # N,1
        return logits + shift.float()

    def logits(self, x: Tensor) -> Tensor:
        """l of images N,C,H,W: float32 N,K; a row is a function of its own image."""
        return self.classes(self.features(x))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.together(self.features(x)).logsumexp(dim=1)


class GuidedControls(LatentControls):
    candidates: int = Field(
        1, ge=1, le=64, description="Images drawn for each one: kept is what the classifier finds most like its class"
    )


class SelectedControls(GuidedControls):
    candidates: int = Field(16, ge=1, le=64, description=GuidedControls.model_fields["candidates"].description)


HOURS: dict[str, Any] = dict(width_max=768, kernels=100)
HOURS_TRAIN: dict[str, Any] = dict(batch=64, lr=3e-4, ema=50_000)


@register("sgan")
class SGAN(AdversarialFamily):
    Config = SGANConfig
    parts = ("generator", "discriminator")  # the classifier is half of what was learnt, and it picks candidates
    config: SGANConfig
    discriminator: Classifier
    labelled_ids: Tensor
    labelled_labels: Tensor
    labelled_images: Tensor
    presets: ClassVar = {
        "sgan-32-cpu": Preset(
            32,
            "semi-supervised: a classifier and a conditional generator from few labels (--set labels_used=100)",
            dict(width=32, width_max=128),
            dict(batch=32, lr=1e-3, ema=5000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1, flip="off"),
        ),
        "sgan-64-cpu": Preset(
            64,
            "semi-supervised at 64 px for minutes of CPU",
            dict(width=24, width_max=192),
            dict(batch=32, lr=1e-3, ema=5000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1, flip="off"),
        ),
        "sgan-32": Preset(32, "semi-supervised, for a GPU", dict(width=96, **HOURS), HOURS_TRAIN),
        "sgan-64": Preset(64, "semi-supervised at 64 px, for a GPU", dict(width=96, **HOURS), HOURS_TRAIN),
        "sgan-128": Preset(128, "semi-supervised at 128 px, for a GPU", dict(width=48, **HOURS), HOURS_TRAIN),
    }

    def __init__(self, config: SGANConfig, spec: ImageSpec):
        super().__init__(config, spec)
        size = fitting(spec, "SGAN")
        self.generator = Generator(config.z, config.width, config.width_max, size, spec.channels, self.classes)
        for m in self.generator.modules():
            if isinstance(m, nn.ConvTranspose2d):
                nn.init.normal_(m.weight, std=0.02)
        self.discriminator = Classifier(config, size, spec.channels, self.classes)
        # What is labelled: place in the train split, label, image. -1 = not chosen yet.
        n = config.labels_used
        self.register_buffer("labelled_ids", torch.full((n,), -1))
        self.register_buffer("labelled_labels", torch.full((n,), -1))
        self.register_buffer("labelled_images", torch.zeros(n, *spec.shape, dtype=torch.uint8))

    # -- training ------------------------------------------------------------------------------------------------------

    def setup(self, data: Any, rng: torch.Generator) -> None:
        """Choose the labelled images: stratified, a function of the run's seed."""
        n = self.config.labels_used
        if not n:
            return
        if data.labels is None:
            raise ConfigError(f"Found labels_used={n} and data without classes; train with --set labels_used=0.")
        ids = stratified(data.labels, n, rng.initial_seed())
        self.labelled_ids.copy_(torch.from_numpy(ids))
        self.labelled_labels.copy_(torch.from_numpy(data.labels[ids]))
        self.labelled_images.copy_(torch.from_numpy(data.images[ids]))

    def label(self, batch: Batch, at: At) -> Tensor:
        """What G is asked to make: drawn by class frequency; the labels of the batch may be unknown."""
        drawn = at.labels(len(batch)) if self.classes > 1 else torch.zeros_like(batch.labels)
        return super().label(replace(batch, labels=drawn), at)

    def labelled_batch(self, batch: Batch, at: At) -> tuple[Tensor, Tensor]:
        """Images N,C,H,W in [-1, 1] and labels N for the first loss, drawn from the labelled ones."""
        if not self.config.labels_used:
            return batch.images, batch.labels
        n = max(1, round(len(batch) * self.config.labelled))
        pick = torch.randint(self.config.labels_used, (n,), generator=at.rng, device=self.device)
        return from_uint8(self.labelled_images[pick]), self.labelled_labels[pick]

    def loss_D(self, batch: Batch, y: Tensor, at: At) -> Loss:
        with torch.no_grad():
            fake = self.fake(y, at)
        images, labels = self.labelled_batch(batch, at)
        seen = [images, self.augmented(batch.images, at), self.augmented(fake, at).to(images.dtype)]
        d = self.discriminator
        f_known, f_real, f_made = torch.split(d.features(torch.cat(seen)), [len(part) for part in seen])
        known, real, made = d.classes(f_known), d.together(f_real), d.together(f_made)

        supervised = labelled_loss(known, labels)
        z_real, z_made = real.logsumexp(dim=1), made.logsumexp(dim=1)
        total = supervised + self.config.unlabelled * d_loss("softplus", z_real, z_made)
        right = (known.argmax(dim=1) == labels).float()
        stats = {"labelled": supervised, "labelled_accuracy": right, "real": z_real, "fake": z_made}
        if self.config.information and self.classes > 1:
            information = self.information(real, at)
            total = total + information
            stats["information"] = information
        stats |= {"loss_D": total, "sign_real": z_real.sign()}
        return Loss(total, {k: v.detach().mean() for k, v in stats.items()})

    def information(self, logits: Tensor, at: At) -> Tensor:
        """`information_loss` of unlabelled images with its weight, which rises over the first RAMP images."""
        return self.config.information * min(1.0, at.images / RAMP) * information_loss(logits, at.class_weights)

    def g_loss(self, fake: Tensor, batch: Batch, y: Tensor, at: At) -> Tensor:
        d = self.discriminator
        f_made = d.features(self.augmented(fake, at))
        if self.config.conditional:
            return -(y * log_p(d.together(f_made))).sum(dim=1).mean()
        with torch.no_grad():
            f_real = d.features(self.augmented(batch.images, at))
        return feature_matching(f_real, f_made)

    # -- the classifier ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def classify(self, images: Tensor) -> Tensor:
        """Class logits of images, without dropout: float N,C,H,W in [-1, 1] -> float32 N,K."""
        training = self.discriminator.training
        logits = self.discriminator.eval().logits(images.to(self.device))
        self.discriminator.train(training)
        return logits

    # -- sampling: a step draws one candidate, the best so far is kept -------------------------------------------------

    @property
    def labelled(self) -> bool:
        """Also of the unconditional G, the classifier picks images of the class."""
        return len(self.spec.classes) > 1

    def capabilities(self) -> dict[str, Capability]:
        """On the way between two images none is chosen, since the way would jump from candidate to candidate: without
        classes of its own, the generator has no way from an image of a class."""
        if not self.config.conditional:
            return {"generate": Capability(controls=SelectedControls)}
        return {**self.makes(LatentControls), "generate": Capability(controls=GuidedControls)}

    def start(self, rows: Sequence[Row]) -> State:
        if rows[0].task == "interpolate":
            return super().start(rows)
        steps = torch.tensor([row.controls.candidates for row in rows], device=self.device)
        return State(
            {
                "y": self.weights(rows),
                "seed": torch.tensor([row.seed for row in rows], device=self.device),
                "spread": torch.tensor([[float(row.controls.spread)] for row in rows], device=self.device),
                "x": torch.zeros(len(rows), *self.spec.shape, device=self.device),
                "best": torch.full((len(rows),), -torch.inf, device=self.device),
                "step": torch.zeros_like(steps),
                "steps": steps,
            }
        )

    def step(self, state: State) -> State:
        """Candidate i of a row comes from the row's own seed: the plain image is candidate 0."""
        if "z" in state.tensors:  # of an interpolation
            return super().step(state)
        left = ~state.done
        if not bool(left.any()):
            return state
        rows = state.take(left)
        turns = zip(rows["seed"].tolist(), rows["step"].tolist(), strict=True)
        z = torch.stack([noise(seed, "z", i, (self.config.z,)) for seed, i in turns]).to(self.device)
        x = self.decode(z * rows["spread"], self.condition(rows["y"]))
        score = (rows["y"] * log_p(self.discriminator.logits(x))).sum(dim=1)
        better = (score > rows["best"]) | (rows["step"] == 0)
        kept = rows.replace(
            x=torch.where(better[:, None, None, None], x, rows["x"]),
            best=torch.where(better, score, rows["best"]),
            step=rows["step"] + 1,
        )
        return state.put(left, kept)

    def preview(self, state: State) -> Tensor | None:
        return to_uint8(state["x"])
