"""cifar10-tiniest (github.com/xvel/cifar10-tiniest, 2025): 97,530 floats, 94.4 % on CIFAR-10 with augmentation."""

import dataclasses
import math

import jax.numpy as jnp
from flax import nnx

from experiments.networks.backbones.blocks import CLASSIFIER, Head, Images, Logits
from experiments.networks.module import ModuleNetwork

BLOCKS = 3


def _conv(c_in: int, c_out: int, kernel_size: int, rngs: nnx.Rngs, groups: int = 1, dilation: int = 1) -> nnx.Conv:
    return nnx.Conv(
        c_in,
        c_out,
        (kernel_size, kernel_size),
        kernel_dilation=dilation,
        feature_group_count=groups,
        kernel_init=CLASSIFIER,
        rngs=rngs,
    )


class _Block(nnx.Module):
    """Quarters of the channels through windows of four sizes, then a gated layer; a learned weight on the shortcut."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        quarter = channels // 4
        self.small = _conv(quarter, quarter, 3, rngs, groups=quarter)
        self.large = _conv(quarter, quarter, 7, rngs, groups=quarter)
        self.dilated = _conv(quarter, quarter, 7, rngs, groups=quarter, dilation=3)
        self.norm = nnx.LayerNorm(channels, epsilon=1e-5, rngs=rngs)
        self.expand = _conv(channels, 2 * channels, 1, rngs)
        self.reduce = _conv(channels, channels, 1, rngs)
        self.shortcut = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Images) -> Images:
        same, small, large, far = jnp.split(x, 4, axis=-1)
        far = nnx.avg_pool(far, (3, 3), strides=(1, 1), padding="SAME")  # zeros outside count
        y = jnp.concatenate([same, self.small(small), self.large(large), self.dilated(far)], axis=-1)
        a, b = jnp.split(self.expand(self.norm(y)), 2, axis=-1)
        return self.reduce(jnp.tanh(jnp.exp(a)) * a * b) + x * self.shortcut[...][None, None, None]


class Tiniest(nnx.Module):
    """Three blocks of 48 channels, a strided convolution in groups of 3 channels, three of 80; norms over channels.

    Stored for 10 classes: 97,530 floats, 0.390 MB. Other widths keep the ratio of both.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        width: of the later blocks, a multiple of 20; the earlier ones have three fifths of it.
        rngs: `params` are drawn from it.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, width: int = 80, rngs: nnx.Rngs):
        first, second = width * 3 // 5, width
        self.stem = _conv(in_channels, first, 3, rngs)
        self.stem_norm = nnx.LayerNorm(first, epsilon=1e-5, rngs=rngs)
        self.early = nnx.List([_Block(first, rngs) for _ in range(BLOCKS)])
        self.down = nnx.Conv(
            first,
            second,
            (4, 4),
            strides=2,
            padding=1,
            feature_group_count=math.gcd(first, second),
            kernel_init=CLASSIFIER,
            rngs=rngs,
        )
        self.down_norm = nnx.LayerNorm(second, epsilon=1e-5, rngs=rngs)
        self.late = nnx.List([_Block(second, rngs) for _ in range(BLOCKS)])
        self.head = Head((second,), num_classes, rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = self.stem_norm(self.stem(x))
        for block in self.early:
            x = block(x)
        x = self.down_norm(self.down(x))
        for block in self.late:
            x = block(x)
        return self.head(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TiniestNetwork(ModuleNetwork):
    """cifar10-tiniest to train."""

    width: int = dataclasses.field(default=80, metadata={"stored": "unless default"})

    def make(self, seed):
        return Tiniest(self.num_classes, in_channels=self.image_shape[-1], width=self.width, rngs=nnx.Rngs(seed))
