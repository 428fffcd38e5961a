"""Convolutions that a CPU computes well. Nothing here knows of energy models."""
