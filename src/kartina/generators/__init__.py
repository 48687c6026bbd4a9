"""The built-in families: importing this package registers them. One family, one file."""

from kartina.generators import dcgan, flow, pix2pix, vae

__all__ = ["dcgan", "flow", "pix2pix", "vae"]
