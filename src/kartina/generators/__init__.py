"""The built-in families: importing this package registers them. One family, one file."""

from kartina.generators import (
    biggan,
    dcgan,
    ddpm,
    edm,
    flow,
    gan,
    improved_gan,
    meanflow,
    pix2pix,
    r3gan,
    sgan,
    stylegan2_ada,
    vae,
)

__all__ = [
    "biggan",
    "dcgan",
    "ddpm",
    "edm",
    "flow",
    "gan",
    "improved_gan",
    "meanflow",
    "pix2pix",
    "r3gan",
    "sgan",
    "stylegan2_ada",
    "vae",
]
