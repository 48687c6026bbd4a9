"""Differentiable transforms of images that training applies to real and generated alike."""
