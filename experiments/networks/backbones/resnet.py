"""Residual networks (He et al., 2016): the papers' ResNet, and ResNet-20 of CIFAR-10."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from experiments.networks.backbones.blocks import (
    ConvNorm,
    Head,
    Images,
    Logits,
    check_positive,
    conv,
    max_pool,
    scaled,
    spread,
)


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
        block: makes a block; takes what `BasicBlock` takes.
        stem: makes a convolution of the stem and its norm; takes what `ConvNorm` takes.
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
        block: Callable[..., Any] | None = None,
        stem: Callable[..., Any] = ConvNorm,
        rngs: nnx.Rngs,
    ):
        block = BasicBlock if block is None else block
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        if num_layers < 10 or num_layers % 2:
            raise ValueError(f"num_layers must be even and at least 10, 2 for each block and 2 more, got {num_layers}.")
        widths = scaled((64, 128, 256, 512), max_channels)
        self.stem = nnx.List(
            [stem(c_in, widths[0], bias=True, affine=affine, rngs=rngs) for c_in in (in_channels, widths[0])],
        )
        blocks = []
        c_in = widths[0]
        for stage, count in enumerate(spread((num_layers - 2) // 2, len(widths))):
            for place in range(count):
                stride = 2 if stage and not place else 1
                blocks.append(block(c_in, widths[stage], stride, affine=affine, rngs=rngs))
                c_in = widths[stage]
        self.blocks = nnx.List(blocks)
        self.head = Head((c_in,), num_classes, rngs)

    def start(self, x: Images) -> Images:
        """The stem and its max-pool."""
        for layer in self.stem:
            x = nnx.relu(layer(x))
        return max_pool(x)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = self.start(x)
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
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        if num_layers < 8 or num_layers % 6 != 2:
            raise ValueError(f"num_layers must be 6 n + 2, such as 8, 14 or 20, got {num_layers}.")
        widths = (max(1, max_channels // 4), max(1, max_channels // 2), max_channels)
        self.stem = ConvNorm(in_channels, widths[0], rngs=rngs)
        blocks = []
        c_in = widths[0]
        for stage, width in enumerate(widths):
            for place in range((num_layers - 2) // 6):
                blocks.append(BasicBlock(c_in, width, 2 if stage and not place else 1, project=False, rngs=rngs))
                c_in = width
        self.blocks = nnx.List(blocks)
        self.head = Head((c_in,), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes, or strided and filled with zeros."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        stride: int,
        *,
        project: bool = True,
        affine: bool = True,
        layer: Callable[..., Any] = ConvNorm,
        rngs: nnx.Rngs,
    ):
        self.first = layer(c_in, c_out, stride=stride, affine=affine, rngs=rngs)
        self.second = layer(c_out, c_out, affine=affine, rngs=rngs)
        projects = project and (stride > 1 or c_in != c_out)
        self.shortcut = conv(c_in, c_out, kernel_size=1, stride=stride, rngs=rngs) if projects else None
        self.stride = stride

    def __call__(self, x: Images) -> Images:
        y = self.second(nnx.relu(self.first(x)))
        if self.shortcut is not None:
            return nnx.relu(y + self.shortcut(x))
        x = x[:, :: self.stride, :: self.stride]
        missing = y.shape[-1] - x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nnx.relu(y + x)
