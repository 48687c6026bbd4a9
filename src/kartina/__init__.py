"""Kartina."""
