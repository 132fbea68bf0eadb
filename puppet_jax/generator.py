"""What makes weights from few floats: one contract, and the puppeteer behind it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeVar, no_type_check, runtime_checkable

import jax
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from puppet_jax.projection import as_kernel_shape, least_state
from puppet_jax.puppeteer import InitialState, KernelsFrom, Puppeteer, init_puppeteer
from puppet_jax.trajectory import generate_kernels, num_steps

MOST_CHANNELS = 512
"""C that is chosen at most, the papers'."""
LARGEST_KERNEL_SIZE = 3
"""K likewise."""

Shapes = Sequence[tuple[int, int, int, int]]
Params = TypeVar("Params")


@runtime_checkable
class Generator(Protocol[Params]):
    """What `puppetize` takes as `generator`: settings in a frozen dataclass, as those of a Linen module.

    Shapes are HWIO, (kh, kw, c_in, c_out), in network order; a matrix is (1, 1, inputs, outputs). `num_floats` and
    `num_bytes` of the parameters are what is stored. `puppet_jax.extras.generators` has others than the puppeteer.

    Attributes:
        condition_size: None if a condition is the complexity h, a scalar of at least 0; else conditions are vectors of
            so many numbers.
    """

    @property
    def condition_size(self) -> int | None:
        """Of a vector, or None for the complexity."""

    def init(self, key: PRNGKeyArray, shapes: Shapes) -> Params:
        """The trained floats, a pytree of arrays."""

    def generate(
        self, params: Params, condition: Float[ArrayLike, "..."], shapes: Shapes
    ) -> tuple[Float[Array, "..."], ...]:
        """Weights of `shapes`; pure, and differentiable by the parameters."""


@no_type_check  # refuses other words itself
@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppeteerGenerator:
    """The papers' generator: a trajectory of Euler steps, one a kernel (`init_puppeteer`, `generate_kernels`).

    Attributes:
        max_channels: C; if not given, the largest number of channels of any shape, but at most 512, the papers'.
        kernel_size: K, odd; if not given, the least that holds the largest window, but at most 3, the papers'.
        initial_state: see `init_puppeteer`.
        seed: see `init_puppeteer`.
        scale: see `init_puppeteer`.
        kernels_from: see `init_puppeteer`.
        matrices: how a kernel of one tap is read from the K x K taps of a state. "mean": their average, as the papers
            pool. "taps": a K-th of the inputs and of the outputs each; the matrix is put together from all taps, from
            a ninth of the steps where it is larger than a state.

    Example:
        >>> import jax, puppet_jax as pj
        >>> generator, shapes = pj.PuppeteerGenerator(matrices="taps"), [(1, 1, 48, 96)]
        >>> params = generator.init(jax.random.key(0), shapes)
        >>> params.max_channels, generator.generate(params, 4.5, shapes)[0].shape
        (32, (1, 1, 48, 96))
    """

    condition_size: ClassVar[None] = None  # the complexity h
    max_channels: int | None = None
    kernel_size: int | None = None
    initial_state: InitialState = "seeded"
    seed: int = 0
    scale: float = 0.1
    kernels_from: KernelsFrom = "state"
    matrices: Literal["mean", "taps"] = "mean"

    def __post_init__(self):
        """Refuses what is no way to read a matrix."""
        if self.matrices not in ("mean", "taps"):
            raise ValueError(f"matrices must be mean or taps, got {self.matrices!r:.80}.")

    @classmethod
    def of(cls, puppeteer: Puppeteer, **settings: Any) -> "PuppeteerGenerator":
        """The settings of a puppeteer; `settings` are those that it does not hold."""
        return cls(
            max_channels=puppeteer.max_channels,
            kernel_size=puppeteer.kernel_size,
            initial_state=puppeteer.initial_state_kind,
            seed=puppeteer.seed,
            scale=puppeteer.scale,
            kernels_from=puppeteer.kernels_from,
            **settings,
        )

    def init(self, key: PRNGKeyArray, shapes: Shapes) -> Puppeteer:
        """A new puppeteer, see `init_puppeteer`."""
        size, channels = self.kernel_size, self.max_channels
        if size is None:
            by_taps = self.matrices == "taps"
            size = LARGEST_KERNEL_SIZE if by_taps else min(least_state(shapes)[1], LARGEST_KERNEL_SIZE)
        if channels is None:
            channels = min(least_state([self.read_shape(shape, size) for shape in shapes])[0], MOST_CHANNELS)
        return init_puppeteer(
            key,
            max_channels=channels,
            kernel_size=size,
            initial_state=self.initial_state,
            seed=self.seed,
            scale=self.scale,
            kernels_from=self.kernels_from,
        )

    def generate(
        self, params: Puppeteer, condition: Float[ArrayLike, ""], shapes: Shapes
    ) -> tuple[Float[Array, "..."], ...]:
        """The kernels of complexity `condition`, see `generate_kernels`."""
        read = [self.read_shape(shape, params.kernel_size) for shape in shapes]
        kernels = generate_kernels(params, condition, read)
        return tuple(
            kernel if kernel.shape == tuple(shape) else _unfolded(kernel, shape)
            for kernel, shape in zip(kernels, shapes, strict=True)
        )

    def num_steps(self, params: Puppeteer, shapes: Shapes) -> int:
        """Euler steps of `generate`."""
        read = [self.read_shape(shape, params.kernel_size) for shape in shapes]
        return num_steps(read, params.max_channels, params.kernel_size)

    def read_shape(self, shape: Any, size: int) -> tuple[int, int, int, int]:
        """The kernel of `size` x `size` taps that a matrix is read from; another kernel as it is."""
        kh, kw, c_in, c_out = shape = as_kernel_shape(shape)
        if self.matrices == "mean" or (kh, kw) != (1, 1):
            return shape
        return size, size, math.ceil(c_in / size), math.ceil(c_out / size)


def _unfolded(kernel: Float[Array, "kh kw a b"], shape: tuple[int, ...]) -> Float[Array, "1 1 c_in c_out"]:
    """The matrix whose blocks are the taps of `kernel`: rows of the window are blocks of inputs."""
    kh, kw, a, b = kernel.shape
    matrix = kernel.transpose(0, 2, 1, 3).reshape(kh * a, kw * b)
    return matrix[None, None, : shape[2], : shape[3]]


class GeneratorModule(nnx.Module):
    """A generator and its parameters as an NNX module: one `nnx.Param` for each array.

    Attributes:
        generator: its settings.

    Raises:
        ValueError: if two parameters, or one and an attribute of the module, would have one name.
    """

    def __init__(self, generator: Generator, params: Any):
        self.generator = generator
        leaves, self._treedef = jax.tree_util.tree_flatten_with_path(params)
        self._names = tuple(jax.tree_util.keystr(path, simple=True, separator="_") or "value" for path, _ in leaves)
        self._check_names([jax.tree_util.keystr(path) for path, _ in leaves])
        for name, (_, leaf) in zip(self._names, leaves, strict=True):
            setattr(self, name, nnx.Param(leaf))

    def _check_names(self, paths: Sequence[str]) -> None:
        """Names are those of attributes, and of a state: one each."""
        first: dict[str, str] = {}
        for name, path in zip(self._names, paths, strict=True):
            if name in first:
                raise ValueError(
                    f"parameters {first[name]} and {path} of {self.generator!r:.80} would both be called {name!r} in a "
                    "state; rename one."
                )
            if name in vars(self) or hasattr(type(self), name):
                raise ValueError(
                    f"parameter {path} of {self.generator!r:.80} would be called {name!r}, which a module has an "
                    "attribute of; rename it."
                )
            first[name] = path

    def get_value(self) -> Any:
        """The parameters, as `Generator.generate` takes them; of a puppeteer a `Puppeteer`."""
        return jax.tree.unflatten(self._treedef, [getattr(self, name).get_value() for name in self._names])

    def generate(self, condition: Float[ArrayLike, "..."], shapes: Sequence[Any]) -> tuple[Array, ...]:
        """Weights of HWIO `shapes`."""
        return self.generator.generate(self.get_value(), condition, shapes)

    @property
    def settings(self) -> str:
        """Static settings, as a name in a state: without dots, which separate names there."""
        params = self.get_value()
        if not isinstance(params, Puppeteer):
            return str(self.generator).replace(".", "p")
        name = "{0.initial_state_kind}, K {0.kernel_size}, seed {0.seed}, scale {0.scale}, {0.kernels_from}"
        if getattr(self.generator, "matrices", "mean") != "mean":
            name += ", matrices by {1.matrices}"
        return name.format(params, self.generator).replace(".", "p")


def check_generator(generator: Any) -> None:
    """Raises a TypeError if it is none."""
    if isinstance(generator, type):
        raise TypeError(f"generator must be an instance, got the class {generator.__name__}; give one with settings.")
    if not isinstance(generator, Generator):
        raise TypeError(
            "generator must have condition_size, init and generate, such as those of puppet_jax.extras.generators, got "
            f"{generator!r:.80}."
        )
