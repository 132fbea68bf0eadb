"""The networks that the papers compare with, as ordinary Flax NNX modules.

Every network takes floating images (batch, height, width, in_channels) that are already centred and returns logits
(batch, num_classes). All end in a global average pool, so that images of 32x32 and of 64x64 give the same parameters.

The papers print sizes, not layers. The AlexNet, VGG, ResNet, MobileNet-v1 and SqueezeNet here are the plain networks
of at most 512 channels that have those sizes. What the papers leave open is chosen as is usual for small images:
convolutions are padded by half their kernel, pools are 2x2, the first layer has stride 1; kernels and hidden linear
layers start He-normal (fan-in), classifiers uniform within 1 / sqrt(fan-in), biases at zero; batch norms average
with momentum 0.9, ε = 1e-5.

A new network is in training mode; `network.eval()` makes its batch norms use their running statistics.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_HE_NORMAL = nnx.initializers.he_normal()
_CLASSIFIER = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_REFERENCE_CHANNELS = 512

Images = Float[Array, "batch height width channels"]
Logits = Float[Array, "batch classes"]


class AlexNet(nnx.Module):
    """AlexNet with 3x3 kernels: five convolutions with bias, three max-pools, four linear layers. No batch norm.

    Stored for 10 classes: 2,913,610 floats.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512, rounded down, at least 1.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if a number is less than 1; in a call, if the images are smaller than 8x8.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, max_channels: int = 512, rngs: nnx.Rngs):
        _check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        widths = _scaled((64, 192, 384, 256, 256), max_channels)
        pairs = zip((in_channels, *widths), widths, strict=False)
        self.convs = nnx.List([_conv(c_in, c_out, bias=True, rngs=rngs) for c_in, c_out in pairs])
        self.head = _Head((widths[-1], *_scaled((512, 512, 512), max_channels)), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        for index, conv in enumerate(self.convs):
            x = nnx.relu(conv(x))
            if index in (0, 1, 4):
                x = _max_pool(x)
        return self.head(x)


class VGG(nnx.Module):
    """VGG with batch norm: five stages of 3x3 convolutions without bias, a max-pool after each, three linear layers.

    Stored for 10 classes with 11 layers: 9,753,674 floats.

    Args:
        num_classes: at least 1.
        num_layers: convolutions and linear layers, at least 8. All but three are convolutions, spread over the stages
            of 64, 128, 256, 512 and 512 channels as evenly as can be, later stages first: 11 gives 1, 1, 2, 2, 2.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512, rounded down, at least 1.
        affine: batch norms have a trainable scale and bias.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if a number is too small; in a call, if the images are smaller than 32x32.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_layers: int = 11,
        in_channels: int = 3,
        max_channels: int = 512,
        affine: bool = True,
        rngs: nnx.Rngs,
    ):
        _check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        if num_layers < 8:
            raise ValueError(f"num_layers must be at least 8, a convolution a stage and 3 more, got {num_layers}.")
        widths = _scaled((64, 128, 256, 512, 512), max_channels)
        stages = []
        for count, width in zip(_spread(num_layers - 3, len(widths)), widths, strict=True):
            pairs = zip((in_channels, *[width] * count), [width] * count, strict=False)
            stages.append(nnx.List([_ConvNorm(c_in, c_out, affine=affine, rngs=rngs) for c_in, c_out in pairs]))
            in_channels = width
        self.stages = nnx.List(stages)
        self.head = _Head((in_channels, *_scaled((512, 512), max_channels)), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        for stage in self.stages:
            for layer in stage:
                x = nnx.relu(layer(x))
            x = _max_pool(x)
        return self.head(x)


class ResNet(nnx.Module):
    """ResNet with a double stem: two 3x3 convolutions, a max-pool, four stages of basic blocks, one linear layer.

    Where a block changes the shape, its shortcut is a 1x1 convolution without bias and norm. Stored for 10 classes with
    18 layers: 11,209,290 floats.

    Args:
        num_classes: at least 1.
        num_layers: even, at least 10: two for each block, one for the stem and one for the classifier, as is usual;
            the second convolution of the stem and the shortcuts are not counted. Blocks are spread over the stages
            of 64, 128, 256 and 512 channels as evenly as can be, later stages first: 18 gives 2, 2, 2, 2.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512, rounded down, at least 1.
        affine: batch norms have a trainable scale and bias.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if a number is too small, or `num_layers` is odd; in a call, if the images are smaller than 2x2.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_layers: int = 18,
        in_channels: int = 3,
        max_channels: int = 512,
        affine: bool = True,
        rngs: nnx.Rngs,
    ):
        _check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        if num_layers < 10 or num_layers % 2:
            raise ValueError(f"num_layers must be even and at least 10, 2 for each block and 2 more, got {num_layers}.")
        widths = _scaled((64, 128, 256, 512), max_channels)
        self.stem = nnx.List(
            [_ConvNorm(c_in, widths[0], bias=True, affine=affine, rngs=rngs) for c_in in (in_channels, widths[0])],
        )
        blocks = []
        c_in = widths[0]
        for stage, count in enumerate(_spread((num_layers - 2) // 2, len(widths))):
            for place in range(count):
                stride = 2 if stage and not place else 1
                blocks.append(_BasicBlock(c_in, widths[stage], stride, project=True, affine=affine, rngs=rngs))
                c_in = widths[stage]
        self.blocks = nnx.List(blocks)
        self.head = _Head((c_in,), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        for layer in self.stem:
            x = nnx.relu(layer(x))
        x = _max_pool(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class ResNet20(nnx.Module):
    """The ResNet for CIFAR of He et al. (2016, Sec. 4.2): a 3x3 stem, three stages of n basic blocks, a linear layer.

    Shortcuts store nothing: every second pixel, and zeros for the new channels (option A). Stored for 10 classes with
    20 layers: 269,722 floats, as many as the papers' puppeteer but for 102.

    Args:
        num_classes: at least 1.
        num_layers: 6 n + 2, at least 8.
        in_channels: of the images.
        max_channels: width of the last stage; the others have a half and a quarter of it, rounded down, at least 1.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if a number is too small or `num_layers` is not as above.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_layers: int = 20,
        in_channels: int = 3,
        max_channels: int = 64,
        rngs: nnx.Rngs,
    ):
        _check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        if num_layers < 8 or num_layers % 6 != 2:
            raise ValueError(f"num_layers must be 6 n + 2, such as 8, 14 or 20, got {num_layers}.")
        widths = (max(1, max_channels // 4), max(1, max_channels // 2), max_channels)
        self.stem = _ConvNorm(in_channels, widths[0], rngs=rngs)
        blocks = []
        c_in = widths[0]
        for stage, width in enumerate(widths):
            for place in range((num_layers - 2) // 6):
                blocks.append(_BasicBlock(c_in, width, 2 if stage and not place else 1, project=False, rngs=rngs))
                c_in = width
        self.blocks = nnx.List(blocks)
        self.head = _Head((c_in,), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class MobileNetV1(nnx.Module):
    """MobileNet-v1 without its two layers of 1024 channels, with a hidden linear layer.

    A 3x3 stem, then eleven pairs of a 3x3 depthwise convolution, which may stride, and a 1x1 one, all without bias and
    with batch norm. Stored for 10 classes: 1,880,906 floats.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512, rounded down, at least 1.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if a number is less than 1.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, max_channels: int = 512, rngs: nnx.Rngs):
        _check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        c_in, *widths = _scaled((32, 64, 128, 128, 256, 256, *[512] * 6), max_channels)
        layers = [_ConvNorm(in_channels, c_in, rngs=rngs)]
        for index, width in enumerate(widths):
            stride = 2 if index in (1, 3, 5) else 1
            layers.append(_ConvNorm(c_in, c_in, stride=stride, groups=c_in, rngs=rngs))
            layers.append(_ConvNorm(c_in, width, kernel_size=1, rngs=rngs))
            c_in = width
        self.layers = nnx.List(layers)
        self.head = _Head((c_in, *_scaled((512,), max_channels)), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.head(x)


class MobileNetV2(nnx.Module):
    """MobileNet-v2 of width 1 with one linear layer, its first two strides left out as is usual for CIFAR.

    Stored for 10 classes: 2,236,682 floats, of which 2,223,872, the number that is nearest to the papers' size, are not
    of the classifier.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: scales every width (32 to 1280) by `max_channels` / 512, rounded down, at least 1.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if a number is less than 1.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, max_channels: int = 512, rngs: nnx.Rngs):
        _check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        c_in, *widths, last = _scaled((32, 16, 24, 32, 64, 96, 160, 320, 1280), max_channels)
        self.stem = _ConvNorm(in_channels, c_in, rngs=rngs)
        blocks = []
        counts, strides = (1, 2, 3, 4, 3, 3, 1), (1, 1, 2, 2, 1, 2, 1)
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
            for place in range(count):
                stride = 1 if place else strides[stage]
                blocks.append(_InvertedResidual(c_in, width, stride, expansion=6 if stage else 1, rngs=rngs))
                c_in = width
        self.blocks = nnx.List(blocks)
        self.last = _ConvNorm(c_in, last, kernel_size=1, rngs=rngs)
        self.head = _Head((last,), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = nnx.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.relu6(self.last(x)))


class SqueezeNet(nnx.Module):
    """SqueezeNet 1.1 with a head of two linear layers: a 3x3 stem, eight fire modules, three max-pools, no batch norm.

    Stored for 10 classes: 990,282 floats.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512, rounded down, at least 1.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if a number is less than 1; in a call, if the images are smaller than 8x8.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, max_channels: int = 512, rngs: nnx.Rngs):
        _check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        c_in, *squeezed = _scaled((64, 16, 16, 32, 32, 48, 48, 64, 64), max_channels)
        expanded = _scaled((64, 64, 128, 128, 192, 192, 256, 256), max_channels)
        self.stem = _conv(in_channels, c_in, bias=True, rngs=rngs)
        fires = []
        for squeeze, expand in zip(squeezed, expanded, strict=True):
            fires.append(_Fire(c_in, squeeze, expand, rngs))
            c_in = 2 * expand
        self.fires = nnx.List(fires)
        self.head = _Head((c_in, *_scaled((512,), max_channels)), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = _max_pool(nnx.relu(self.stem(x)))
        for index, fire in enumerate(self.fires):
            x = fire(x)
            if index in (1, 3):
                x = _max_pool(x)
        return self.head(x)


BACKBONES: dict[str, type[Any]] = {
    "alexnet": AlexNet,
    "vgg": VGG,
    "resnet": ResNet,
    "resnet20": ResNet20,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "squeezenet": SqueezeNet,
}
"""The networks by name."""


def make_backbone(
    name: str,
    num_classes: int,
    *,
    in_channels: int = 3,
    num_layers: int | None = None,
    max_channels: int | None = None,
    affine: bool | None = None,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Makes a network of `BACKBONES`.

    Args:
        name: of the network.
        num_classes: at least 1.
        in_channels: of the images.
        num_layers: of "vgg", "resnet" or "resnet20"; the network's own default if None.
        max_channels: scales every width; 512 if None, of "resnet20" 64.
        affine: of "vgg" and "resnet"; true if None.
        rngs: `params` are drawn from it.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: if there is no such network, if it has no such option, or if it refuses a value.
    """
    if name not in BACKBONES:
        raise ValueError(f"name must be one of {', '.join(BACKBONES)}, got {name!r}.")
    network = BACKBONES[name]
    given = {"num_layers": num_layers, "max_channels": max_channels, "affine": affine}
    options = {option: value for option, value in given.items() if value is not None}
    for option, value in options.items():
        if option not in inspect.signature(network.__init__).parameters:
            raise ValueError(f"{option} is no option of {name}, got {value}; leave it out.")
    return network(num_classes, in_channels=in_channels, rngs=rngs, **options)


def _conv(
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
        kernel_init=_HE_NORMAL,
        rngs=rngs,
    )


class _ConvNorm(nnx.Module):
    """A convolution and a batch norm."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        affine: bool = True,
        rngs: nnx.Rngs,
    ):
        self.conv = _conv(c_in, c_out, kernel_size=kernel_size, stride=stride, groups=groups, bias=bias, rngs=rngs)
        self.norm = nnx.BatchNorm(c_out, momentum=0.9, epsilon=1e-5, use_scale=affine, use_bias=affine, rngs=rngs)

    def __call__(self, x: Images) -> Images:
        return self.norm(self.conv(x))


class _BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes, or strided and filled with zeros."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, project: bool, affine: bool = True, rngs: nnx.Rngs):
        self.first = _ConvNorm(c_in, c_out, stride=stride, affine=affine, rngs=rngs)
        self.second = _ConvNorm(c_out, c_out, affine=affine, rngs=rngs)
        projects = project and (stride > 1 or c_in != c_out)
        self.shortcut = _conv(c_in, c_out, kernel_size=1, stride=stride, rngs=rngs) if projects else None
        self.stride = stride

    def __call__(self, x: Images) -> Images:
        y = self.second(nnx.relu(self.first(x)))
        if self.shortcut is not None:
            return nnx.relu(y + self.shortcut(x))
        x = x[:, :: self.stride, :: self.stride]
        missing = y.shape[-1] - x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nnx.relu(y + x)


class _InvertedResidual(nnx.Module):
    """MobileNet-v2's block: widen, 3x3 depthwise, narrow without activation; added to its input where shapes agree."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, expansion: int, rngs: nnx.Rngs):
        wide = expansion * c_in
        layers = [
            _ConvNorm(wide, wide, stride=stride, groups=wide, rngs=rngs),
            _ConvNorm(wide, c_out, kernel_size=1, rngs=rngs),
        ]
        if expansion > 1:
            layers.insert(0, _ConvNorm(c_in, wide, kernel_size=1, rngs=rngs))
        self.layers = nnx.List(layers)
        self.adds = stride == 1 and c_in == c_out

    def __call__(self, x: Images) -> Images:
        y = x
        for layer in self.layers[:-1]:
            y = nnx.relu6(layer(y))
        y = self.layers[-1](y)
        return x + y if self.adds else y


class _Fire(nnx.Module):
    """SqueezeNet's module: 1x1 to few channels, then 1x1 and 3x3 side by side."""

    def __init__(self, c_in: int, squeeze: int, expand: int, rngs: nnx.Rngs):
        self.squeeze = _conv(c_in, squeeze, kernel_size=1, bias=True, rngs=rngs)
        self.expand1 = _conv(squeeze, expand, kernel_size=1, bias=True, rngs=rngs)
        self.expand3 = _conv(squeeze, expand, bias=True, rngs=rngs)

    def __call__(self, x: Images) -> Images:
        x = nnx.relu(self.squeeze(x))
        return nnx.relu(jnp.concatenate([self.expand1(x), self.expand3(x)], axis=-1))


class _Head(nnx.Module):
    """Global average pool, hidden linear layers of `widths[1:]`, classifier."""

    def __init__(self, widths: Sequence[int], num_classes: int, rngs: nnx.Rngs):
        pairs = zip(widths, widths[1:], strict=False)
        self.hidden = nnx.List([nnx.Linear(n_in, n_out, kernel_init=_HE_NORMAL, rngs=rngs) for n_in, n_out in pairs])
        self.classifier = nnx.Linear(widths[-1], num_classes, kernel_init=_CLASSIFIER, rngs=rngs)

    def __call__(self, x: Images) -> Logits:
        features = x.mean(axis=(1, 2))
        for layer in self.hidden:
            features = nnx.relu(layer(features))
        return self.classifier(features)


def _max_pool(x: Images) -> Images:
    """2x2 max-pooling; an odd last row or column is dropped."""
    if min(x.shape[1:3]) < 2:
        raise ValueError(f"the images are too small: {x.shape[2]}x{x.shape[1]} pixels are left before a 2x2 pool.")
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def _spread(count: int, num_stages: int) -> list[int]:
    """`count` layers over stages as evenly as can be, later stages first."""
    every, more = divmod(count, num_stages)
    return [every + (stage >= num_stages - more) for stage in range(num_stages)]


def _scaled(widths: Sequence[int], max_channels: int) -> tuple[int, ...]:
    return tuple(max(1, width * max_channels // _REFERENCE_CHANNELS) for width in widths)


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
