"""Any CNN can be a puppet: the convolution kernels of a Flax NNX model from a puppeteer (v1 Sec. 4.3)."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
from flax import nnx
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from puppet_jax.checks import as_complexity, check_complexity
from puppet_jax.convolution import convolve
from puppet_jax.execution_order import uses
from puppet_jax.projection import check_taps, odd_at_least
from puppet_jax.puppeteer import InitialState, KernelsFrom, Puppeteer, init_puppeteer
from puppet_jax.trajectory import generate_kernels

M = TypeVar("M", bound=nnx.Module)
Path = tuple[Any, ...]
Where = Callable[[Path, nnx.Module], bool]


class Kernel(nnx.Variable):
    """A generated kernel inside an instantiated model; neither trained nor stored."""


class PuppeteerModule(nnx.Module):
    """A `Puppeteer` as an NNX module: one `nnx.Param` for each of its arrays, under the same names."""

    def __init__(self, puppeteer: Puppeteer):
        static = []
        for field in dataclasses.fields(puppeteer):
            value = getattr(puppeteer, field.name)
            if field.metadata.get("static"):
                static.append((field.name, value))
            elif value is not None:
                setattr(self, field.name, nnx.Param(value))
        self._static = tuple(static)  # hashable, as graph definitions must be to be static arguments of `jax.jit`

    def get_value(self) -> Puppeteer:
        """The pytree that `generate_kernels` and `trajectory` take."""
        names = (field.name for field in dataclasses.fields(Puppeteer) if not field.metadata.get("static"))
        arrays = {name: getattr(self, name).get_value() for name in names if hasattr(self, name)}
        return Puppeteer(**arrays, **dict(self._static))


@dataclasses.dataclass(frozen=True)
class Generated:
    """A kernel that a puppeteer generates.

    Attributes:
        paths: of the convolutions that use it: one, or several that share it.
        shape: (*window, c_in / groups, c_out), as the convolution holds it.
        dtype: as the convolution held it.
    """

    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: Any

    @property
    def hwio(self) -> tuple[int, int, int, int]:
        """The shape with the window's axes folded into two."""
        *window, c_in, c_out = self.shape
        return math.prod(window[:-1]), window[-1], c_in, c_out

    def __str__(self) -> str:
        return f"{' = '.join(map(_name, self.paths))} {self.shape}"


class Plan:
    """Which kernel is read from which step. Filled by the first trace, compared with by all later ones.

    One object for a puppetized model and all its copies (`nnx.split` and `nnx.merge` carry it along), so that they
    agree. It holds no arrays.
    """

    def __init__(self, kernels: tuple[Generated, ...]):
        self.kernels = kernels
        self.order: tuple[int, ...] | None = None
        self.altered: set[int] = set()  # used by something other than a convolution
        self.seen: set[Any] = set()


class PuppetModel(nnx.Module, Generic[M]):
    """A Flax NNX model whose convolution kernels are generated; see `puppetize`, which makes it.

    An NNX module like any other: `nnx.split`, `nnx.state`, `nnx.Optimizer`, `train()` and `eval()` work as usual.

    Attributes:
        puppeteer: the generator, one `nnx.Param` an array; `puppeteer.get_value()` is the `Puppeteer`.
        model: the model without the kernels that are generated. What it still holds (norms, linear layers,
            kernels left alone, statistics) is trained and updated as usual.
        h: the complexity that is used where a call gives none, nats.
    """

    def __init__(self, model: M, puppeteer: Puppeteer, plan: Plan, h: float):
        self.puppeteer = PuppeteerModule(puppeteer)
        self.model = model
        self.h = h
        self._plan = plan

    def __call__(self, *args: Any, h: Float[ArrayLike, "..."] | None = None, **kwargs: Any) -> Any:
        """What the model returns with the kernels of complexity `h`.

        Args:
            *args: of the model.
            h: complexity in nats: a scalar, or (sets,) where the number of sets divides the batch and each set of
                kernels serves as many neighbouring images; `self.h` if not given.
            **kwargs: of the model.

        Raises:
            ValueError: if `h` is no complexity, the model has an argument `h` of its own, or the convolutions run in
                another order than in the first call.
        """
        if h is not None and "h" in inspect.signature(type(self.model).__call__).parameters:
            raise ValueError(
                f"{type(self.model).__name__} has an argument h of its own; give the complexity to instantiate: "
                "puppet.instantiate(h=complexity)(x, h=...)."
            )
        self._find_order(*args, **kwargs)
        return self.instantiate(h)(*args, **kwargs)

    def instantiate(self, h: Float[ArrayLike, "..."] | None = None) -> M:
        """The model itself, with the kernels of complexity `h` in their places.

        Its other variables are those of this module, not copies: a batch norm that runs in it updates this module's
        statistics.

        Args:
            h: as in a call.

        Returns:
            A model of the class that was puppetized.

        Raises:
            ValueError: if `h` is no complexity, or the order of the convolutions is not known yet.
        """
        return self.with_kernels(self.generate(h))

    def with_kernels(self, kernels: Sequence[Array]) -> M:
        """The model itself with `kernels`, which `generate` gave, in their places; see `instantiate`."""
        model = nnx.merge(*nnx.split(self.model))
        _put_kernels(model, self._plan.kernels, kernels)
        return model

    def generate(self, h: Float[ArrayLike, "..."] | None = None) -> tuple[Array, ...]:
        """The kernels of complexity `h`, in the order of `self.kernels`; float32, with a leading axis if `h` has one.

        Raises:
            ValueError: if `h` is no complexity, or the order of the convolutions is not known yet.
        """
        h = self.h if h is None else h
        h = h.get_value() if isinstance(h, nnx.Variable) else h
        h = as_complexity(h)  # first: inside `jit` an array of a known value is a tracer
        if h.ndim > 1:
            raise ValueError(f"h must be a scalar, or have one axis, one value a set of kernels, got shape {h.shape}.")
        order = self.execution_order
        without = [str(one) for place, one in enumerate(self.kernels) if not self._takes_sets(place)]
        if h.ndim and without:
            raise ValueError(
                f"h has shape {h.shape}, but kernels that differ within a batch need an nnx.Conv that hands them "
                f"unchanged to its own conv_general_dilated. Give a scalar h, or leave alone: {', '.join(without)}."
            )
        puppeteer = self.puppeteer.get_value()
        shapes = [self._plan.kernels[place].hwio for place in order]
        generate = lambda level: generate_kernels(puppeteer, level, shapes)  # noqa: E731
        in_order = jax.vmap(generate)(h) if h.ndim else generate(h)
        kernels: list[Any] = [None] * len(order)
        for place, kernel in zip(order, in_order, strict=True):
            kernels[place] = kernel.reshape(*h.shape, *self._plan.kernels[place].shape)
        return tuple(kernels)

    @property
    def kernels(self) -> tuple[Generated, ...]:
        """The kernels that are generated, by path."""
        return self._plan.kernels

    @property
    def execution_order(self) -> tuple[int, ...]:
        """Places in `kernels` in the order in which a call uses them: kernel n in this order is read after step n + 1.

        Raises:
            ValueError: before the first call of a model that was puppetized without an example.
        """
        if self._plan.order is None:
            raise ValueError(
                "the order of the convolutions is not known yet: call the model once, or give puppetize an example."
            )
        return self._plan.order

    def _takes_sets(self, place: int) -> bool:
        convolutions = [_at(self.model, path) for path in self.kernels[place].paths]
        if any(getattr(conv, "conv_general_dilated", None) is not convolve for conv in convolutions):
            return False
        return place not in self._plan.altered or all(conv.mask is not None for conv in convolutions)

    def _find_order(self, *args: Any, **kwargs: Any) -> None:
        """Traces the model on these inputs, unless it was traced on such inputs before."""
        plan = self._plan
        graphdef, state = nnx.split(self.model)
        leaves, treedef = jax.tree.flatten((args, kwargs))
        described = tuple(map(_described, leaves))
        key: Any = (graphdef, treedef, described)
        try:
            if key in plan.seen:
                return
        except TypeError:  # a static attribute of the model cannot be hashed: trace every call
            key = None

        arrays = [x for x in leaves if hasattr(x, "dtype")]

        def run(kernels: list[Any], state: Any, arrays: list[Any]) -> Any:
            model = nnx.merge(graphdef, state, copy=True)
            _put_kernels(model, plan.kernels, kernels)
            given = iter(arrays)
            args, kwargs = jax.tree.unflatten(treedef, [next(given) if hasattr(x, "dtype") else x for x in leaves])
            result = model(*args, **kwargs)
            return [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array)]

        like = [jax.ShapeDtypeStruct(generated.shape, generated.dtype) for generated in plan.kernels]
        used = uses(run, like, state, arrays)
        order = tuple(dict.fromkeys(place for place, _ in used))
        if plan.order is None:
            missing = [str(plan.kernels[place]) for place in sorted(set(range(len(like))) - set(order))]
            if missing:
                raise ValueError(
                    f"a call with these inputs does not use {', '.join(missing)}, so their place in the trajectory is "
                    "not known. Give puppetize an example for which they run, or leave them alone with `where`."
                )
            plan.order = order
        elif [place for place in plan.order if place in order] != list(order):
            then, now = ([str(plan.kernels[place]) for place in places] for places in (plan.order, order))
            raise ValueError(
                f"the convolutions run in another order than in the first call: then {', '.join(then)}; now "
                f"{', '.join(now)}. A kernel's place in the trajectory must not depend on the input."
            )
        plan.altered |= {place for place, primitive in used if primitive != "conv_general_dilated"}
        if key is not None:
            plan.seen.add(key)


def puppetize(
    model: M,
    example: Any = None,
    *,
    where: Where | None = None,
    h: float = 4.5,
    puppeteer: Puppeteer | None = None,
    key: PRNGKeyArray | None = None,
    max_channels: int | None = None,
    kernel_size: int | None = None,
    initial_state: InitialState = "seeded",
    seed: int = 0,
    scale: float = 0.1,
    kernels_from: KernelsFrom = "state",
) -> PuppetModel[M]:
    """The same model with generated convolution kernels (v1 Sec. 4.3, v2 Sec. 4.4).

    The kernels of the convolutions are dropped and come from a puppeteer instead, one Euler step each, in the order
    in which the model uses them; C and K are those of the largest. Biases, norms, linear layers and whatever else the
    model holds are kept and trained as before. The model given is not changed, nor is its code.

    The three regimes of the papers: the model itself has fixed kernels; `puppet(x)` has the kernels of one constant
    complexity (puppeteer-puppet scheme); `puppet(x, h=...)` those of the input's (parameter adaptation).

    A grouped or depthwise convolution is generated in the shape that it holds, (*window, c_in / groups, c_out); leave
    it alone with `where=lambda path, conv: conv.feature_group_count == 1`. Windows of one or three axes are folded into
    two, so that a kernel of 27 taps needs a state of kernel size 7.

    Args:
        model: any Flax NNX model.
        example: inputs by which the order is found: an array, a `jax.ShapeDtypeStruct`, or a tuple of positional
            arguments. Without it the first call decides.
        where: `where(path, convolution)` says whether a convolution's kernel is generated; default: every `nnx.Conv`
            and `nnx.ConvTranspose`. A path is a tuple of attribute names and indices.
        h: complexity in nats of calls that give none, finite and at least 0; photographs of CIFAR-10 have 4 to 5.5.
        puppeteer: the generator, for instance a trained one; a new one if not given, from the arguments that follow.
        key: a JAX random key; `jax.random.key(0)` if not given.
        max_channels: C of a new puppeteer; the largest number of channels of any generated kernel if not given. A
            smaller one stores less; wider kernels then take several steps, see `generate_kernels`.
        kernel_size: K of a new puppeteer, odd; the least that holds the largest window if not given.
        initial_state: see `init_puppeteer`.
        seed: see `init_puppeteer`.
        scale: see `init_puppeteer`.
        kernels_from: see `init_puppeteer`.

    Returns:
        A `PuppetModel`, called as the model is, with one more keyword argument `h`.

    Raises:
        TypeError: if `model` is no `nnx.Module`, or holds a convolution whose kernel is no array of its window.
        ValueError: if the model has no convolution, `where` matches none, a kernel has more taps than the state, or
            the example does not use every kernel.

    Example:
        >>> import jax.numpy as jnp, puppet_jax as pj
        >>> from flax import nnx
        >>> rngs = nnx.Rngs(0)
        >>> net = nnx.Sequential(nnx.Conv(3, 16, (3, 3), rngs=rngs), nnx.relu, nnx.Conv(16, 32, (3, 3), rngs=rngs))
        >>> puppet = pj.puppetize(net)
        >>> puppet(jnp.ones((2, 8, 8, 3)), h=4.2).shape
        (2, 8, 8, 32)
        >>> pj.num_floats(puppet.puppeteer) == 32**2 + 15 * 32
        True
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model must be a flax.nnx.Module, got {type(model).__name__}; for others see generate_kernels."
        )
    check_complexity(h)
    model = nnx.merge(*nnx.split(model), copy=True)
    kernels = _take_kernels(model, where)
    if puppeteer is None:
        puppeteer = init_puppeteer(
            jax.random.key(0) if key is None else key,
            max_channels=max(max(one.shape[-2:]) for one in kernels) if max_channels is None else max_channels,
            kernel_size=(
                odd_at_least(max(math.prod(one.shape[:-2]) for one in kernels)) if kernel_size is None else kernel_size
            ),
            initial_state=initial_state,
            seed=seed,
            scale=scale,
            kernels_from=kernels_from,
        )
    for one in kernels:
        try:
            check_taps(one.hwio, puppeteer.state_shape, f"The kernel of {one}")
        except ValueError as error:
            raise ValueError(f"{error} Or leave it alone with `where`.") from None
    puppet = PuppetModel(model, puppeteer, Plan(kernels), float(h))
    if example is not None:
        puppet._find_order(*(example if isinstance(example, tuple) else (example,)))
    return puppet


def _take_kernels(model: nnx.Module, where: Where | None) -> tuple[Generated, ...]:
    """Takes the kernels to be generated out of `model`, in place; returns what they were."""
    convolutions = [
        (path, node) for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Conv | nnx.ConvTranspose)
    ]
    if not convolutions:
        raise ValueError(f"{type(model).__name__} holds no nnx.Conv and no nnx.ConvTranspose; nothing to generate.")
    chosen = [(path, conv) for path, conv in convolutions if where is None or where(path, conv)]
    if not chosen:
        names = ", ".join(_name(path) for path, _ in convolutions)
        raise ValueError(f"where matches none of the {len(convolutions)} convolutions ({names}).")
    sharing: dict[int, tuple[tuple[int, ...], Any, list[Path]]] = {}
    for path, conv in chosen:
        shape = tuple(getattr(conv.kernel, "shape", ()))
        if len(shape) != len(conv.kernel_size) + 2:
            raise TypeError(
                f"the kernel of {_name(path)} has shape {shape}, not {len(conv.kernel_size)} + 2 axes: stacked and "
                "already puppetized convolutions cannot be puppetized; leave them alone with `where`."
            )
        sharing.setdefault(id(conv.kernel), (shape, conv.kernel.dtype, []))[-1].append(path)
    for _, conv in chosen:
        conv.kernel = nnx.data(None)  # type: ignore[arg-type]
        if isinstance(conv, nnx.Conv) and conv.conv_general_dilated is lax.conv_general_dilated:
            conv.conv_general_dilated = convolve
    return tuple(Generated(tuple(paths), shape, dtype) for shape, dtype, paths in sharing.values())


def _put_kernels(model: nnx.Module, places: Sequence[Generated], kernels: Sequence[Array]) -> None:
    """Puts kernels where they belong in `model`, in place."""
    for generated, kernel in zip(places, kernels, strict=True):
        value = Kernel(kernel.astype(generated.dtype))
        for path in generated.paths:
            _at(model, path).kernel = value


def _at(model: Any, path: Path) -> Any:
    for part in path:
        by_key = isinstance(model, dict | list | tuple) or not isinstance(part, str)
        model = model[part] if by_key else getattr(model, part)
    return model


def _described(leaf: Any) -> Any:
    """What of an input may decide the order: of a float, as of an array, not its value."""
    if hasattr(leaf, "dtype"):
        return leaf.shape, str(leaf.dtype)
    return float if isinstance(leaf, float) else repr(leaf)


def _name(path: Path) -> str:
    return ".".join(map(str, path)) or "the model itself"
