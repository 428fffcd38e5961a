"""Convolutions that are fast on a CPU; they know nothing of energy models.

`conv_general_dilated` stands in for that of `jax.lax`, for instance in Flax's layers.
"""

from ebmjax.kernels.conv import conv_general_dilated as conv_general_dilated
