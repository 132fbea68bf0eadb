"""AlexNet with 3x3 kernels."""

from flax import nnx

from experiments.networks.backbones.blocks import Head, Images, Logits, check_positive, conv, max_pool, scaled


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
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        widths = scaled((64, 192, 384, 256, 256), max_channels)
        pairs = zip((in_channels, *widths), widths, strict=False)
        self.convs = nnx.List([conv(c_in, c_out, bias=True, rngs=rngs) for c_in, c_out in pairs])
        self.head = Head((widths[-1], *scaled((512, 512, 512), max_channels)), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        for index, layer in enumerate(self.convs):
            x = nnx.relu(layer(x))
            if index in (0, 1, 4):
                x = max_pool(x)
        return self.head(x)
