"""Decoupled dynamic filters (Zhou, Jampani, Pi, Liu and Yang, CVPR 2021), one filter a sample as the papers ask."""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.networks.backbones.blocks import (
    ConvNorm,
    Images,
    conv,
    global_pool,
)
from experiments.networks.backbones.resnet import BasicBlock, ResNet
from experiments.networks.convolution import filter_each
from experiments.networks.module import ModuleNetwork

TAPS = 9
_GAIN = math.sqrt(2) / 3  # of ReLU, over the side of the filter


def filter_norm(filters: Array, axis: int = -1) -> Array:
    """Filters less their mean over an axis, over their unbiased standard deviation plus 1e-10 (their Eq. 3)."""
    centred = filters - filters.mean(axis=axis, keepdims=True)
    variance = filters.var(axis=axis, ddof=1, keepdims=True)
    deviation = jnp.sqrt(jnp.where(variance > 0, variance, 1)) * (variance > 0)  # with a gradient at 0
    return centred / (deviation + 1e-10)


class SpatialBranch(nnx.Module):
    """A filter of nine taps for each image, which all its channels share; pooled first, since it is one a sample."""

    def __init__(self, c_in: int, *, hidden: int | None = None, rngs: nnx.Rngs):
        self.squeeze = None if hidden is None else nnx.Linear(c_in, hidden, rngs=rngs)
        self.emit = nnx.Linear(hidden or c_in, TAPS, rngs=rngs)

    def __call__(self, pooled: Float[Array, "batch channels"]) -> Float[Array, "batch taps"]:
        if self.squeeze is not None:
            pooled = nnx.relu(self.squeeze(pooled))
        return filter_norm(self.emit(pooled))


class DDF(nnx.Module):
    """A depthwise dynamic filter: for each image, that of the channel and that of the image, by product or sum.

    Args:
        channels: of input and output.
        stride: of both axes.
        combine: "mul" or "add".
        rngs: `params` are drawn from it.
    """

    def __init__(self, channels: int, *, stride: int = 1, combine: Literal["mul", "add"] = "mul", rngs: nnx.Rngs):
        self.channels, self.stride, self.combine = channels, stride, combine
        hidden = max(1, channels // 5)
        self.squeeze = nnx.Linear(channels, hidden, rngs=rngs)
        self.emit = nnx.Linear(hidden, channels * TAPS, rngs=rngs)
        self.deviation = nnx.Param(jnp.full((channels, TAPS), _GAIN, jnp.float32))
        self.spatial = SpatialBranch(channels, rngs=rngs)

    def filters(self, x: Images) -> Float[Array, "batch 3 3 channels"]:
        """The filters of each image."""
        pooled = global_pool(x)
        of_channel = self.emit(nnx.relu(self.squeeze(pooled))).reshape(-1, self.channels, TAPS)
        of_channel = filter_norm(of_channel) * self.deviation[...][None]
        of_image = _GAIN * self.spatial(pooled)[:, None]
        both = of_channel * of_image if self.combine == "mul" else of_channel + of_image
        return both.reshape(-1, self.channels, 3, 3).transpose(0, 2, 3, 1)

    def __call__(self, x: Images) -> Images:
        return filter_each(x, self.filters(x), self.stride)


class _Bottleneck(nnx.Module):
    """1x1 convolution, dynamic filter, 1x1 convolution, with a shortcut as in the papers' ResNet."""

    def __init__(
        self, c_in: int, c_out: int, stride: int, *, combine: Literal["mul", "add"], affine: bool, rngs: nnx.Rngs
    ):
        self.first = ConvNorm(c_in, c_out, kernel_size=1, affine=affine, rngs=rngs)
        self.filter = DDF(c_out, stride=stride, combine=combine, rngs=rngs)
        self.norm = nnx.BatchNorm(c_out, momentum=0.9, epsilon=1e-5, use_scale=affine, use_bias=affine, rngs=rngs)
        self.second = ConvNorm(c_out, c_out, kernel_size=1, affine=affine, rngs=rngs)
        projects = stride > 1 or c_in != c_out
        self.shortcut = conv(c_in, c_out, kernel_size=1, stride=stride, rngs=rngs) if projects else None

    def __call__(self, x: Images) -> Images:
        y = nnx.relu(self.norm(self.filter(nnx.relu(self.first(x)))))
        return nnx.relu(self.second(y) + (x if self.shortcut is None else self.shortcut(x)))


class DenseDDF(nnx.Module):
    """A 3x3 convolution: an ordinary kernel plus, for each image, a filter over channels times one over places.

    The channel branch emits c_in c_out values and is normalised over c_in, with a learned deviation an output channel.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, bias: bool = False, rngs: nnx.Rngs):
        self.c_in, self.c_out, self.stride = c_in, c_out, stride
        hidden = max(1, c_in // 8)
        self.ordinary = conv(c_in, c_out, stride=stride, bias=bias, rngs=rngs)
        self.squeeze = nnx.Linear(c_in, hidden, rngs=rngs)
        self.emit = nnx.Linear(hidden, c_in * c_out, rngs=rngs)
        self.spatial = SpatialBranch(c_in, hidden=hidden, rngs=rngs)

    def filters(self, x: Images) -> tuple[Float[Array, "batch 3 3"], Float[Array, "batch c_in c_out"]]:
        """The filter over places and the filter over channels of each image."""
        pooled = global_pool(x)
        channel = self.emit(nnx.relu(self.squeeze(pooled))).reshape(-1, self.c_in, self.c_out)
        scale = math.sqrt(2 / (TAPS * self.c_in))
        return self.spatial(pooled).reshape(-1, 3, 3), scale * filter_norm(channel, axis=1)

    def kernels(self, x: Images) -> Float[Array, "batch 3 3 c_in c_out"]:
        """The kernels of each image."""
        spatial, channel = self.filters(x)
        return self.ordinary.kernel[...][None] + spatial[..., None, None] * channel[:, None, None]

    def __call__(self, x: Images) -> Images:
        """The convolution of each image with its own kernels: the ordinary part, and one filter after the other."""
        spatial, channel = self.filters(x)
        shared = jnp.broadcast_to(spatial[..., None], (*spatial.shape, self.c_in))
        filtered = filter_each(x, shared, self.stride)
        return self.ordinary(x) + jnp.einsum("bhwi,bio->bhwo", filtered, channel)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDFNetwork(ModuleNetwork):
    """The papers' ResNet of 18 layers with bottlenecks whose 3x3 convolution is a depthwise dynamic filter.

    Stored for 10 classes at 512 channels: 2,885,518 floats, far fewer than the papers' 300.83 MB.
    """

    combine: Literal["mul", "add"]
    width: int
    convolutions = (*ModuleNetwork.convolutions, DDF)

    def make(self, seed):
        channels, block = self.image_shape[-1], functools.partial(_Bottleneck, combine=self.combine)
        return ResNet(self.num_classes, in_channels=channels, max_channels=self.width, block=block, rngs=nnx.Rngs(seed))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseDDFNetwork(ModuleNetwork):
    """The papers' ResNet, each 3x3 convolution a `DenseDDF`.

    Stored for 10 classes at 512 channels: 75,081,485 floats, 300.326 MB. The papers' 300.83 MB fit no layout that was
    searched, and this comes nearest: no confidence.
    """

    width: int

    def make(self, seed):
        channels, rngs = self.image_shape[-1], nnx.Rngs(seed)
        layer = functools.partial(ConvNorm, layer=DenseDDF)
        options: dict[str, Any] = {
            "block": functools.partial(BasicBlock, layer=layer),
            "stem": layer,
        }
        return ResNet(self.num_classes, in_channels=channels, max_channels=self.width, rngs=rngs, **options)
