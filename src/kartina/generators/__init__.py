"""The built-in families: importing this package registers them. One family, one file."""

from kartina.generators import biggan, dcgan, flow, pix2pix, vae

__all__ = ["biggan", "dcgan", "flow", "pix2pix", "vae"]
