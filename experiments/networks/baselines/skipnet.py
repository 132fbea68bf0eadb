"""SkipNet (Wang, Yu, Dou, Darrell and Gonzalez, ECCV 2018): gates decide which blocks an image runs through."""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from experiments.networks.backbones.blocks import (
    HE_NORMAL,
    ConvNorm,
    Head,
    Images,
    check_positive,
    conv,
    global_pool,
    scaled,
)
from experiments.networks.baselines.pieces import PiecewiseNetwork, straight_through

BLOCKS_PER_GROUP = 2
NUM_BLOCKS = 3 * BLOCKS_PER_GROUP


class SkipOutputs(NamedTuple):
    """What a batch gives in training.

    Attributes:
        logits: (batch, classes).
        log_probs: (batch, gates) of the actions taken, of the gates whose decision counts.
        actions: (batch, gates), 1 where the block after the gate ran.
    """

    logits: Float[Array, "batch classes"]
    log_probs: Float[Array, "batch gates"]
    actions: Float[Array, "batch gates"]


class _Block(nnx.Module):
    """The residual part of a basic block, and its shortcut, which an image takes that skips the block."""

    def __init__(self, c_in: int, c_out: int, stride: int, rngs: nnx.Rngs):
        self.first = ConvNorm(c_in, c_out, stride=stride, rngs=rngs)
        self.second = ConvNorm(c_out, c_out, rngs=rngs)
        projects = stride > 1 or c_in != c_out
        self.shortcut = conv(c_in, c_out, kernel_size=1, stride=stride, rngs=rngs) if projects else None

    def bypass(self, x: Images) -> Images:
        return x if self.shortcut is None else self.shortcut(x)

    def residual(self, x: Images) -> Images:
        return self.second(nnx.relu(self.first(x)))


class FeedForwardGate(nnx.Module):
    """FFGate-II: 3x3 convolution of stride 2, norm, ReLU, average over places, logits of skipping and of running."""

    def __init__(self, channels: int, rngs: nnx.Rngs):
        self.layer = ConvNorm(channels, channels, stride=2, rngs=rngs)
        self.decide = nnx.Linear(channels, 2, kernel_init=HE_NORMAL, rngs=rngs)

    def __call__(self, x: Images) -> Float[Array, "batch 2"]:
        return self.decide(global_pool(nnx.relu(self.layer(x))))


class SkipNet(nnx.Module):
    """Residual network of three groups of two blocks, 128, 256 and 512 channels, with a gate behind every block.

    The first block always runs; the gate behind a block decides on the next, and the last gate on nothing. Stored for
    10 classes at 512 channels: 17,224,534 floats, 68.898 MB (papers: 68.88; without norms in the gates 68.884): medium
    confidence.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512.
        gates: "straight_through": hard gates with the gradient of soft ones. "soft": soft in training, hard in
            evaluation.
        rngs: `params` are drawn from it.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        max_channels: int = 512,
        gates: Literal["straight_through", "soft"] = "straight_through",
        rngs: nnx.Rngs,
    ):
        check_positive(num_classes=num_classes, in_channels=in_channels, max_channels=max_channels)
        self.kind = gates
        stem, *widths = scaled((64, 128, 256, 512), max_channels)
        self.stem = ConvNorm(in_channels, stem, rngs=rngs)
        blocks, gate_list, c_in = [], [], stem
        for group, width in enumerate(widths):
            for place in range(BLOCKS_PER_GROUP):
                blocks.append(_Block(c_in, width, 2 if group and not place else 1, rngs))
                gate_list.append(FeedForwardGate(width, rngs))
                c_in = width
        self.blocks = nnx.List(blocks)
        self.gates = nnx.List(gate_list)
        self.head = Head((c_in,), num_classes, rngs)

    def __call__(self, x: Images, key: Array | None = None, sample: bool = False) -> SkipOutputs:
        """Training: every block is computed, and mixed with its bypass as its gate says.

        Args:
            x: images.
            key: for sampled actions.
            sample: actions are drawn from the gates' probabilities, without a gradient through them.
        """
        x = nnx.relu(self.stem(x))
        running = jnp.ones(len(x))
        log_probs, actions = [], []
        for index, (block, gate) in enumerate(zip(self.blocks, self.gates, strict=True)):
            x = gated(block, x, running)
            if index == len(self.blocks) - 1:
                break
            scores = jax.nn.log_softmax(gate(x))
            probability = jnp.exp(scores[:, 1])
            if sample and key is not None:
                action = jax.random.bernoulli(jax.random.fold_in(key, index), probability).astype(x.dtype)
            else:
                action = (probability > 0.5).astype(x.dtype)
            actions.append(action)
            log_probs.append(jnp.where(action > 0, scores[:, 1], scores[:, 0]))
            if sample:
                running = action
            elif self.kind == "soft":
                running = probability
            else:
                running = straight_through(probability)
        return SkipOutputs(self.head(x), jnp.stack(log_probs, axis=1), jnp.stack(actions, axis=1))


def gated(block: _Block, x: Images, running: Float[Array, " batch"]) -> Images:
    """The mixture g F(x) + (1 - g) x of a whole block F and its bypass (their Eq. 1), projected where shapes change."""
    bypass = block.bypass(x)
    g = running[:, None, None, None]
    return g * nnx.relu(block.residual(x) + bypass) + (1 - g) * bypass


def returns(
    actions: Float[Array, "batch gates"], losses: Float[Array, " batch"], reward: float
) -> Float[Array, "batch gates"]:
    """What each gate is rewarded with: R_i = -L + Σ_{j>=i} reward/gates (1 - a_j) (their Eq. 4)."""
    skipped = reward / actions.shape[1] * (1 - actions)
    return jnp.cumsum(skipped[:, ::-1], axis=1)[:, ::-1] - losses[:, None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkipNetwork(PiecewiseNetwork):
    """SkipNet to train: supervised, or, from a supervised run, with the reinforcement term on sampled gates."""

    width: int
    gates: Literal["straight_through", "soft"] = dataclasses.field(
        metadata={"stored": False}, default="straight_through"
    )
    phase: Literal["supervised", "reinforcement"] = dataclasses.field(metadata={"stored": False}, default="supervised")
    reward: float = dataclasses.field(metadata={"stored": False}, default=0.1)
    reward_weight: float = dataclasses.field(metadata={"stored": False}, default=0.01)

    def make(self, seed):
        channels, rngs = self.image_shape[-1], nnx.Rngs(seed)
        return SkipNet(self.num_classes, in_channels=channels, max_channels=self.width, gates=self.gates, rngs=rngs)

    @functools.cached_property
    def pieces(self):
        gates = {f"gate {n}": 0 for n in range(1, NUM_BLOCKS)}
        bypasses = {f"bypass {n}": 0 for n in range(1, NUM_BLOCKS + 1)}
        return {"stem": 1} | {f"block {n}": 2 for n in range(1, NUM_BLOCKS + 1)} | bypasses | gates | {"head": 0}

    @property
    def decided(self):
        return tuple(f"block {n}" for n in range(2, NUM_BLOCKS + 1))

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Convolutions if every block runs, those of gates and shortcuts not counted."""
        return 1 + 2 * NUM_BLOCKS

    def call(self, model, x, key):
        return model(x, key, sample=self.phase == "reinforcement" and key is not None)

    def loss(self, outputs, targets):
        losses = optax.softmax_cross_entropy(outputs.logits, targets)
        if self.phase == "supervised":
            return losses.mean(), outputs.logits
        gain = jax.lax.stop_gradient(returns(outputs.actions, losses, self.reward))
        reinforcement = -(outputs.log_probs * gain).sum(axis=1).mean()
        return losses.mean() + self.reward_weight * reinforcement, outputs.logits

    def run_piece(self, model: SkipNet, piece: str, x: Array) -> Any:
        kind, _, number = piece.partition(" ")
        if kind == "stem":
            return nnx.relu(model.stem(x))
        if kind == "head":
            return model.head(x)
        index = int(number) - 1
        if kind == "gate":
            return jax.nn.softmax(model.gates[index](x))[:, 1]
        block = model.blocks[index]
        return block.bypass(x) if kind == "bypass" else nnx.relu(block.residual(x) + block.bypass(x))

    def answer(self, run, images, settings):
        every = np.arange(len(images))
        x = run("stem", images, every)
        running = np.ones(len(images), bool)
        for n in range(1, NUM_BLOCKS + 1):
            on, off = np.flatnonzero(running), np.flatnonzero(~running)
            parts = [(on, run(f"block {n}", x[on], on))] if len(on) else []
            if len(off):
                parts.append((off, run(f"bypass {n}", x[off], off)))
            x = np.empty((len(images), *parts[0][1].shape[1:]), np.float32)
            for rows, part in parts:
                x[rows] = part
            if n < NUM_BLOCKS:
                running = run(f"gate {n}", x, every) > 0.5
        return run("head", x, every)
