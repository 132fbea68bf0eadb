"""What several backbones are made of: convolutions, norms, heads, pools."""

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

HE_NORMAL = nnx.initializers.he_normal()
CLASSIFIER = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_REFERENCE_CHANNELS = 512

Images = Float[Array, "batch height width channels"]
Logits = Float[Array, "batch classes"]


def conv(
    c_in: int,
    c_out: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution padded by half its kernel on every side, which "SAME" is not where it strides."""
    return nnx.Conv(
        c_in,
        c_out,
        (kernel_size, kernel_size),
        strides=stride,
        padding=kernel_size // 2,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=HE_NORMAL,
        rngs=rngs,
    )


class ConvNorm(nnx.Module):
    """A convolution and a batch norm.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        layer: makes the convolution.
        affine: the norm has a trainable scale and bias.
        rngs: `params` are drawn from it.
        **options: of `layer`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        layer: Callable[..., Any] = conv,
        affine: bool = True,
        rngs: nnx.Rngs,
        **options: Any,
    ):
        self.conv = layer(c_in, c_out, rngs=rngs, **options)
        self.norm = nnx.BatchNorm(c_out, momentum=0.9, epsilon=1e-5, use_scale=affine, use_bias=affine, rngs=rngs)

    def __call__(self, x: Images) -> Images:
        return self.norm(self.conv(x))


class Head(nnx.Module):
    """Global average pool, hidden linear layers of `widths[1:]`, classifier."""

    def __init__(self, widths: Sequence[int], num_classes: int, rngs: nnx.Rngs):
        pairs = zip(widths, widths[1:], strict=False)
        self.hidden = nnx.List([nnx.Linear(n_in, n_out, kernel_init=HE_NORMAL, rngs=rngs) for n_in, n_out in pairs])
        self.classifier = nnx.Linear(widths[-1], num_classes, kernel_init=CLASSIFIER, rngs=rngs)

    def __call__(self, x: Images) -> Logits:
        features = global_pool(x)
        for layer in self.hidden:
            features = nnx.relu(layer(features))
        return self.classifier(features)


def global_pool(x: Images) -> Float[Array, "batch channels"]:
    """The mean of each channel."""
    return x.mean(axis=(1, 2))


def max_pool(x: Images) -> Images:
    """2x2 max-pooling; an odd last row or column is dropped."""
    if min(x.shape[1:3]) < 2:
        raise ValueError(f"the images are too small: {x.shape[2]}x{x.shape[1]} pixels are left before a 2x2 pool.")
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def spread(count: int, num_stages: int) -> list[int]:
    """`count` layers over stages as evenly as can be, later stages first."""
    every, more = divmod(count, num_stages)
    return [every + (stage >= num_stages - more) for stage in range(num_stages)]


def scaled(widths: Sequence[int], max_channels: int) -> tuple[int, ...]:
    """Widths of a network of at most 512 channels, scaled so that 512 become `max_channels`; at least 1."""
    return tuple(max(1, width * max_channels // _REFERENCE_CHANNELS) for width in widths)


def check_positive(**numbers: int) -> None:
    """Raises a ValueError that names the first number less than 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
