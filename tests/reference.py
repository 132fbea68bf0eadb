"""Plain NumPy versions of the equations, written from the mathematics alone and never from the library.

Everything is computed in float64 with the simplest code that is fast enough for 512 channels. The library is
held against these functions, so nothing here may import it.
"""

import math

import numpy as np

EPSILON = 1e-5
"""Added to the variance by both norms of the field."""


def relative_error(actual, expected):
    """Largest absolute difference, as a fraction of the largest expected magnitude."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shapes differ: {actual.shape} and {expected.shape}"
    return np.max(np.abs(actual - expected)) / max(np.max(np.abs(expected)), 1e-300)


# Complexity, Equations 8 and 9.


def entropy(values):
    """Eq. 8: -sum p log p over the 256-bin histogram of `values` (uint8, any shape), in nats."""
    counts = np.bincount(np.asarray(values, np.uint8).ravel(), minlength=256)
    p = counts[counts > 0] / counts.sum()
    return float(np.sum(-p * np.log(p)))


def log_spectrum(image):
    """log1p of the 2-D Fourier magnitudes of each channel of an image (H, W, C), as (C, H, W)."""
    channels = np.moveaxis(image.astype(np.float64), 2, 0)
    return np.log1p(np.abs(np.stack([np.fft.fft2(channel) for channel in channels])))


def spectrum_bins(image):
    """The log-magnitudes in 256 equal bins between their least and their greatest."""
    spectrum = log_spectrum(image)
    low, high = spectrum.min(), spectrum.max()
    if high == low:
        return np.zeros(spectrum.shape, np.uint8)
    return np.minimum(np.floor((spectrum - low) / (high - low) * 256), 255).astype(np.uint8)


def complexity(images):
    """Eq. 9: half the entropy of the pixels and half that of the spectrum, for images (B, H, W, C)."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = np.round(images.astype(np.float64) * 255).astype(np.uint8)
    return np.array([0.5 * entropy(image) + 0.5 * entropy(spectrum_bins(image)) for image in images])


# Adaptation, Equations 10 and 11. Scalars.


def step_size(h):
    """Eq. 10: tanh(1/h), whose limit at zero is 1."""
    return 1.0 if h == 0 else math.tanh(1 / float(h))


def depth(h):
    """Eq. 10: the number of whole steps in the unit interval, at least 1."""
    return max(1, math.floor(1 / step_size(h)))


def initial_level(h):
    """Eq. 11: exp(1 - h⁻²), whose limit at zero is 0."""
    h = float(h)
    return 0.0 if h < 1e-9 else math.exp(max(1 - h**-2, -745.0))


# Projection.


def adaptive_average_pool(x, shape):
    """Pools every axis of `x` to `shape`; bin i of m over n entries is [floor(i n/m), ceil((i+1) n/m)).

    A box's mean is the mean along one axis of the means along the others, so the axes are taken in turn.
    """
    x = np.asarray(x, np.float64)
    for axis, m in enumerate(shape):
        n = x.shape[axis]
        means = []
        for i in range(m):
            start, stop = (i * n) // m, -((-(i + 1) * n) // m)
            means.append(np.take(x, range(start, stop), axis=axis).mean(axis=axis))
        x = np.stack(means, axis=axis)
    return x


def project(state, hwio_shape):
    """The HWIO kernel of a state (outputs, inputs, taps), the taps row-major in (height, width)."""
    height, width, c_in, c_out = hwio_shape
    pooled = adaptive_average_pool(state, (c_out, c_in, height * width))
    return pooled.reshape(c_out, c_in, height, width).transpose(2, 3, 1, 0)


# The field and its trajectory, Equations 7 and 12.


def depthwise(x, kernel, bias):
    """Cross-correlates each channel's plane of `x` (C, rows, columns) with its own (3, 3), zero-padded."""
    _, rows, columns = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.zeros_like(x)
    for dy in range(3):
        for dx in range(3):
            out += kernel[dy, dx][:, None, None] * padded[:, dy : dy + rows, dx : dx + columns]
    return out + bias[:, None, None]


def norm(x, scale, bias):
    """Normalises each channel over its plane with its own mean and biased variance."""
    centred = x - x.mean(axis=(1, 2), keepdims=True)
    variance = (centred**2).mean(axis=(1, 2), keepdims=True)
    return scale[:, None, None] * centred / np.sqrt(variance + EPSILON) + bias[:, None, None]


def field(state, params):
    """The vector field G of a state (C, C, taps): depthwise, norm, pointwise, norm, tanh."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    x = np.asarray(state, np.float64)
    x = depthwise(x, p["depthwise_kernel"], p["depthwise_bias"])
    x = norm(x, p["norm1_scale"], p["norm1_bias"])
    x = (p["pointwise_kernel"] @ x.reshape(len(x), -1)).reshape(x.shape) + p["pointwise_bias"][:, None, None]
    x = norm(x, p["norm2_scale"], p["norm2_bias"])
    return np.tanh(x)


def trajectory(params, h, pattern, num_steps):
    """Eqs. 7 and 12: S_0 = p0(h) · pattern and the states of `num_steps` Euler steps, stacked.

    `pattern` (C, C, taps) is all ones for the constant initial state, scale times the seeded pattern for the
    seeded one, and the leaf `initial_state` for the learned one.
    """
    dl = step_size(h)
    states = [initial_level(h) * np.asarray(pattern, np.float64)]
    for _ in range(num_steps):
        states.append(states[-1] + dl * field(states[-1], params))
    return np.stack(states)


def generate_kernels(params, h, pattern, shapes):
    """The kernel of layer n is the projection of S_{n+1}."""
    states = trajectory(params, h, pattern, len(shapes))
    return [project(state, shape) for state, shape in zip(states[1:], shapes, strict=True)]


# Gradients.


def gradient(function, x, eps=1e-6):
    """Central finite differences of a scalar `function` of one array or scalar, by coordinates."""
    x = np.array(x, np.float64)
    slopes = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = eps
        slopes[index] = (function(x + shift) - function(x - shift)) / (2 * eps)
    return slopes
