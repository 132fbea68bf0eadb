"""MobileNet-v1 and MobileNet-v2 (Howard et al., 2017; Sandler et al., 2018)."""

from flax import nnx

from experiments.networks.backbones.blocks import ConvNorm, Head, Images, Logits, check_positive, scaled


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
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        c_in, *widths = scaled((32, 64, 128, 128, 256, 256, *[512] * 6), max_channels)
        layers = [ConvNorm(in_channels, c_in, rngs=rngs)]
        for index, width in enumerate(widths):
            stride = 2 if index in (1, 3, 5) else 1
            layers.append(ConvNorm(c_in, c_in, stride=stride, groups=c_in, rngs=rngs))
            layers.append(ConvNorm(c_in, width, kernel_size=1, rngs=rngs))
            c_in = width
        self.layers = nnx.List(layers)
        self.head = Head((c_in, *scaled((512,), max_channels)), num_classes, rngs)

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
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        c_in, *widths, last = scaled((32, 16, 24, 32, 64, 96, 160, 320, 1280), max_channels)
        self.stem = ConvNorm(in_channels, c_in, rngs=rngs)
        blocks = []
        counts, strides = (1, 2, 3, 4, 3, 3, 1), (1, 1, 2, 2, 1, 2, 1)
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
            for place in range(count):
                stride = 1 if place else strides[stage]
                blocks.append(_InvertedResidual(c_in, width, stride, expansion=6 if stage else 1, rngs=rngs))
                c_in = width
        self.blocks = nnx.List(blocks)
        self.last = ConvNorm(c_in, last, kernel_size=1, rngs=rngs)
        self.head = Head((last,), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = nnx.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(nnx.relu6(self.last(x)))


class _InvertedResidual(nnx.Module):
    """MobileNet-v2's block: widen, 3x3 depthwise, narrow without activation; added to its input where shapes agree."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, expansion: int, rngs: nnx.Rngs):
        wide = expansion * c_in
        layers = [
            ConvNorm(wide, wide, stride=stride, groups=wide, rngs=rngs),
            ConvNorm(wide, c_out, kernel_size=1, rngs=rngs),
        ]
        if expansion > 1:
            layers.insert(0, ConvNorm(c_in, wide, kernel_size=1, rngs=rngs))
        self.layers = nnx.List(layers)
        self.adds = stride == 1 and c_in == c_out

    def __call__(self, x: Images) -> Images:
        y = x
        for layer in self.layers[:-1]:
            y = nnx.relu6(layer(y))
        y = self.layers[-1](y)
        return x + y if self.adds else y
