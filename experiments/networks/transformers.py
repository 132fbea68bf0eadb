"""Networks whose weights are matrices: a vision transformer and an MLP-Mixer, small enough for two CPU cores."""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from experiments.networks.backbones.blocks import Images, Logits
from experiments.networks.module import ModuleNetwork

Tokens = Float[Array, "batch tokens width"]
HEADS = 4
"""Of attention."""


class _Perceptron(nnx.Module):
    """Two linear layers along the last axis."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.up, self.down = nnx.Linear(width, hidden, rngs=rngs), nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        return self.down(nnx.gelu(self.up(x)))


class _Attention(nnx.Module):
    def __init__(self, width: int, rngs: nnx.Rngs):
        self.attention = nnx.MultiHeadAttention(HEADS, width, width, decode=False, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        return self.attention(x)


class _AcrossTokens(nnx.Module):
    def __init__(self, tokens: int, rngs: nnx.Rngs):
        self.perceptron = _Perceptron(tokens, tokens, rngs)

    def __call__(self, x: Tokens) -> Tokens:
        return self.perceptron(x.swapaxes(1, 2)).swapaxes(1, 2)


class _Block(nnx.Module):
    """Tokens see each other, then each is changed alone; norms first, sums around both."""

    def __init__(self, tokens: int, width: int, mix: Literal["vit", "mixer"], rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.mix = _Attention(width, rngs) if mix == "vit" else _AcrossTokens(tokens, rngs)
        self.perceptron = _Perceptron(width, 2 * width, rngs)

    def __call__(self, x: Tokens) -> Tokens:
        x = x + self.mix(self.norms[0](x))
        return x + self.perceptron(self.norms[1](x))


class Transformer(nnx.Module):
    """A vision transformer without a class token, or an MLP-Mixer (Dosovitskiy et al. 2021, Tolstikhin et al. 2021).

    Positions of the transformer are sines and cosines of the row and the column, which store nothing (Beyer, Zhai and
    Kolesnikov 2022). The hidden layers of perceptrons are twice as wide as the tokens; those across tokens as wide as
    there are tokens.

    Args:
        num_classes: at least 1.
        image_shape: (height, width, channels); `patch` divides height and width.
        name: which.
        width: of a token; a multiple of 4.
        depth: blocks.
        patch: side of a patch in pixels.
        rngs: `params` are drawn from it.

    Raises:
        ValueError: if the patch does not divide the image, or the width is no multiple of 4.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        image_shape: tuple[int, int, int],
        name: Literal["vit", "mixer"],
        width: int,
        depth: int,
        patch: int,
        rngs: nnx.Rngs,
    ):
        height, across, channels = image_shape
        if height % patch or across % patch:
            raise ValueError(f"--patch must divide the image of {height} x {across} pixels, got {patch}.")
        if width % HEADS:
            raise ValueError(f"--width must be a multiple of {HEADS}, got {width}.")
        grid = height // patch, across // patch
        self.grid = grid if name == "vit" else None
        self.patch = nnx.Conv(channels, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.blocks = nnx.List([_Block(math.prod(grid), width, name, rngs) for _ in range(depth)])
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch."""
        x = self.patch(x)
        x = x.reshape(len(x), -1, x.shape[-1])
        if self.grid is not None:
            x = x + positions(*self.grid, x.shape[-1])[None]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(axis=1))


def positions(rows: int, columns: int, width: int) -> Float[Array, "tokens width"]:
    """Sines and cosines of rows and columns, a quarter of the width each."""
    frequencies = 1e4 ** -(np.arange(width // 4) / max(width // 4 - 1, 1))
    places = np.indices((rows, columns)).reshape(2, -1, 1) * frequencies
    return jnp.asarray(np.concatenate([*np.sin(places), *np.cos(places)], axis=-1), jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerNetwork(ModuleNetwork):
    """A `Transformer` to train."""

    name: Literal["vit", "mixer"]
    width: int
    num_blocks: int
    patch: int

    def make(self, seed):
        return Transformer(
            self.num_classes,
            image_shape=self.image_shape,
            name=self.name,
            width=self.width,
            depth=self.num_blocks,
            patch=self.patch,
            rngs=nnx.Rngs(seed),
        )
