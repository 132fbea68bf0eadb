"""SqueezeNet (Iandola et al., 2016)."""

import jax.numpy as jnp
from flax import nnx

from experiments.networks.backbones.blocks import Head, Images, Logits, check_positive, conv, max_pool, scaled


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
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        c_in, *squeezed = scaled((64, 16, 16, 32, 32, 48, 48, 64, 64), max_channels)
        expanded = scaled((64, 64, 128, 128, 192, 192, 256, 256), max_channels)
        self.stem = conv(in_channels, c_in, bias=True, rngs=rngs)
        fires = []
        for squeeze, expand in zip(squeezed, expanded, strict=True):
            fires.append(_Fire(c_in, squeeze, expand, rngs))
            c_in = 2 * expand
        self.fires = nnx.List(fires)
        self.head = Head((c_in, *scaled((512,), max_channels)), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = max_pool(nnx.relu(self.stem(x)))
        for index, fire in enumerate(self.fires):
            x = fire(x)
            if index in (1, 3):
                x = max_pool(x)
        return self.head(x)


class _Fire(nnx.Module):
    """SqueezeNet's module: 1x1 to few channels, then 1x1 and 3x3 side by side."""

    def __init__(self, c_in: int, squeeze: int, expand: int, rngs: nnx.Rngs):
        self.squeeze = conv(c_in, squeeze, kernel_size=1, bias=True, rngs=rngs)
        self.expand1 = conv(squeeze, expand, kernel_size=1, bias=True, rngs=rngs)
        self.expand3 = conv(squeeze, expand, bias=True, rngs=rngs)

    def __call__(self, x: Images) -> Images:
        x = nnx.relu(self.squeeze(x))
        return nnx.relu(jnp.concatenate([self.expand1(x), self.expand3(x)], axis=-1))
