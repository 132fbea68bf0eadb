"""Any network can be a puppet: the weights of a Flax NNX model from a puppeteer (v1 Sec. 4.3)."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import PRNGKeyArray

from puppet_jax.checks import check_complexity
from puppet_jax.generator import Generator, GeneratorModule, PuppeteerGenerator, check_generator
from puppet_jax.puppeteer import InitialState, KernelsFrom, Puppeteer
from puppet_jax.puppetized.model import M, PuppetModel
from puppet_jax.puppetized.order import call, find_order
from puppet_jax.puppetized.plan import Generated, Plan
from puppet_jax.puppetized.summary import summarise
from puppet_jax.puppetized.weights import Weights, Where, take_weights

PHOTOGRAPHS = 4.5
"""Nats, about the complexity of a photograph."""


def puppetize(
    model: M,
    example: Any = None,
    *,
    weights: Weights = "convolutions",
    where: Where | None = None,
    h: float | Sequence[float] | None = None,
    generator: Generator | GeneratorModule | None = None,
    puppeteer: Puppeteer | None = None,
    key: PRNGKeyArray | None = None,
    max_channels: int | None = None,
    kernel_size: int | None = None,
    initial_state: InitialState = "seeded",
    seed: int = 0,
    scale: float = 0.1,
    kernels_from: KernelsFrom = "state",
    keep_scale: bool = False,
    difference: bool = False,
) -> PuppetModel[M]:
    """The same model with generated weights (v1 Sec. 4.3, v2 Sec. 4.4): the kernels of its convolutions, or others.

    The weights are dropped and come from a puppeteer instead, one Euler step each, in the order in which the model uses
    them. Biases, norms and whatever else the model holds are kept and trained as before. The model given is not
    changed, nor is its code.

    The three regimes of the papers: the model itself has fixed kernels; `puppet(x)` has the kernels of one constant
    complexity (puppeteer-puppet scheme); `puppet(x, h=...)` those of the input's (parameter adaptation).

    A grouped or depthwise convolution is generated in the shape that it holds, `(*window, c_in / groups, c_out)`; leave
    it alone with `where=lambda path, conv: conv.feature_group_count == 1`. Windows of one or three axes are folded into
    two.

    Args:
        model: any Flax NNX model.
        example: inputs by which the order is found: an array, a `jax.ShapeDtypeStruct`, or a tuple of positional
            arguments; or a function that runs the model, such as `lambda model: model.decode(model.encode(x))`.
            Without it the first call decides.
        weights: which are generated. "convolutions": the kernels of every `nnx.Conv` and `nnx.ConvTranspose`. "all":
            also those of `nnx.Linear`, `LinearGeneral` (attention), `Einsum` and `Embed`. Or `weights(path, variable)`,
            which says it of each `nnx.Param`; one of a module of your own is a matrix, whose last axis is the outputs.
            A stack of kernels, as `nnx.scan` runs them, is generated kernel by kernel.
        where: `where(path, module)` says whether a module's weights are generated; default: all. A path is a tuple of
            attribute names and indices.
        h: condition of calls that give none: the complexity in nats, finite and at least 0; 4.5 if not given
            (photographs of CIFAR-10 have 4 to 5.5). For a generator that takes a vector, the vector; else zeros.
        generator: what makes the weights, see `Generator`; or `other.puppeteer` of another puppet, with which this one
            then shares its parameters. A puppeteer if not given.
        puppeteer: a trained one, with settings of its own; a new one if not given, from the arguments that follow.
        key: a JAX random key; `jax.random.key(0)` if not given.
        max_channels: C of a new puppeteer; if not given, the largest number of channels of any generated kernel, but
            at most 512, the papers'. A smaller one stores less; wider kernels take several steps, see
            `generate_kernels`.
        kernel_size: K of a new puppeteer, odd; if not given, the least that holds the largest window, but at most 3,
            the papers': a larger window takes several steps, and does not make all other states larger.
        initial_state: see `init_puppeteer`.
        seed: see `init_puppeteer`.
        scale: see `init_puppeteer`.
        kernels_from: see `init_puppeteer`.
        keep_scale: whether each kernel starts with the scale of the one that it replaces, by a constant factor (see
            `start_gains`): a network without norms then starts as it would have. A kernel that is zero, such as that of
            the last layer of a residual branch, starts at zero, by a factor that is trained. Needs an example, and a
            model that holds numbers. False: the kernels are those of the papers.
        difference: whether the weights of the model are kept, constant, and the generated ones are added to them, with
            factors that are trained and start at 0 (at 1 where the generated weight is itself zero): a trained model
            starts as it is, and changes with the condition.
            Stores the weights too. Needs what `keep_scale` needs.

    Returns:
        A `PuppetModel`, called as the model is, with one more keyword argument `h`.

    Raises:
        TypeError: if `model` is no `nnx.Module`, or a weight is no array of its layer's shape.
        ValueError: if the model has no such weight, `where` matches none, the example does not use every one,
            `keep_scale` or `difference` has no example or no numbers, `keep_scale` a generator that starts at zero, or
            arguments of a puppeteer come with another generator or a trained one.

    Warns:
        UserWarning: if the puppeteer holds more floats than it replaces, or a gradient would keep more than 1 GiB of
            states; `PuppetModel.summary` has the figures.

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
    settings = PuppeteerGenerator(
        max_channels=max_channels,
        kernel_size=kernel_size,
        initial_state=initial_state,
        seed=seed,
        scale=scale,
        kernels_from=kernels_from,
    )
    given = [field.name for field in dataclasses.fields(settings) if getattr(settings, field.name) != field.default]
    if generator is not None and (puppeteer is not None or given):
        raise ValueError("give a generator, or a puppeteer or the arguments of one, not both.")
    if puppeteer is not None and given:
        raise ValueError(
            f"a trained puppeteer has settings of its own; give it, or {', '.join(given)} of a new one, not both."
        )
    scaled = keep_scale or difference
    if scaled and example is None:
        raise ValueError(
            "keep_scale and difference need an example, by which the order of the kernels is known; give inputs."
        )
    model = nnx.merge(*nnx.split(model), copy=True)
    kernels, replaced = take_weights(model, weights, where)
    if scaled:
        _check_concrete(kernels, replaced, "difference" if difference else "keep_scale")
    plan = Plan(kernels)
    if callable(example):
        find_order(model, plan, example)
    elif example is not None:
        find_order(model, plan, call, *(example if isinstance(example, tuple) else (example,)))
    if isinstance(generator, GeneratorModule):
        module = generator
    elif puppeteer is not None:
        module = GeneratorModule(PuppeteerGenerator.of(puppeteer), puppeteer)
    else:
        module = _new(settings if generator is None else generator, key, plan)
    for note in summarise(type(model).__name__, kernels, module, kept=0).notes:
        warnings.warn(f"{type(model).__name__}: {note}.", stacklevel=2)
    puppet = PuppetModel(model, module, plan, _default(h, module.generator.condition_size))
    if scaled:
        puppet.keep_scale(replaced, difference)
    return puppet


def _check_concrete(kernels: Sequence[Generated], replaced: Sequence[Any], option: str) -> None:
    for one, kernel in zip(kernels, replaced, strict=True):
        if not isinstance(kernel, jax.Array | np.ndarray) or isinstance(kernel, jax.core.Tracer):
            raise ValueError(
                f"{option} needs the numbers of {one}, which are abstract: puppetize outside of jit and eval_shape."
            )


def _new(generator: Generator, key: PRNGKeyArray | None, plan: Plan) -> GeneratorModule:
    """A generator with new parameters."""
    check_generator(generator)
    if plan.order is None and not isinstance(generator, PuppeteerGenerator):
        raise ValueError("a generator needs an example, by which the order of the weights is known; give inputs.")
    order = range(len(plan.kernels)) if plan.order is None else plan.order
    shapes = [plan.kernels[place].hwio for place in order for _ in range(plan.kernels[place].stack)]
    return GeneratorModule(generator, generator.init(jax.random.key(0) if key is None else key, shapes))


def _default(h: float | Sequence[float] | None, size: int | None) -> float | tuple[float, ...]:
    """The condition of calls that give none."""
    if size is None:
        h = PHOTOGRAPHS if h is None else h
        check_complexity(h)  # type: ignore[arg-type]
        if np.ndim(h):
            raise ValueError(f"h must be a number, got {h!r:.80}.")
        return float(h)  # type: ignore[arg-type]
    values = np.zeros(size) if h is None else np.asarray(h, np.float64)
    if values.shape != (size,):
        raise ValueError(f"h must be {size} numbers, the condition of the generator, got {h!r:.80}.")
    return tuple(values.tolist())
