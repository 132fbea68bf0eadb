"""Complexity of an image: entropy of its pixels and of its spectrum (v1 Eqs. 8 and 9, v2 Eqs. 7 and 8)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, ArrayLike, Float, Int

from puppet_jax.adaptation import depth_interval
from puppet_jax.checks import as_floats, as_integer, check_images, check_number

BINS = 256


def complexity(images: ArrayLike) -> Float[Array, " batch"]:
    """Complexity `H(X) = E(X) / 2 + E(Y(X)) / 2` of each image, in nats (v1 Eqs. 8 and 9).

    `E` is the entropy of the histogram of 256 bins over all pixels and channels; `Y` is `log1p` of the magnitude
    of the 2-D Fourier transform of each channel of the 8-bit values, scaled from its minimum and maximum over the
    image to 256 bins.

    Args:
        images: (batch, height, width, channels); uint8, or floating in [0, 1], which counts as `round(255 x)`.

    Returns:
        (batch,) float32, in [0, log 256], nats. Inside `jit`, an image with a pixel that is NaN or outside [0, 1]
        gives NaN.

    Raises:
        ValueError: if the rank is not 4, a dimension is 0, the dtype is neither uint8 nor floating, or (outside
            `jit`) a floating pixel is NaN or outside [0, 1].

    Example:
        >>> import numpy as np, puppet_jax as pj
        >>> pj.complexity(np.zeros((1, 8, 8, 3), np.uint8)).tolist()
        [0.0]

    References:
        Xing and Wang, Puppet-CNN: Input-Adaptive Convolutional Neural Networks with Model Compression using
        Ordinary Differential Equation, Sec. 3.4.
    """
    pixels, valid = to_8_bit(images)
    h = 0.5 * entropy(pixels) + 0.5 * _spectrum_entropy(pixels)
    return jnp.where(valid, h, jnp.nan)


@dataclasses.dataclass(frozen=True)
class CalibratedComplexity:
    """A complexity measure: `clip(scale * complexity(images) + offset, low, high)`.

    The papers' measure puts nearly all images of a data set into one or two depths; a calibrated one spreads them
    over as many as are wanted (see `calibrate`). Serves wherever `complexity` does (v2 Sec. 3.2).

    Attributes:
        scale: at least 0; a measure of scale 0 is constant.
        offset: nats.
        low: least value, at least 0.
        high: greatest value.
    """

    scale: float = 1.0
    offset: float = 0.0
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self):
        """Refuses values outside their range."""
        for name in ("scale", "offset", "low", "high"):
            check_number(name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        if not 0 <= self.scale < math.inf:
            raise ValueError(f"scale must be finite and at least 0, got {self.scale}.")
        if not math.isfinite(self.offset):
            raise ValueError(f"offset must be finite, got {self.offset}.")
        if not 0 <= self.low <= self.high:
            raise ValueError(f"low and high must satisfy 0 <= low <= high, got {self.low} and {self.high}.")

    @property
    def constant(self) -> float | None:
        """The value that every image gets, or None if they differ."""
        return min(max(self.offset, self.low), self.high) if self.scale == 0 else None

    def __call__(self, images: ArrayLike) -> Float[Array, " batch"]:
        """Calibrated complexity of each image, (batch,) float32; takes and refuses what `complexity` does."""
        if self.constant is not None:
            return jnp.full(len(check_images(images)), self.constant, jnp.float32)
        return jnp.clip(self.scale * complexity(images) + self.offset, self.low, self.high)


def calibrate(h: ArrayLike, min_depth: int, max_depth: int, quantile: float = 0.01) -> CalibratedComplexity:
    """The calibration that spreads images of complexities `h` over the depths `min_depth` to `max_depth`.

    Linear, so that order and relative distances stay: the `quantile` of `h` goes to the low end of the interval of
    `min_depth`, the `1 - quantile` to the high end of that of `max_depth`; what lies outside goes to the ends.

    Args:
        h: (images,) complexities of a training set, nats; at least two different values.
        min_depth: at least 1.
        max_depth: at least `min_depth`.
        quantile: in [0, 0.5).

    Returns:
        A `CalibratedComplexity`.

    Raises:
        ValueError: if the depths or the quantile are out of range, or the quantiles of `h` do not differ.
    """
    min_depth, max_depth = as_integer("min_depth", min_depth), as_integer("max_depth", max_depth)
    check_number("quantile", quantile)
    if min_depth > max_depth:
        raise ValueError(f"depths must satisfy min_depth <= max_depth, got {min_depth} and {max_depth}.")
    if not 0 <= quantile < 0.5:
        raise ValueError(f"quantile must be in [0, 0.5), got {quantile}.")
    values = as_floats("h", h, np.float64)
    if not values.size:
        raise ValueError("h must hold the complexities of images, got none.")
    low, high = np.quantile(values, [quantile, 1 - quantile])
    if not low < high:
        raise ValueError(f"h must spread for a calibration, but its quantiles are {low} and {high}.")
    first, last = depth_interval(min_depth)[0], depth_interval(max_depth)[1]
    scale = float((last - first) / (high - low))
    inside = 1e-4 * (last - first)  # the ends themselves may round to the neighbouring depth
    return CalibratedComplexity(scale, float(first - scale * low), first + inside, last - inside)


def to_8_bit(images: ArrayLike) -> tuple[Int[Array, "batch height width channels"], Array]:
    """The 8-bit values, and for each image whether all its values are those of an image."""
    images = check_images(images)
    if images.dtype == jnp.uint8:
        return jnp.asarray(images).astype(jnp.int32), jnp.ones(jnp.shape(images)[0], bool)
    x = jnp.asarray(images).astype(jnp.float32)
    inside = (x >= 0) & (x <= 1)
    return jnp.round(255.0 * jnp.where(inside, x, 0.0)).astype(jnp.int32), inside.all(axis=(1, 2, 3))


def spectrum_bins(pixels: Int[Array, "batch height width channels"]) -> Int[Array, "batch height width channels"]:
    """Y(X) of each image, in bins 0 to 255."""
    half, (height, width) = _half_spectrum_bins(pixels), pixels.shape[1:3]
    # real images: the entry of the frequency -f is the conjugate of that of f
    rest = half[:, -jnp.arange(height) % height, 1 : width - half.shape[2] + 1]
    return jnp.concatenate([half, rest[:, :, ::-1]], axis=2)


def _half_spectrum_bins(pixels: Int[Array, "batch height width channels"]) -> Int[Array, "batch height half channels"]:
    """The first width // 2 + 1 columns of Y(X)."""
    # In double precision, whatever JAX's default: in single precision the rounding of the transform moves magnitudes
    # across the borders of bins, and with them H by up to 3e-4 of itself, differently on every device.
    with jax.enable_x64(True):
        x = pixels.astype(jnp.float64)
        y = jnp.log1p(jnp.abs(jnp.fft.rfft2(x, axes=(1, 2))))
        low = y.min(axis=(1, 2, 3), keepdims=True)
        width = y.max(axis=(1, 2, 3), keepdims=True) - low
        scaled = (y - low) / jnp.where(width > 0, width, 1.0)
        return jnp.minimum(jnp.floor(scaled * BINS), BINS - 1).astype(jnp.int32)


def _spectrum_entropy(pixels: Int[Array, "batch height width channels"]) -> Float[Array, " batch"]:
    """E(Y(X)), from half of the spectrum: a column counts twice where the other half holds the same."""
    bins, width = _half_spectrum_bins(pixels), pixels.shape[2]
    columns = np.arange(bins.shape[2])
    return entropy(bins, np.where((columns == 0) | (2 * columns == width), 1, 2)[:, None])


def entropy(bins: Int[Array, "batch ..."], times: Int[np.ndarray, "..."] | int = 1) -> Float[Array, " batch"]:
    """-sum p log p of the histogram of each row (v1 Eq. 8).

    Args:
        bins: in [0, 255].
        times: how often each entry of a row counts, of its shape or one that broadcasts to it.
    """
    batch = bins.shape[0]
    rows, entries = jnp.arange(batch)[:, None], bins.reshape(batch, -1)
    added = jnp.broadcast_to(jnp.asarray(times, jnp.int32), bins.shape[1:]).reshape(1, -1)
    counts = jnp.zeros((batch, BINS), jnp.int32).at[rows, entries].add(added)
    p = counts.astype(jnp.float32) / np.float32(np.broadcast_to(times, bins.shape[1:]).sum())
    terms = xlogy(p, jnp.where(p > 0, p, 1.0))  # 0 log 0 = 0, and no infinity on the way
    return jnp.maximum(-terms.sum(axis=1), 0.0)  # kept from being -0 for an image of one value
