"""DCGAN (Radford 2015), unconditional and class-conditional, with a recipe that does not collapse.

The nets are the paper's (nets/dcgan.py), for square images from 8 to 256; beta1 is 0.5. `conditional=false` is the
paper's unconditional model.

Recipe (`gamma`, `minibatch_std`, `translate`, `norm`): the paper's BatchNorm in D and loss alone drop modes of a class
within minutes. Here the loss is the paper's, with a lazy zero-centred gradient penalty (R1, Mescheder 2018), no
BatchNorm in D, a standard deviation over the minibatch with one more convolution behind it, and shifts by a few pixels
before D (DiffAugment). The presets also depart from the paper's batch of 128 and learning rate of 2e-4: within minutes
the count of updates is what is scarce (docs/LOG.md tells what was seen, also of `loss=relativistic`). The presets
without "-cpu" are the paper's: its widths, loss, BatchNorm, batch, rate and betas.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kartina.config import ImageSpec, Preset
from kartina.generators.adversarial import AdversarialConfig, AdversarialFamily
from kartina.nets.dcgan import Discriminator, DNorm, Generator, fitting, start
from kartina.registry import register


class DCGANConfig(AdversarialConfig):
    width: int = Field(64, ge=4, le=1024)  # channels at the full resolution's neighbour; doubles as the map halves
    width_max: int = Field(512, ge=4, le=4096)
    norm: DNorm = "none"  # in D
    minibatch_std: bool = True
    gamma: float = Field(0.3, ge=0, le=1e6)
    augment: Literal["none", "diffaugment", "ada"] = "diffaugment"
    translate: float = Field(0.06, ge=0, lt=1)
    cutout: float = Field(0.0, ge=0, lt=1)
    colour: float = Field(0.0, ge=0, le=1)


# What the paper's presets share; `conditional=false` is the model that it describes.
PAPER = dict(width_max=1024, norm="batch", minibatch_std=False, gamma=0.0, augment="none", beta2=0.999)
PAPER_TRAIN = dict(batch=128, lr=2e-4, ema=50_000)


@register("dcgan")
class DCGAN(AdversarialFamily):
    Config = DCGANConfig
    presets: ClassVar = {
        "dcgan-32-cpu": Preset(
            32,
            "conditional DCGAN for minutes of CPU: lazy R1, minibatch deviation, shifts",
            dict(width=64, width_max=256),
            dict(batch=32, lr=1.5e-3, ema=5000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1),
        ),
        "dcgan-64-cpu": Preset(
            64,
            "conditional DCGAN at 64 px for minutes of CPU",
            dict(width=48, width_max=256, gamma=1.0, translate=0.125),
            dict(batch=32, lr=1e-3, ema=5000, warmup=500, decay="linear", decay_from=0.5, decay_to=0.1),
        ),
        "dcgan-32": Preset(32, "DCGAN as published, one stage less", dict(width=256, **PAPER), PAPER_TRAIN),
        "dcgan-64": Preset(64, "DCGAN as published", dict(width=128, **PAPER), PAPER_TRAIN),
        "dcgan-128": Preset(128, "DCGAN as published, one stage more", dict(width=64, **PAPER), PAPER_TRAIN),
    }

    def __init__(self, config: DCGANConfig, spec: ImageSpec):
        super().__init__(config, spec)
        c, size = config, fitting(spec, "DCGAN")
        labels = self.classes if c.conditional else 0
        self.generator = Generator(c.z, c.width, c.width_max, size, spec.channels, self.classes)
        self.discriminator = Discriminator(c.width, c.width_max, size, spec.channels, labels, c.norm, c.minibatch_std)
        start(self.generator, self.discriminator, c.norm)
