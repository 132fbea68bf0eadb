"""A dynamic recursive network after the abstract of Guo, Yu, Wu, Liang, Qin and Yan (CVPR 2019).

No code of theirs is public, and their paper was not at hand: this is a re-implementation from the abstract. It says
that residual blocks are run recursively, that a gate in each decides how many loops an image takes, and that each loop
has batch norms of its own. How a gate looks, when it is read, and the penalty are chosen here.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from experiments.networks.backbones.blocks import (
    HE_NORMAL,
    Images,
    conv,
    global_pool,
)
from experiments.networks.backbones.resnet import ResNet
from experiments.networks.baselines.pieces import PiecewiseNetwork, straight_through

NUM_BLOCKS = 8


class DRNNOutputs(NamedTuple):
    """What a batch gives in training: logits (batch, classes), and the sum of the gates of its loops (batch,)."""

    logits: Float[Array, "batch classes"]
    gates: Float[Array, " batch"]


class LoopNorm(nnx.Module):
    """A batch norm for each loop; its moments are those of the images that are still in the loop."""

    def __init__(self, channels: int, num_loops: int, affine: bool, rngs: nnx.Rngs):
        options: dict[str, Any] = {"use_scale": affine, "use_bias": affine, "rngs": rngs}
        self.norms = nnx.List(
            [nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, **options) for _ in range(num_loops)]
        )

    def __call__(self, x: Images, loop: int, alive: Float[Array, " batch"] | None = None) -> Images:
        if alive is None:
            return self.norms[loop](x)
        kept = (alive > 0) | ~(alive > 0).any()  # if none is left, the moments do not matter
        return self.norms[loop](x, mask=kept[:, None, None, None])


class RecursiveBlock(nnx.Module):
    """A basic block that is run up to `num_loops` times: x <- relu(x + F(x)), with norms of the loop.

    A block that changes the shape cannot read its own output: each of its loops adds F of its input once more, and one
    decision of its gate holds for all loops.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, *, num_loops: int, affine: bool, rngs: nnx.Rngs):
        self.first = conv(c_in, c_out, stride=stride, rngs=rngs)
        self.first_norm = LoopNorm(c_out, num_loops, affine, rngs)
        self.second = conv(c_out, c_out, rngs=rngs)
        self.second_norm = LoopNorm(c_out, num_loops, affine, rngs)
        self.changes = stride > 1 or c_in != c_out
        self.shortcut = conv(c_in, c_out, kernel_size=1, stride=stride, rngs=rngs) if self.changes else None
        self.squeeze = nnx.Linear(c_in, max(1, c_in // 2), kernel_init=HE_NORMAL, rngs=rngs)
        self.decide = nnx.Linear(max(1, c_in // 2), 1, kernel_init=HE_NORMAL, rngs=rngs)

    def gate(self, x: Images) -> Float[Array, " batch"]:
        """Probability of one more loop, from the average of what the block reads."""
        return nnx.sigmoid(self.decide(nnx.relu(self.squeeze(global_pool(x)))))[:, 0]

    def residual(self, x: Images, loop: int, alive: Float[Array, " batch"] | None = None) -> Images:
        """F with the norms of a loop."""
        y = nnx.relu(self.first_norm(self.first(x), loop, alive))
        return self.second_norm(self.second(y), loop, alive)

    def enter(self, x: Images) -> Images:
        """The first loop, which every image takes."""
        return nnx.relu(self.residual(x, 0) + (x if self.shortcut is None else self.shortcut(x)))


class DRNN(ResNet):
    """The papers' ResNet of 18 layers whose blocks are recursive.

    Stored for 10 classes at 512 channels with 3 loops: 11,445,266 floats, 45.781 MB (papers: 45.78). Many settings of
    gates and loops give as many: low confidence.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        max_channels: scales every width by `max_channels` / 512.
        num_loops: most runs of a block, at least 2.
        rngs: `params` are drawn from it.
    """

    def __init__(
        self, num_classes: int, *, in_channels: int = 3, max_channels: int = 512, num_loops: int = 3, rngs: nnx.Rngs
    ):
        block = functools.partial(RecursiveBlock, num_loops=num_loops)
        super().__init__(num_classes, in_channels=in_channels, max_channels=max_channels, block=block, rngs=rngs)
        self.num_loops = num_loops

    def __call__(self, x: Images) -> DRNNOutputs:  # type: ignore[override]
        """Training: every loop is computed, and taken where the gate is open; the gradient is that of soft gates."""
        x = self.start(x)
        total = jnp.zeros(len(x))
        blocks: Any = self.blocks
        for block in blocks:
            y = block.enter(x)
            alive = jnp.ones(len(x))
            for loop in range(1, self.num_loops):
                read = x if block.changes else y
                if loop == 1 or not block.changes:
                    alive = alive * straight_through(block.gate(read))
                more = nnx.relu(y + block.residual(read, loop, jax.lax.stop_gradient(alive)))
                g = alive[:, None, None, None]
                y = g * more + (1 - g) * y
                total += alive
            x = y
        return DRNNOutputs(self.head(x), total)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DRNNNetwork(PiecewiseNetwork):
    """A DRNN to train: cross-entropy plus a penalty on each loop that an image takes beyond the first."""

    width: int
    num_loops: int
    penalty: float = dataclasses.field(metadata={"stored": False}, default=0.0)

    def make(self, seed):
        channels, rngs = self.image_shape[-1], nnx.Rngs(seed)
        return DRNN(
            self.num_classes, in_channels=channels, max_channels=self.width, num_loops=self.num_loops, rngs=rngs
        )

    @functools.cached_property
    def pieces(self):
        loops = {f"loop {loop} of {n}": 2 for n in range(1, NUM_BLOCKS + 1) for loop in range(1, self.num_loops + 1)}
        gates = {f"gate of {n}": 0 for n in range(1, NUM_BLOCKS + 1)}
        return {"stem": 2} | loops | gates | {"head": 0}

    @property
    def decided(self):
        return tuple(f"loop {loop} of {n}" for n in range(1, NUM_BLOCKS + 1) for loop in range(2, self.num_loops + 1))

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Convolutions if every loop runs, those of shortcuts not counted."""
        return 2 + 2 * NUM_BLOCKS * self.num_loops

    def loss(self, outputs, targets):
        loss = optax.softmax_cross_entropy(outputs.logits, targets).mean()
        return loss + self.penalty * outputs.gates.mean(), outputs.logits

    def run_piece(self, model: DRNN, piece: str, x: Any) -> Any:
        kind, *rest = piece.split()
        if kind == "stem":
            return model.start(x)
        if kind == "head":
            return model.head(x)
        block: Any = model.blocks[int(rest[-1]) - 1]
        if kind == "gate":
            return block.gate(x)
        loop = int(rest[0]) - 1
        if loop == 0:
            return block.enter(x)
        return block.residual(x, loop)

    @functools.cached_property
    def _changes(self) -> tuple[bool, ...]:
        """Which blocks change the shape."""
        blocks: Any = nnx.merge(*self.abstract).blocks
        return tuple(block.changes for block in blocks)

    def answer(self, run, images, settings):
        every = np.arange(len(images))
        x = run("stem", images, every)
        for n, changes in enumerate(self._changes, 1):
            y = run(f"loop 1 of {n}", x, every)
            rows = every
            for loop in range(2, self.num_loops + 1):
                read = x if changes else y
                if loop == 2 or not changes:
                    rows = rows[run(f"gate of {n}", read[rows], rows) > 0.5]
                if not len(rows):
                    break
                y[rows] = np.maximum(y[rows] + run(f"loop {loop} of {n}", read[rows], rows), 0)
            x = y
        return run("head", x, every)
