"""A Flax NNX model with generated kernels: what `puppetize` makes."""

import dataclasses
import inspect
import itertools
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from puppet_jax.accounting import num_floats
from puppet_jax.checks import as_complexity, is_concrete
from puppet_jax.convolution import convolve
from puppet_jax.gains import response
from puppet_jax.generator import GeneratorModule
from puppet_jax.puppetized.bring_back import bring_back, pair_up
from puppet_jax.puppetized.order import call, find_order, put_kernels
from puppet_jax.puppetized.plan import Generated, Plan
from puppet_jax.puppetized.summary import PuppetSummary, summarise, unmoved
from puppet_jax.puppetized.weights import at
from puppet_jax.trajectory import for_each_level

M = TypeVar("M", bound=nnx.Module)
Condition = Float[ArrayLike, "..."] | Sequence[float]


class Gain(nnx.Variable):
    """Factors of generated kernels, constant; saved with the model's state."""


class Kept(nnx.Variable):
    """A weight to which a generated one is added, constant; saved with the model's state."""


class Settings(nnx.Variable):
    """Holds nothing. Its name in a state says what generates the kernels beside the arrays."""


class PuppetModel(nnx.Module, Generic[M]):
    """A Flax NNX model whose weights are generated; see `puppetize`, which makes it.

    An NNX module like any other: `nnx.split`, `nnx.state`, `nnx.Optimizer`, `train()` and `eval()` work as usual.

    Attributes:
        puppeteer: the generator, one `nnx.Param` an array; `puppeteer.get_value()` has its parameters, those of a
            puppeteer as a `Puppeteer`; `puppeteer.generator` its settings.
        model: the model without the weights that are generated. What it still holds (norms, biases,
            weights left alone, statistics) is trained and updated as usual.
        h: the condition of calls that give none: the complexity in nats, or a vector.
        gains: constant factors of the kernels, one each, with `keep_scale`; else None.
        zero_gains: trained factors of the kernels that were zero before, with `keep_scale`, or of all, with
            `difference`; else None.
        kept: the weights to which generated ones are added, with `difference`; else None.
        settings: one variable that holds nothing. Its name spells the static fields of the generator, such as
            "seeded, K 3, seed 0, scale 0p1, state", whether scales or weights are kept, and the places of the kernels
            that have trained factors. A saved state of others has arrays that fit and would make other kernels: this
            name does not fit, and the state is refused.
    """

    def __init__(self, model: M, puppeteer: GeneratorModule, plan: Plan, h: float | tuple[float, ...]):
        self.puppeteer = puppeteer
        self.model = model
        self.h = h
        self.gains: Gain | None = nnx.data(None)
        self.zero_gains: nnx.Param | None = nnx.data(None)
        self.kept: nnx.List[Kept] | None = nnx.data(None)
        self._zero: tuple[int, ...] = ()  # places in `kernels` whose factors are `zero_gains`
        self._plan = plan
        self._name_settings()

    def keep_scale(self, weights: Sequence[ArrayLike], difference: bool = False) -> None:
        """Sets gains with which the weights of the condition `self.h` have the scale of others (`gains.response`).

        Args:
            weights: the others. Where one is zero, the generated one gets a factor that starts at 0 and is trained.
            difference: keep these weights, and add generated ones to them, all with factors that start at 0; at 1
                where the generated one is zero itself.

        Raises:
            ValueError: if a generated kernel is zero, which no factor gives a scale, and `difference` is false.
        """
        bare = PuppetModel(self.model, self.puppeteer, self._plan, self.h)
        graphdef, state = nnx.split(bare)
        found = jax.jit(lambda state: self._responses(nnx.merge(graphdef, state).generate()))(state)
        if not difference:
            self._check_scales(found)
        wanted = np.asarray(jax.jit(self._responses)(list(weights)))
        zero = np.flatnonzero((wanted == 0) | difference)
        ratios = jnp.where(wanted == 0, 1, wanted) / jnp.where(found == 0, 1, found)
        self.gains = Gain(jnp.where(found == 0, 1, jnp.sqrt(ratios)))
        self.kept = nnx.List([Kept(jnp.asarray(weight)) for weight in weights]) if difference else nnx.data(None)
        self.zero_gains = nnx.Param((found == 0).astype(jnp.float32)[zero]) if zero.size else nnx.data(None)
        self._zero = tuple(zero.tolist())
        self._name_settings()

    def _check_scales(self, found: Array) -> None:
        places = np.flatnonzero(np.asarray(found) == 0) if is_concrete(found) else ()
        if zero := [str(self.kernels[place]) for place in places]:
            raise ValueError(
                f"the generator makes {', '.join(zero)} zero under the condition {self.h}, and no factor gives that a "
                "scale; give a generator that does not start at zero, or puppetize without keep_scale."
            )

    def _responses(self, weights: Sequence[ArrayLike]) -> Array:
        pairs = zip(self.kernels, weights, strict=True)
        return jnp.stack([response(jnp.asarray(each).reshape(one.stack, *one.hwio), one.lookup) for one, each in pairs])

    def _name_settings(self) -> None:
        self.settings = nnx.Dict({self._settings: Settings(jnp.zeros((), jnp.uint8))})

    @property
    def _settings(self) -> str:
        if not isinstance(self.gains, Gain):
            return self.puppeteer.settings
        if self.kept is not None:
            return self.puppeteer.settings + ", difference"
        trained = f", trained factors of {' '.join(map(str, self._zero))}" if self._zero else ""
        return f"{self.puppeteer.settings}, kept scale{trained}"

    def _gains(self) -> Array | None:
        if self.gains is None:
            return None
        gains = self.gains.get_value()
        if self.zero_gains is not None:
            gains = gains * jnp.ones_like(gains).at[np.array(self._zero)].set(self.zero_gains.get_value())
        return gains

    def __call__(self, /, *args: Any, h: Condition | None = None, **kwargs: Any) -> Any:
        """What the model returns with the kernels of complexity `h`.

        Args:
            *args: of the model.
            h: complexity in nats: a scalar, or (sets,) where the number of sets divides the batch and each set of
                kernels serves as many neighbouring images; `self.h` if not given. Of a generator with a vector as
                condition (size,), or (sets, size).
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
        find_order(self.model, self._plan, call, *args, **kwargs)
        model = self.instantiate(h)
        pairs = pair_up(model, self.model)
        result = model(*args, **kwargs)
        bring_back(pairs)
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

    def instantiate(self, h: Condition | None = None) -> M:
        """The model itself, with the kernels of complexity `h` in their places.

        Its other variables are those of this module, not copies: a batch norm that runs in it updates this module's
        statistics. What it makes anew when it runs (`nnx.Module.sow`, caches) is its own; a call of this module brings
        that back.

        Args:
            h: as in a call.

        Returns:
            A model of the class that was puppetized.

        Raises:
            ValueError: if `h` is no complexity, or the order of the weights is not known yet.
        """
        return self.with_kernels(self.generate(h))

    def with_kernels(self, kernels: Sequence[Array]) -> M:
        """The model itself with `kernels`, which `generate` gave, in their places; see `instantiate`."""
        model = nnx.merge(*nnx.split(self.model))
        put_kernels(model, self._plan.kernels, kernels)
        return model

    def generate(self, h: Condition | None = None) -> tuple[Array, ...]:
        """The kernels of complexity `h`, in the order of `self.kernels`; float32, with a leading axis if `h` has one.

        Raises:
            ValueError: if `h` is no complexity, or the order of the weights is not known yet.
        """
        h, sets = self._condition(self.h if h is None else h)
        order = self.execution_order
        without = [str(one) for place, one in enumerate(self.kernels) if sets and not self._takes_sets(place)]
        if without:
            raise ValueError(
                f"h has shape {h.shape}, but kernels that differ within a batch need an nnx.Conv, no stack of such, "
                "that hands them unchanged to its own conv_general_dilated. Give one h, leave alone "
                f"{', '.join(without)}, or map one image a time: "
                "jax.vmap(lambda h, x: puppet.instantiate(h)(x[None])[0])(h, x)."
            )
        own = self._settings
        others = [name for name, one in self.settings.items() if isinstance(one, Settings) and name != own]
        if others:
            raise ValueError(
                f"a state of the settings {others[0]!r} was loaded into a puppet of {own!r}; puppetize with those."
            )
        shapes = [self.kernels[place].hwio for place in order for _ in range(self.kernels[place].stack)]
        generate = lambda condition: self.puppeteer.generate(condition, shapes)  # noqa: E731
        made = iter(for_each_level(generate, h) if sets else generate(h))
        gains = self._gains()
        kernels: list[Any] = [None] * len(order)
        for place in order:
            one = self.kernels[place]
            parts = list(itertools.islice(made, one.stack))
            kernel = parts[0] if one.stack == 1 else jnp.stack(parts, axis=1 if sets else 0)
            kernel = kernel if gains is None else gains[place] * kernel
            kernels[place] = kernel.reshape(*((len(h),) if sets else ()), *one.shape)
            if self.kept is not None:
                kernels[place] += self.kept[place].get_value()[(None,) * int(sets)]
        return tuple(kernels)

    def _condition(self, h: Any) -> tuple[Array, bool]:
        """The condition as an array, and whether it is one a set of kernels."""
        h = h.get_value() if isinstance(h, nnx.Variable) else h
        size = self.puppeteer.generator.condition_size
        if size is None:
            h, own = as_complexity(h), 0  # first: inside `jit` an array of a known value is a tracer
        else:
            h, own = jnp.asarray(h, jnp.float32), 1
            if h.ndim == 0 or h.shape[-1] != size:
                raise ValueError(f"h must be {size} numbers, the condition of the generator, got shape {h.shape}.")
        if h.ndim - own > 1:
            what = "a scalar" if size is None else f"({size},)"
            raise ValueError(f"h must be {what}, or have one axis more, one a set of kernels, got shape {h.shape}.")
        return h, h.ndim > own

    def summary(self, /, *args: Any, **kwargs: Any) -> PuppetSummary:
        """What the puppet stores, what it takes to run, and what may be wrong with it; `print` it.

        Args:
            *args: inputs of the model. With them, kernels that the mean square of its outputs does not depend on are
                found.
            **kwargs: likewise.

        Raises:
            ValueError: if the order of the weights is not known yet.
        """
        if args or kwargs:
            find_order(self.model, self._plan, call, *args, **kwargs)
        in_order = [self._plan.kernels[place] for place in self.execution_order]
        kept = num_floats(nnx.state(self, nnx.Param)) - num_floats(nnx.state(self.puppeteer, nnx.Param))
        found = summarise(type(self.model).__name__, in_order, self.puppeteer, kept)
        notes = [*found.notes, *unmoved(in_order, self.puppeteer, self.h)]
        if self.kept is not None:
            notes.append(f"{found.replaced:,} floats of weights are kept, to which the generated ones are added")
        if args or kwargs:
            notes += self._idle(*args, **kwargs)
        return dataclasses.replace(found, notes=tuple(notes))

    def _idle(self, /, *args: Any, **kwargs: Any) -> list[str]:
        """A note on the kernels by which the mean square of the outputs has no slope."""

        def mean_square(kernels: tuple[Array, ...]) -> tuple[Array, int]:
            outputs = jax.tree.leaves(nnx.clone(self.with_kernels(kernels))(*args, **kwargs))
            arrays = [one for one in outputs if isinstance(one, jax.Array)]
            floats = [one for one in arrays if jnp.issubdtype(one.dtype, jnp.inexact)]
            return sum((jnp.square(jnp.abs(one)).mean() for one in floats), jnp.zeros(())), len(floats)

        slopes, count = jax.jit(jax.grad(mean_square, has_aux=True))(self.generate())
        if not count:
            return ["no output is a floating array: which kernels it depends on cannot be seen"]
        idle = [one.name for one, slope in zip(self._plan.kernels, slopes, strict=True) if not jnp.any(slope)]
        return [f"the output does not depend on {', '.join(idle)}: its gradient is zero"] if idle else []

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
                "the order of the weights is not known yet: call the model once, or give puppetize an example."
            )
        return self._plan.order

    def _takes_sets(self, place: int) -> bool:
        one = self.kernels[place]
        convolutions = [at(self.model, path[:-1]) for path in one.paths]
        if any(getattr(conv, "conv_general_dilated", None) is not convolve for conv in convolutions):
            return False
        if any(one.shape != tuple(conv.kernel_shape) for conv in convolutions):  # a stack: its first axis is no set
            return False
        # The layer of Flax multiplies its kernel by a mask, which is the same for all sets.
        masked = all(type(conv) is nnx.Conv and conv.mask is not None for conv in convolutions)
        return masked or place not in self._plan.altered
