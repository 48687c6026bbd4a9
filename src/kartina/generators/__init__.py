"""The built-in families: importing this package registers them. One family, one file."""

from kartina.generators import dcgan, flow, vae

__all__ = ["dcgan", "flow", "vae"]
