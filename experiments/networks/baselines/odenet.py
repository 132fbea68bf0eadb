"""ODE-Net (Chen, Rubanova, Bettencourt and Duvenaud, NeurIPS 2018): one block for many layers, along a time."""

import dataclasses
from typing import Any, ClassVar, Literal

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from experiments.networks.backbones.blocks import HE_NORMAL, Head, Images, Logits
from experiments.networks.macs import count_macs
from experiments.networks.module import ModuleNetwork, ModulePredictor
from puppet_jax.puppet import centred

WIDTH = 64
TOLERANCE = 1e-3
MAX_STEPS = 256
EVALUATIONS = 6
"""Of the derivative in a step of Dormand and Prince's method, whose last is the next step's first."""
CONVOLUTIONS = 3
"""Before the block."""


def _conv(c_in: int, c_out: int, kernel_size: int, stride: int, padding: int, rngs: nnx.Rngs) -> nnx.Conv:
    size = (kernel_size, kernel_size)
    return nnx.Conv(c_in, c_out, size, strides=stride, padding=padding, kernel_init=HE_NORMAL, rngs=rngs)


def _norm(rngs: nnx.Rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(WIDTH, num_groups=32, epsilon=1e-5, rngs=rngs)


class Derivative(nnx.Module):
    """dx/dt: norm, ReLU, convolution, twice, and a norm; the time is one more input channel of each convolution."""

    def __init__(self, rngs: nnx.Rngs):
        self.norms = nnx.List([_norm(rngs) for _ in range(3)])
        self.convs = nnx.List([_conv(WIDTH + 1, WIDTH, 3, 1, 1, rngs) for _ in range(2)])

    def __call__(self, t: Any, x: Images) -> Images:
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = nnx.relu(norm(x))
            time = jnp.broadcast_to(jnp.asarray(t, x.dtype), (*x.shape[:-1], 1))
            x = conv(jnp.concatenate([time, x], axis=-1))
        return self.norms[2](x)


class ODENet(nnx.Module):
    """Three convolutions to about a quarter of the image's side, the ODE from t = 0 to 1, and a linear layer.

    Stored for 10 classes and 3 channels: 209,418 floats, 0.838 MB.

    Args:
        num_classes: at least 1.
        in_channels: of the images.
        solver: "euler": x <- x + f(x, t) / n, one kernel for n layers (figure 1b of the first paper). "dopri5": steps
            as long as a tolerance of 1e-3 allows; of a batch in training, of each image in predictions.
        num_steps: n of "euler".
        rngs: `params` are drawn from it.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        solver: Literal["euler", "dopri5"] = "dopri5",
        num_steps: int = 8,
        rngs: nnx.Rngs,
    ):
        self.solver, self.num_steps = solver, num_steps
        self.stem = nnx.List(
            [
                _conv(in_channels, WIDTH, 3, 1, 0, rngs),
                _conv(WIDTH, WIDTH, 4, 2, 1, rngs),
                _conv(WIDTH, WIDTH, 4, 2, 1, rngs),
            ]
        )
        self.stem_norms = nnx.List([_norm(rngs) for _ in range(2)])
        self.derivative = Derivative(rngs)
        self.norm = _norm(rngs)
        self.head = Head((WIDTH,), num_classes, rngs)

    def start(self, x: Images) -> Images:
        """The state at t = 0."""
        for conv, norm in zip(self.stem, self.stem_norms, strict=False):
            x = nnx.relu(norm(conv(x)))
        if min(x.shape[1:3]) < 2:
            raise ValueError(f"the images are too small: {x.shape[2]}x{x.shape[1]} pixels are left before a stride.")
        return self.stem[2](x)

    def solve(self, x: Images) -> tuple[Images, Int[Array, " batch"]]:
        """The state at t = 1, and how often the derivative was evaluated; each image takes its own steps."""
        if self.solver == "euler":
            y, steps = self.solve_together(x)
            return y, jnp.full(len(x), steps)
        y, steps = jax.vmap(lambda image: self.solve_together(image[None]))(x)
        return y[:, 0], EVALUATIONS * steps + 1

    def solve_together(self, x: Images) -> tuple[Images, Int[Array, ""]]:
        """The state at t = 1 and the number of steps, which are the same for all images: as long as the worst allows.

        So a batch is one state, as published, and a kernel's gradient is one convolution of the batch.
        """
        graphdef, state = nnx.split(self.derivative)
        term: Any = dfx.ODETerm(lambda t, y, state: nnx.merge(graphdef, state)(t, y))
        if self.solver == "euler":
            n = self.num_steps
            found = dfx.diffeqsolve(term, dfx.Euler(), 0.0, 1.0, 1 / n, x, state, max_steps=n + 1)
        else:
            controller = dfx.PIDController(rtol=TOLERANCE, atol=TOLERANCE, norm=_largest_rms)
            found = dfx.diffeqsolve(
                term,
                dfx.Dopri5(),
                0.0,
                1.0,
                None,
                x,
                state,
                stepsize_controller=controller,
                max_steps=MAX_STEPS,
                throw=False,
            )
        assert found.ys is not None
        # NaN where the steps do not suffice, which training and predictions refuse
        return jnp.where(found.result == dfx.RESULTS.successful, found.ys[0], jnp.nan), found.stats["num_steps"]

    def finish(self, x: Images) -> Logits:
        """Logits of the state at t = 1."""
        return self.head(nnx.relu(self.norm(x)))

    def __call__(self, x: Images) -> Logits:
        """Logits of a batch, solved together."""
        return self.finish(self.solve_together(self.start(x))[0])


def _largest_rms(errors: Images) -> Float[Array, ""]:
    """The root of the mean square error of the image whose is largest."""
    return jnp.sqrt(jnp.square(errors).mean(axis=(1, 2, 3)).max())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ODENetwork(ModuleNetwork):
    """An ODE-Net to train, back through the steps of its solver."""

    solver: Literal["euler", "dopri5"]
    num_steps: int
    depth: ClassVar[int] = CONVOLUTIONS + 2  # type: ignore[misc]

    def make(self, seed):
        channels, rngs = self.image_shape[-1], nnx.Rngs(seed)
        return ODENet(self.num_classes, in_channels=channels, solver=self.solver, num_steps=self.num_steps, rngs=rngs)

    def predictor(self, params, stats, **settings) -> "ODEPredictor":
        return ODEPredictor(self, params, *stats.values())

    def macs(self, params, depth):
        """Of an image of as many convolutions, two for each evaluation of the derivative."""
        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)

        def ends(params, image):
            model = self.model(params, {})
            return model.finish(model.start(image))

        def derivative(params, image):
            model = self.model(params, {})
            return model.derivative(0.0, model.start(image))

        def start(params, image):
            return self.model(params, {}).start(image)

        evaluation = count_macs(derivative, params, image) - count_macs(start, params, image)
        return 0, count_macs(ends, params, image) + (depth - CONVOLUTIONS) // 2 * evaluation


class ODEPredictor(ModulePredictor):
    """Logits, and how many convolutions the solver took each image through."""

    def __call__(self, images: Any, h: Any | None = None) -> np.ndarray:
        return self.route(images, h)[0]

    def route(self, images: Any, h: Any | None = None) -> tuple[np.ndarray, np.ndarray]:
        logits, evaluations = self.in_pieces(images, lambda part: _solve(self.network, self.params, part))
        return logits, CONVOLUTIONS + 2 * evaluations


@jax.jit(static_argnames="network")
def _solve(network: Any, params: Any, images: Any) -> tuple[Float[Array, "batch classes"], Int[Array, " batch"]]:
    with jax.default_matmul_precision("highest"):
        model = network.model(params, {})
        x, evaluations = model.solve(model.start(centred(images)))
        return model.finish(x), evaluations
