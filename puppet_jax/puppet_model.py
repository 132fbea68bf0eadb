"""A Flax NNX model with generated kernels: what `puppetize` makes."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from puppet_jax.accounting import num_floats
from puppet_jax.checks import as_complexity
from puppet_jax.convolution import convolve
from puppet_jax.execution_order import uses
from puppet_jax.gains import start_gains
from puppet_jax.puppet_plan import Generated, Path, Plan
from puppet_jax.puppet_summary import PuppetSummary, summarise, unmoved
from puppet_jax.puppeteer import Puppeteer
from puppet_jax.trajectory import generate_kernels

M = TypeVar("M", bound=nnx.Module)


class Kernel(nnx.Param):
    """A generated kernel inside an instantiated model, a parameter of it like any other.

    The puppet that made the model holds none.
    """


class Gain(nnx.Variable):
    """Factors of generated kernels, constant; saved with the model's state."""


class Settings(nnx.Variable):
    """Holds nothing. Its name in a state says what generates the kernels beside the arrays."""


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


class PuppetModel(nnx.Module, Generic[M]):
    """A Flax NNX model whose convolution kernels are generated; see `puppetize`, which makes it.

    An NNX module like any other: `nnx.split`, `nnx.state`, `nnx.Optimizer`, `train()` and `eval()` work as usual.

    Attributes:
        puppeteer: the generator, one `nnx.Param` an array; `puppeteer.get_value()` is the `Puppeteer`.
        model: the model without the kernels that are generated. What it still holds (norms, linear layers,
            kernels left alone, statistics) is trained and updated as usual.
        h: the complexity that is used where a call gives none, nats.
        gains: constant factors of the kernels, one each, with `keep_scale`; else None.
        zero_gains: trained factors of the kernels that were zero before, with `keep_scale`; else None.
        settings: one variable that holds nothing. Its name spells the static fields of the puppeteer, such as
            "seeded, K 3, seed 0, scale 0p1, state". A saved state of others has arrays that fit and would make other
            kernels: this name does not fit, and the state is refused.
    """

    def __init__(self, model: M, puppeteer: Puppeteer, plan: Plan, h: float):
        self.puppeteer = PuppeteerModule(puppeteer)
        self.model = model
        self.h = h
        self.settings = nnx.Dict({_settings(puppeteer): Settings(jnp.zeros((), jnp.uint8))})
        self.gains: Gain | None = nnx.data(None)
        self.zero_gains: nnx.Param | None = nnx.data(None)
        self._plan = plan

    def keep_scale(self, responses: Sequence[ArrayLike]) -> None:
        """Sets the gains with which the kernels of complexity `self.h` have these responses (`gains.response`).

        Args:
            responses: one a kernel. One of 0 gives the kernel a factor that starts at 0 and is trained.
        """
        wanted = np.asarray(responses, np.float32)
        zero = wanted == 0
        order = list(self.execution_order)
        shapes = [self._plan.kernels[place].hwio for place in order]
        in_order = start_gains(self.puppeteer.get_value(), self.h, shapes, list(np.where(zero, 1, wanted)[order]))
        self.gains = Gain(jnp.zeros(len(order)).at[np.array(order)].set(in_order))
        if zero.any():
            self.zero_gains = nnx.Param(jnp.zeros(int(zero.sum())))
        self._plan.zero = tuple(np.flatnonzero(zero).tolist())

    def _gains(self) -> Array | None:
        if self.gains is None:
            return None
        gains = self.gains.get_value()
        if self.zero_gains is not None:
            gains = gains * jnp.ones_like(gains).at[np.array(self._plan.zero)].set(self.zero_gains.get_value())
        return gains[np.array(self.execution_order)]

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
        if not callable(self.model):
            raise TypeError(
                f"{type(self.model).__name__} has no __call__. Give puppetize a function that runs it, such as "
                "lambda model: model.decode(model.encode(x)), and call puppet.instantiate(h).encode(x)."
            )
        if h is not None and "h" in inspect.signature(type(self.model).__call__).parameters:
            raise ValueError(
                f"{type(self.model).__name__} has an argument h of its own; give the complexity to instantiate: "
                "puppet.instantiate(h=complexity)(x, h=...)."
            )
        self.find_order(call, *args, **kwargs)
        model = self.instantiate(h)
        result = model(*args, **kwargs)
        _bring_back(model, self.model)
        return result

    def __getattr__(self, name: str) -> Any:
        """Says where the methods of the model are."""
        model = vars(self).get("model")
        if not name.startswith("_") and hasattr(model, name):
            raise AttributeError(
                f"a PuppetModel has no {name!r}, but its {type(model).__name__} has: use puppet.instantiate(h).{name} "
                f"with the kernels of complexity h, or puppet.model.{name} without kernels."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def instantiate(self, h: Float[ArrayLike, "..."] | None = None) -> M:
        """The model itself, with the kernels of complexity `h` in their places.

        Its other variables are those of this module, not copies: a batch norm that runs in it updates this module's
        statistics. What it makes anew when it runs (`nnx.Module.sow`, caches) is its own; a call of this module brings
        that back.

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
        own = _settings(puppeteer)
        others = [name for name, one in self.settings.items() if isinstance(one, Settings) and name != own]
        if others:
            raise ValueError(
                f"a state of the settings {others[0]!r} was loaded into a puppet of {own!r}; puppetize with those."
            )
        shapes = [self._plan.kernels[place].hwio for place in order]
        gains = self._gains()
        generate = lambda level: generate_kernels(puppeteer, level, shapes, gains)  # noqa: E731
        in_order = jax.vmap(generate)(h) if h.ndim else generate(h)
        kernels: list[Any] = [None] * len(order)
        for place, kernel in zip(order, in_order, strict=True):
            kernels[place] = kernel.reshape(*h.shape, *self._plan.kernels[place].shape)
        return tuple(kernels)

    def summary(self, *args: Any, **kwargs: Any) -> PuppetSummary:
        """What the puppet stores, what it takes to run, and what may be wrong with it; `print` it.

        Args:
            *args: inputs of the model. With them, kernels that the mean square of its outputs does not depend on are
                found.
            **kwargs: likewise.

        Raises:
            ValueError: if the order of the convolutions is not known yet.
        """
        if args or kwargs:
            self.find_order(call, *args, **kwargs)
        puppeteer = self.puppeteer.get_value()
        in_order = [self._plan.kernels[place] for place in self.execution_order]
        kept = num_floats(nnx.state(self, nnx.Param)) - num_floats(puppeteer)
        found = summarise(type(self.model).__name__, in_order, puppeteer, kept)
        notes = [*found.notes, *unmoved(in_order, puppeteer, self.h)]
        idle = self._idle(*args, **kwargs) if args or kwargs else []
        if idle:
            notes.append(f"the output does not depend on {', '.join(idle)}: its gradient is zero")
        return dataclasses.replace(found, notes=tuple(notes))

    def _idle(self, *args: Any, **kwargs: Any) -> list[str]:
        """Names of the kernels by which the mean square of the outputs has no slope."""

        def mean_square(kernels: tuple[Array, ...]) -> Array:
            outputs = jax.tree.leaves(nnx.clone(self.with_kernels(kernels))(*args, **kwargs))
            floats = [one for one in outputs if jnp.issubdtype(one.dtype, jnp.inexact)]
            return jnp.stack([jnp.square(one).mean() for one in floats]).sum()

        slopes = jax.jit(jax.grad(mean_square))(self.generate())
        return [one.name for one, slope in zip(self._plan.kernels, slopes, strict=True) if not jnp.any(slope)]

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

    def find_order(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Traces `function(model, *args, **kwargs)`, unless it is `call` and was traced on such inputs before.

        Another function is not remembered: it may hold arrays.
        """
        plan = self._plan
        graphdef, state = nnx.split(self.model)
        leaves, treedef = jax.tree.flatten((args, kwargs))
        described = tuple(map(_described, leaves))
        key: Any = (graphdef, treedef, described) if function is call else None
        try:
            if key is not None and key in plan.seen:
                return
        except TypeError:  # a static attribute of the model cannot be hashed: trace every call
            key = None

        arrays = [x for x in leaves if _is_traced(x)]

        def run(kernels: list[Any], state: Any, arrays: list[Any]) -> Any:
            model = nnx.merge(graphdef, state, copy=True)
            _put_kernels(model, plan.kernels, kernels)
            given = iter(arrays)
            args, kwargs = jax.tree.unflatten(treedef, [next(given) if _is_traced(x) else x for x in leaves])
            result = function(model, *args, **kwargs)
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


def _settings(puppeteer: Puppeteer) -> str:
    """The static fields of a puppeteer, as a name in a state: without dots, which separate names there."""
    name = "{0.initial_state_kind}, K {0.kernel_size}, seed {0.seed}, scale {0.scale}, {0.kernels_from}"
    return name.format(puppeteer).replace(".", "p")


def call(model: Any, *args: Any, **kwargs: Any) -> Any:
    """What a model returns."""
    return model(*args, **kwargs)


def _bring_back(made: Any, kept: Any) -> None:
    """Gives the modules of `kept` what a call has made in those of its copy `made`: variables and plain attributes."""
    originals = dict(nnx.iter_graph(kept))
    for path, node in nnx.iter_graph(made):
        original = originals.get(path)
        if not isinstance(node, nnx.Module) or original is None:
            continue
        for name, value in vars(node).items():
            if name.startswith("_pytree__") or isinstance(value, Kernel):
                continue
            if name not in vars(original) or _is_changed(value, vars(original)[name]):
                setattr(original, name, value)


def _is_changed(value: Any, before: Any) -> bool:
    if value is before or isinstance(value, nnx.Variable | nnx.Pytree):
        return False  # variables are shared; modules have their own turn
    if isinstance(value, jax.Array | np.ndarray) or isinstance(before, jax.Array | np.ndarray):
        return True
    return bool(value != before)


def _is_traced(leaf: Any) -> bool:
    """Arrays are; numbers stay what they are, those of NumPy too: a model may branch or make shapes by them."""
    return hasattr(leaf, "dtype") and not isinstance(leaf, np.generic)


def _described(leaf: Any) -> Any:
    """What of an input may decide the order: of a float, as of an array, not its value."""
    if _is_traced(leaf):
        return leaf.shape, str(leaf.dtype)
    return float if isinstance(leaf, float | np.floating) else repr(leaf)
