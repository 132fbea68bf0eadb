"""A wide residual network from a static hypernetwork (Ha, Dai and Le, HyperNetworks, ICLR 2017, Sec. 3.1)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.networks.backbones.blocks import Head, Images, Logits, check_positive, conv
from experiments.networks.macs import count_macs
from experiments.networks.module import GeneratedPredictor, ModuleNetwork
from puppet_jax.convolution import convolve
from puppet_jax.cpu.windows import NHWC
from puppet_jax.puppet import centred

BASE = 16
"""Channels of a block of a kernel, of its input and of its output."""
EMBEDDING = 64
"""Floats that are stored for a block."""
_KERNEL_DEVIATION = 0.05  # of generated weights at the start; norms follow, so that it hardly matters


class Hypernetwork(nnx.Module):
    """Blocks of kernels from their embeddings by two linear layers, the first one for each input channel."""

    def __init__(self, rngs: nnx.Rngs):
        d = EMBEDDING
        self.hidden_kernel = nnx.Param(jax.random.normal(rngs.params(), (BASE, d, d)) / math.sqrt(d))
        self.hidden_bias = nnx.Param(jnp.zeros((BASE, d)))
        self.out_kernel = nnx.Param(_KERNEL_DEVIATION * jax.random.normal(rngs.params(), (d, 9 * BASE)) / math.sqrt(d))
        self.out_bias = nnx.Param(jnp.zeros(9 * BASE))

    def __call__(self, embeddings: Float[Array, "ins outs embedding"]) -> Float[Array, "3 3 c_in c_out"]:
        """The kernel of a layer, its blocks side by side."""
        hidden = jnp.einsum("abz,izd->abid", embeddings, self.hidden_kernel[...]) + self.hidden_bias[...][None, None]
        blocks = jnp.einsum("abid,dk->abik", hidden, self.out_kernel[...]) + self.out_bias[...][None, None, None]
        ins, outs = embeddings.shape[:2]
        blocks = blocks.reshape(ins, outs, BASE, 3, 3, BASE).transpose(3, 4, 0, 2, 1, 5)
        return blocks.reshape(3, 3, ins * BASE, outs * BASE)


class _Block(nnx.Module):
    """Two generated convolutions behind norm and ReLU, and a shortcut, projected where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int, rngs: nnx.Rngs):
        self.stride = stride
        self.norms = nnx.List([nnx.BatchNorm(width, momentum=0.9, epsilon=1e-5, rngs=rngs) for width in (c_in, c_out)])
        sizes = ((c_in // BASE, c_out // BASE), (c_out // BASE, c_out // BASE))
        self.embeddings = nnx.List([nnx.Param(jax.random.normal(rngs.params(), (*size, EMBEDDING))) for size in sizes])
        projects = stride > 1 or c_in != c_out
        self.shortcut = conv(c_in, c_out, kernel_size=1, stride=stride, rngs=rngs) if projects else None

    def __call__(self, x: Images, kernels: tuple[Array, Array]) -> Images:
        y = nnx.relu(self.norms[0](x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        for index, (kernel, stride) in enumerate(zip(kernels, (self.stride, 1), strict=True)):
            if index:
                y = nnx.relu(self.norms[1](y))
            y = convolve(y, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=NHWC)
        return y + shortcut


class HyperWRN(nnx.Module):
    """A wide residual network whose 3x3 kernels, all but the first, a hypernetwork makes of embeddings.

    Stored for 10 classes with 40 layers, twice as wide: 155,626 floats, 0.623 MB (their table 2: 0.148 M).

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        num_layers: 6 n + 4, at least 10.
        widen: widths are 16, 32 and 64 times this.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if a number is too small or `num_layers` is not as above.
    """

    def __init__(self, num_classes: int, *, in_channels: int = 3, num_layers: int = 40, widen: int = 2, rngs: nnx.Rngs):
        check_positive(num_classes=num_classes, in_channels=in_channels, widen=widen)
        if num_layers < 10 or num_layers % 6 != 4:
            raise ValueError(f"num_layers must be 6 n + 4, such as 10, 16 or 40, got {num_layers}.")
        self.stem = conv(in_channels, BASE, rngs=rngs)
        self.hypernetwork = Hypernetwork(rngs)
        blocks, c_in = [], BASE
        for stage, width in enumerate((BASE * widen, 2 * BASE * widen, 4 * BASE * widen)):
            for place in range((num_layers - 4) // 6):
                blocks.append(_Block(c_in, width, 2 if stage and not place else 1, rngs))
                c_in = width
        self.blocks = nnx.List(blocks)
        self.norm = nnx.BatchNorm(c_in, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.head = Head((c_in,), num_classes, rngs)

    def kernels(self) -> list[tuple[Array, Array]]:
        """The two kernels of each block; they do not depend on the image."""
        return [tuple(self.hypernetwork(one[...]) for one in block.embeddings) for block in self.blocks]  # type: ignore[misc]

    def __call__(self, x: Images, kernels: list[tuple[Array, Array]] | None = None) -> Logits:
        """Logits of a batch, with kernels that were made before if they are given."""
        x = self.stem(x)
        for block, pair in zip(self.blocks, self.kernels() if kernels is None else kernels, strict=True):
            x = block(x, pair)
        return self.head(nnx.relu(self.norm(x)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperWRNNetwork(ModuleNetwork):
    """A `HyperWRN` to train."""

    num_layers: int
    widen: int

    def make(self, seed):
        channels, rngs = self.image_shape[-1], nnx.Rngs(seed)
        return HyperWRN(self.num_classes, in_channels=channels, num_layers=self.num_layers, widen=self.widen, rngs=rngs)

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Convolutions but for shortcuts."""
        return self.num_layers - 3

    def predictor(self, params, stats, **settings) -> GeneratedPredictor:
        return GeneratedPredictor(self, params, *stats.values())

    def generate(self, params):
        return self.model(params, self.init_stats(0)).kernels()

    def apply_with(self, params, stats, kernels, images):
        return self.model(params, stats)(centred(images), kernels)

    def macs(self, params, depth):
        made = count_macs(self.generate, params)
        return made, super().macs(params, depth)[1] - made
