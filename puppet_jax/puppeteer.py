"""The puppeteer: the trainable vector field G and the initial state of its trajectory (v1 Secs. 3.3 and 3.5)."""

import dataclasses
import functools
from typing import Any, Literal, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from puppet_jax.adaptation import initial_level
from puppet_jax.checks import check_number
from puppet_jax.cpu.windows import apart, derived
from puppet_jax.seeded import check_state, kernel_pattern, seeded_pattern

InitialState = Literal["seeded", "constant", "learned"]
KernelsFrom = Literal["state", "velocity"]
_INITIAL_STATES = ("seeded", "constant", "learned")
_KERNELS_FROM = ("state", "velocity")
IDLE_BIASES = ("depthwise_bias", "norm1_bias", "pointwise_bias")
"""Fields that no kernel depends on: the norm behind them takes away what is the same all over a channel."""
_EPSILON = 1e-5
_SHIFTS = [(i, j) for i in range(3) for j in range(3)]


def _static(**kwargs):
    return dataclasses.field(metadata={"static": True}, **kwargs)


@no_type_check  # trees of shapes, of booleans or of arrays on hosts are of this class too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Puppeteer:
    """Parameters of the generator; the array leaves are exactly the trainable floats, C**2 + 15 C of them.

    A pytree: `jax.grad` with respect to a puppeteer is again a puppeteer. C is the largest number of channels and K
    the largest kernel size of the puppet; a state of the trajectory has shape (C, C, K**2), output channels by input
    channels by taps (row-major).

    Attributes:
        depthwise_kernel: (3, 3, C); axes are the shift along input channels, the shift along taps, output channel.
        depthwise_bias: (C,).
        norm1_scale: (C,).
        norm1_bias: (C,).
        pointwise_kernel: (C, C), produced channel by consumed channel.
        pointwise_bias: (C,).
        norm2_scale: (C,).
        norm2_bias: (C,).
        initial_state: (C, C, K**2) for `initial_state_kind == "learned"`, else None.
        initial_state_kind: "seeded", "constant" or "learned".
        kernel_size: K.
        seed: seed of the pattern of the seeded initial state.
        scale: standard deviation of the seeded initial state at level 1.
        kernels_from: what a layer reads of the trajectory, "state" or "velocity".
    """

    depthwise_kernel: Float[Array, "3 3 C"]
    depthwise_bias: Float[Array, " C"]
    norm1_scale: Float[Array, " C"]
    norm1_bias: Float[Array, " C"]
    pointwise_kernel: Float[Array, "C C"]
    pointwise_bias: Float[Array, " C"]
    norm2_scale: Float[Array, " C"]
    norm2_bias: Float[Array, " C"]
    initial_state: Float[Array, "C C taps"] | None = None
    initial_state_kind: InitialState = _static(default="seeded")
    kernel_size: int = _static(default=3)
    seed: int = _static(default=0)
    scale: float = _static(default=0.1)
    kernels_from: KernelsFrom = _static(default="state")

    def __post_init__(self):
        """Refuses what is no kind of initial state and no kind of kernels."""
        for name, kind, kinds in (
            ("initial_state", self.initial_state_kind, _INITIAL_STATES),
            ("kernels_from", self.kernels_from, _KERNELS_FROM),
        ):
            if kind not in kinds:
                raise ValueError(f"{name} must be one of {', '.join(kinds)}, got {kind!r:.80}.")

    @property
    def max_channels(self) -> int:
        """C, the number of channels of a state."""
        return self.depthwise_bias.shape[0]

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """Shape (C, C, K**2) of a state."""
        return (self.max_channels, self.max_channels, self.kernel_size**2)

    @property
    def state_dtype(self) -> jnp.dtype:
        """Dtype of a state: that of the parameters, but never less than float32."""
        return jnp.promote_types(self.pointwise_kernel.dtype, jnp.float32)


def init_puppeteer(
    key: PRNGKeyArray,
    max_channels: int = 512,
    kernel_size: int = 3,
    initial_state: InitialState = "seeded",
    seed: int = 0,
    scale: float = 0.1,
    kernels_from: KernelsFrom = "state",
) -> Puppeteer:
    """A puppeteer with random kernels, zero biases and unit scales.

    Both kernels are uniform with variance 1 / (3 fan-in); norms follow them, so their scale matters little.

    Args:
        key: a JAX random key.
        max_channels: C, the largest number of channels of any kernel to be generated, at least 1.
        kernel_size: K, the largest kernel size, odd.
        initial_state: how a trajectory starts, times the level p0(h) of v1 Eq. 11. "constant" is Eq. 11 to the
            letter (every entry 1), "seeded" a fixed pseudo-random pattern of standard deviation `scale` that stores
            nothing (see `seeded_pattern`), "learned" 9 C**2 more trainable floats, which start as the seeded ones.
        seed: of the pattern, in [0, 2**64).
        scale: of the pattern, positive and finite.
        kernels_from: what layer n reads of the trajectory: "state" is S_{n+1} (v1 Eq. 12), the sum of all that the
            layers before it have read; "velocity" is G(S_n), by which the trajectory gets there from S_n. Either stores
            nothing.

    Returns:
        A `Puppeteer` of float32 leaves.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> import jax, puppet_jax as pj
        >>> pj.num_floats(pj.init_puppeteer(jax.random.key(0), max_channels=512))
        269824
    """
    max_channels, kernel_size, seed = check_state(max_channels, kernel_size, seed)
    check_number("scale", scale)
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be positive and finite, got {scale}.")
    depthwise_key, pointwise_key = jax.random.split(key)
    bound = max_channels**-0.5
    learned = None
    if initial_state == "learned":
        learned = scale * seeded_pattern(max_channels, kernel_size, seed)
    return Puppeteer(
        depthwise_kernel=jax.random.uniform(
            depthwise_key, (3, 3, max_channels), jnp.float32, minval=-1 / 3, maxval=1 / 3
        ),
        depthwise_bias=jnp.zeros(max_channels, jnp.float32),
        norm1_scale=jnp.ones(max_channels, jnp.float32),
        norm1_bias=jnp.zeros(max_channels, jnp.float32),
        pointwise_kernel=jax.random.uniform(
            pointwise_key, (max_channels, max_channels), jnp.float32, minval=-bound, maxval=bound
        ),
        pointwise_bias=jnp.zeros(max_channels, jnp.float32),
        norm2_scale=jnp.ones(max_channels, jnp.float32),
        norm2_bias=jnp.zeros(max_channels, jnp.float32),
        initial_state=learned,
        initial_state_kind=initial_state,
        kernel_size=kernel_size,
        seed=seed,
        scale=float(scale),
        kernels_from=kernels_from,
    )


def idle_leaves(tree: Any) -> Any:
    """Which leaves of a pytree no kernel depends on, the same tree of booleans: `IDLE_BIASES` of puppeteers.

    A puppeteer is a node, or, as in the state of an NNX model and in a dictionary by path, what is named `puppeteer`.
    """

    def of_node(path: Any, node: Any) -> Any:
        if isinstance(node, Puppeteer):
            flags: Any = jax.tree.map(lambda _: False, node)
            return dataclasses.replace(flags, **dict.fromkeys(IDLE_BIASES, True))
        names = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value").split(".")
        return names[-2:-1] == ["puppeteer"] and names[-1] in IDLE_BIASES

    return jax.tree.map_with_path(of_node, tree, is_leaf=lambda node: isinstance(node, Puppeteer))


def check_puppeteer(puppeteer: Puppeteer) -> None:
    """Raises a TypeError if it is something else."""
    if not isinstance(puppeteer, Puppeteer):
        raise TypeError(f"puppeteer must be a Puppeteer (init_puppeteer makes one), got {puppeteer!r:.80}.")


def start(puppeteer: Puppeteer, h: Float[Array, ""]) -> Float[Array, "taps C C"]:
    """The initial state S_0 at complexity `h`: the level p0(h) (v1 Eq. 11) times the puppeteer's pattern.

    Its axes are in the order of a kernel's: taps, input channels, output channels.
    """
    level = initial_level(h).astype(puppeteer.state_dtype)
    if puppeteer.initial_state_kind == "constant":
        return jnp.broadcast_to(level, puppeteer.state_shape[::-1])
    if puppeteer.initial_state_kind == "learned":
        assert puppeteer.initial_state is not None
        return level * puppeteer.initial_state.astype(puppeteer.state_dtype).transpose()
    pattern = kernel_pattern(puppeteer.max_channels, puppeteer.kernel_size, puppeteer.seed)
    return (puppeteer.scale * level) * pattern.astype(puppeteer.state_dtype)


def field(puppeteer: Puppeteer, state: Float[Array, "C C taps"]) -> Float[Array, "C C taps"]:
    """The vector field G (v1 Eq. 6 and Sec. 3.5): a depthwise-separable convolution, norms and tanh.

    Depthwise 3x3 over the (input channels, taps) plane of each output channel, zero padding, bias; norm; pointwise
    C x C over the output channels, bias; norm; tanh. A norm takes mean and biased variance of each channel's plane
    from the state itself (epsilon 1e-5), so that the field is a pure function without running statistics.

    Args:
        puppeteer: parameters.
        state: (C, C, K**2).

    Returns:
        dS/dl, same shape and dtype as `state`, in (-1, 1).

    Raises:
        TypeError: if `puppeteer` is none.
        ValueError: if `state` has another shape.
    """
    check_puppeteer(puppeteer)
    if jnp.shape(state) != puppeteer.state_shape:
        raise ValueError(f"state must have the shape {puppeteer.state_shape} of a state, got {jnp.shape(state)}.")
    return _field(puppeteer, state)


@jax.jit  # so that a gradient outside `jit` compiles once too
def _field(puppeteer: Puppeteer, state: Float[Array, "C C taps"]) -> Float[Array, "C C taps"]:
    return kernel_field(puppeteer, state.transpose()).transpose()


def kernel_field(puppeteer: Puppeteer, state: Float[Array, "taps C C"]) -> Float[Array, "taps C C"]:
    """`field` of a state whose axes are in the order of a kernel's: taps, input channels, output channels.

    So a CPU works on many output channels at once, which takes less than half the time. The biases of the depthwise
    convolution, of the norm behind it and of the pointwise one are left out: the next norm takes away what is the same
    all over a channel. For the same reason what the second norm sees has mean zero.
    """
    x = _scaled(_centred(_depthwise(state, puppeteer.depthwise_kernel)), puppeteer.norm1_scale)
    # HIGHEST: float32 means float32 on a GPU too, where the default rounds the factors to ten bits. A product of two
    # matrices: that of a matrix and an array of three axes is slower by half backwards on a CPU.
    planes, precision = x.reshape(-1, x.shape[-1]), jax.lax.Precision.HIGHEST
    x = jnp.matmul(planes, puppeteer.pointwise_kernel.T, precision=precision).reshape(x.shape)
    return jnp.tanh(_scaled(x, puppeteer.norm2_scale) + puppeteer.norm2_bias[None, None])


def _depthwise(state: Float[Array, "T I C"], kernel: Float[Array, "3 3 C"]) -> Float[Array, "T I C"]:
    if jax.default_backend() == "cpu":
        return derived(_shifted, _by_rows, _turned)(state, kernel)
    return _shifted(state, kernel)


def _shifted(state: Float[Array, "T I C"], kernel: Float[Array, "3 3 C"]) -> Float[Array, "T I C"]:
    # Nine shifted multiply-adds: a convolution inside a loop is up to 60 times slower backwards on a CPU.
    taps, rows, _ = state.shape
    padded = jnp.pad(state, ((1, 1), (1, 1), (0, 0)))
    return _sum_of_shifts([kernel[i, j][None, None] * padded[j : j + taps, i : i + rows] for i, j in _SHIFTS])


def _by_rows(state: Float[Array, "T I C"], kernel: Float[Array, "3 3 C"]) -> Float[Array, "T I C"]:
    """The same, whose gradient by the kernel adds up a few rows at a time: a quarter of the time, or less, on a CPU."""
    taps, rows, channels = state.shape
    few = 1 if rows % 2 else 2
    padded = jnp.pad(state, ((1, 1), (1, 1), (0, 0)))
    weights = apart(kernel.reshape(9, channels))

    @functools.partial(jax.checkpoint, prevent_cse=False)  # shifted rows are not kept
    def piece(first: Array) -> Array:
        seen = jax.lax.dynamic_slice_in_dim(padded, first, few + 2, axis=1)

        def row(t: int, n: int) -> Array:
            return _sum_of_shifts(
                [weight * seen[t + j, n + i] for weight, (i, j) in zip(weights, _SHIFTS, strict=True)]
            )

        return jnp.stack([row(t, n) for t in range(taps) for n in range(few)])

    pieces = jax.lax.map(piece, jnp.arange(0, rows, few))
    return pieces.reshape(-1, taps, few, channels).swapaxes(0, 1).reshape(state.shape)


def _turned(state: Float[Array, "T I C"], kernel: Float[Array, "3 3 C"]) -> Float[Array, "T I C"]:
    """The same, whose gradient by the state is `_shifted` with the kernel turned around: up to a fifth less time."""
    return jax.linear_transpose(lambda gradient: _shifted(gradient, kernel[::-1, ::-1]), state)(state)[0]


def _sum_of_shifts(terms: list[Array]) -> Array:
    return sum(terms[1:], start=terms[0])


def _centred(x: Float[Array, "T I C"]) -> Float[Array, "T I C"]:
    return x - x.mean(axis=(0, 1), keepdims=True)


def _scaled(x: Float[Array, "T I C"], scale: Float[Array, " C"]) -> Float[Array, "T I C"]:
    """Values of mean zero over their deviation, times a scale."""
    variance = jnp.square(x).mean(axis=(0, 1), keepdims=True)
    return x * (scale[None, None] * jax.lax.rsqrt(variance + _EPSILON))
