"""WeightNet (Ma, Zhang, Huang and Sun, ECCV 2020) on the papers' ResNet."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.networks.backbones.blocks import ConvNorm, Images, global_pool
from experiments.networks.backbones.resnet import BasicBlock, ResNet
from experiments.networks.module import ModuleNetwork
from puppet_jax.convolution import convolve
from puppet_jax.cpu.windows import NHWC

G = 2
"""Groups an output channel of the layer that makes kernels; M = G, so that each reads one activation."""


class WeightNetConv(nnx.Module):
    """A 3x3 convolution whose kernels a small network computes from the average of its input.

    Average over places, a linear layer to max(16, c_in / 16), another to G c_out, sigmoid, and a linear layer in
    G c_out groups to the kernel (their Sec. 3.2). The last has as many weights as an ordinary kernel.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, rngs: nnx.Rngs):
        if c_in % G:
            raise ValueError(f"WeightNet needs an even number of channels, got {c_in}; choose another --width.")
        self.c_in, self.c_out, self.stride = c_in, c_out, stride
        hidden = max(16, c_in // 16)
        self.reduce = nnx.Linear(c_in, hidden, rngs=rngs)
        self.fc1 = nnx.Linear(hidden, G * c_out, rngs=rngs)
        # a sigmoid starts at 1/2, so that twice He's deviation gives kernels of He's
        deviation = 2 * math.sqrt(2 / (9 * c_in))
        self.fc2 = nnx.Param(deviation * jax.random.normal(rngs.params(), (G * c_out, c_in * 9 // G)))

    def activations(self, x: Images) -> Float[Array, "batch groups"]:
        """What the grouped layer reads, in (0, 1), one a group."""
        return nnx.sigmoid(self.fc1(self.reduce(global_pool(x))))

    def kernels(self, x: Images) -> Float[Array, "batch 3 3 c_in c_out"]:
        """The kernels of each image."""
        flat = jnp.einsum("bg,go->bgo", self.activations(x), self.fc2[...])
        return flat.reshape(len(x), self.c_out, self.c_in, 3, 3).transpose(0, 3, 4, 2, 1)

    def __call__(self, x: Images) -> Images:
        """The convolution of each image with its own kernels.

        A group of the last layer holds the weights from one part of the input channels to one output channel, and one
        activation scales them all. So each part is convolved with weights that all images share, and then scaled.
        """
        kernel = self.fc2[...].reshape(self.c_out, self.c_in, 3, 3).transpose(2, 3, 1, 0)
        scales = self.activations(x).reshape(len(x), 1, 1, self.c_out, G)
        half, strides = self.c_in // G, (self.stride, self.stride)
        parts = [
            scales[..., g]
            * convolve(
                x[..., g * half : (g + 1) * half],
                kernel[:, :, g * half : (g + 1) * half],
                strides,
                ((1, 1), (1, 1)),
                dimension_numbers=NHWC,
            )
            for g in range(G)
        ]
        return functools.reduce(jnp.add, parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightNetNetwork(ModuleNetwork):
    """The papers' ResNet, the 3x3 convolutions of its blocks replaced by WeightNet; stem and shortcuts ordinary.

    Stored for 10 classes at 512 channels: 11,468,154 floats, 45.873 MB (papers: 45.87). Follows from the ResNet without
    a further choice: medium to high confidence.
    """

    width: int
    convolutions = (*ModuleNetwork.convolutions, WeightNetConv)

    def make(self, seed):
        channels, layer = self.image_shape[-1], functools.partial(ConvNorm, layer=WeightNetConv)
        block = functools.partial(BasicBlock, layer=layer)
        return ResNet(self.num_classes, in_channels=channels, max_channels=self.width, block=block, rngs=nnx.Rngs(seed))
