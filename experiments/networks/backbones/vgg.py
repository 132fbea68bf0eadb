"""VGG with batch norm (Simonyan and Zisserman, 2015)."""

from flax import nnx

from experiments.networks.backbones.blocks import (
    ConvNorm,
    Head,
    Images,
    Logits,
    check_positive,
    max_pool,
    scaled,
    spread,
)


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
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        if num_layers < 8:
            raise ValueError(f"num_layers must be at least 8, a convolution a stage and 3 more, got {num_layers}.")
        widths = scaled((64, 128, 256, 512, 512), max_channels)
        stages = []
        for count, width in zip(spread(num_layers - 3, len(widths)), widths, strict=True):
            pairs = zip((in_channels, *[width] * count), [width] * count, strict=False)
            stages.append(nnx.List([ConvNorm(c_in, c_out, affine=affine, rngs=rngs) for c_in, c_out in pairs]))
            in_channels = width
        self.stages = nnx.List(stages)
        self.head = Head((in_channels, *scaled((512, 512), max_channels)), num_classes, rngs)

    def features(self, x: Images) -> Images:
        """The last map."""
        for stage in self.stages:
            for layer in stage:
                x = nnx.relu(layer(x))
            x = max_pool(x)
        return x

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        return self.head(self.features(x))
