"""Augmentation, on the device."""

import jax
import jax.numpy as jnp
from jax import Array

GREY = 128
"""What `cut_out` leaves of a pixel: about the mean of photographs."""


def shift(key: Array, images: Array, *, flip: bool) -> Array:
    """Each image moved by up to an eighth of its height either way (reflected border), mirrored half of the time."""
    batch, height, width, channels = images.shape
    padding = height // 8
    shift_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(shift_key, (batch, 2), 0, 2 * padding + 1)
    mirrored = jax.random.bernoulli(flip_key, shape=(batch,)) & flip
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")

    def one(image, corner, mirror):
        crop = jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))
        return jnp.where(mirror, crop[:, ::-1], crop)

    return jax.vmap(one)(padded, corners, mirrored)


def cut_out(key: Array, images: Array, size: int) -> Array:
    """A grey square of `size` pixels in each image, its centre anywhere, so that a part of it may lie outside.

    References:
        DeVries and Taylor, Improved regularization of convolutional neural networks with cutout, 2017.
    """
    batch, height, width, _ = images.shape
    limits = jnp.broadcast_to(jnp.array([height, width]), (batch, 2))
    centre = jax.random.randint(key, (batch, 2), 0, limits)
    first = centre - size // 2

    def inside(axis: int, length: int) -> Array:
        place = jnp.arange(length)[None] - first[:, axis, None]
        return (place >= 0) & (place < size)

    square = inside(0, height)[:, :, None, None] & inside(1, width)[:, None, :, None]
    return jnp.where(square, jnp.asarray(GREY, images.dtype), images)
