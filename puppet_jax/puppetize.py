"""Any CNN can be a puppet: the convolution kernels of a Flax NNX model from a puppeteer (v1 Sec. 4.3)."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import PRNGKeyArray

from puppet_jax.checks import check_complexity
from puppet_jax.convolution import convolve
from puppet_jax.gains import response
from puppet_jax.projection import least_state
from puppet_jax.puppet_model import M, PuppetModel, call
from puppet_jax.puppet_plan import Generated, Path, Plan, Where, name_of
from puppet_jax.puppet_summary import summarise
from puppet_jax.puppeteer import InitialState, KernelsFrom, Puppeteer, init_puppeteer

MOST_CHANNELS = 512
"""C that is chosen at most, the papers'."""
LARGEST_KERNEL_SIZE = 3
"""K likewise."""


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
    keep_scale: bool = False,
) -> PuppetModel[M]:
    """The same model with generated convolution kernels (v1 Sec. 4.3, v2 Sec. 4.4).

    The kernels of the convolutions are dropped and come from a puppeteer instead, one Euler step each, in the order
    in which the model uses them. Biases, norms, linear layers and whatever else the
    model holds are kept and trained as before. The model given is not changed, nor is its code.

    The three regimes of the papers: the model itself has fixed kernels; `puppet(x)` has the kernels of one constant
    complexity (puppeteer-puppet scheme); `puppet(x, h=...)` those of the input's (parameter adaptation).

    A grouped or depthwise convolution is generated in the shape that it holds, (*window, c_in / groups, c_out); leave
    it alone with `where=lambda path, conv: conv.feature_group_count == 1`. Windows of one or three axes are folded into
    two.

    Args:
        model: any Flax NNX model.
        example: inputs by which the order is found: an array, a `jax.ShapeDtypeStruct`, or a tuple of positional
            arguments; or a function that runs the model, such as `lambda model: model.decode(model.encode(x))`.
            Without it the first call decides.
        where: `where(path, convolution)` says whether a convolution's kernel is generated; default: every `nnx.Conv`
            and `nnx.ConvTranspose`. A path is a tuple of attribute names and indices.
        h: complexity in nats of calls that give none, finite and at least 0; photographs of CIFAR-10 have 4 to 5.5.
        puppeteer: the generator, for instance a trained one; a new one if not given, from the arguments that follow.
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

    Returns:
        A `PuppetModel`, called as the model is, with one more keyword argument `h`.

    Raises:
        TypeError: if `model` is no `nnx.Module`, or holds a convolution whose kernel is no array of its window.
        ValueError: if the model has no convolution, `where` matches none, the example does not use every
            kernel, or `keep_scale` has no example or no numbers.

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
    check_complexity(h)
    if keep_scale and example is None:
        raise ValueError("keep_scale needs an example, by which the order of the kernels is known; give inputs.")
    model = nnx.merge(*nnx.split(model), copy=True)
    kernels, replaced = _take_kernels(model, where)
    responses = _responses(kernels, replaced) if keep_scale else None
    if puppeteer is None:
        least = least_state([one.shape for one in kernels])
        puppeteer = init_puppeteer(
            jax.random.key(0) if key is None else key,
            max_channels=min(least[0], MOST_CHANNELS) if max_channels is None else max_channels,
            kernel_size=min(least[1], LARGEST_KERNEL_SIZE) if kernel_size is None else kernel_size,
            initial_state=initial_state,
            seed=seed,
            scale=scale,
            kernels_from=kernels_from,
        )
    for note in summarise(type(model).__name__, kernels, puppeteer, kept=0).notes:
        warnings.warn(f"{type(model).__name__}: {note}.", stacklevel=2)
    puppet = PuppetModel(model, puppeteer, Plan(kernels), float(h))
    if callable(example):
        puppet.find_order(example)
    elif example is not None:
        puppet.find_order(call, *(example if isinstance(example, tuple) else (example,)))
    if responses is not None:
        puppet.keep_scale(responses)
    return puppet


def _responses(kernels: Sequence[Generated], replaced: Sequence[Any]) -> list[float]:
    found = []
    for one, kernel in zip(kernels, replaced, strict=True):
        if not isinstance(kernel, jax.Array | np.ndarray) or isinstance(kernel, jax.core.Tracer):
            raise ValueError(
                f"keep_scale needs the numbers of {one}, which are abstract: puppetize outside of jit and eval_shape."
            )
        found.append(float(response(jnp.asarray(kernel))))
    return found


def _take_kernels(model: nnx.Module, where: Where | None) -> tuple[tuple[Generated, ...], list[Any]]:
    """Takes the kernels to be generated out of `model`, in place; returns what they were, and their values."""
    convolutions = [
        (path, node) for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Conv | nnx.ConvTranspose)
    ]
    if not convolutions:
        raise ValueError(f"{type(model).__name__} holds no nnx.Conv and no nnx.ConvTranspose; nothing to generate.")
    chosen = [(path, conv) for path, conv in convolutions if where is None or where(path, conv)]
    if not chosen:
        names = ", ".join(name_of(path) for path, _ in convolutions)
        raise ValueError(f"where matches none of the {len(convolutions)} convolutions ({names}).")
    sharing: dict[int, tuple[tuple[int, ...], Any, list[Path]]] = {}
    values: dict[int, Any] = {}
    for path, conv in chosen:
        shape = tuple(getattr(conv.kernel, "shape", ()))
        if len(shape) != len(conv.kernel_size) + 2:
            raise TypeError(
                f"the kernel of {name_of(path)} has shape {shape}, not {len(conv.kernel_size)} + 2 axes: stacked and "
                "already puppetized convolutions cannot be puppetized; leave them alone with `where`."
            )
        sharing.setdefault(id(conv.kernel), (shape, conv.kernel.dtype, []))[-1].append(path)
        values[id(conv.kernel)] = conv.kernel.get_value()
    for _, conv in chosen:
        conv.kernel = nnx.data(None)  # type: ignore[arg-type]
        if isinstance(conv, nnx.Conv) and conv.conv_general_dilated is lax.conv_general_dilated:
            conv.conv_general_dilated = convolve
    generated = tuple(Generated(tuple(paths), shape, dtype) for shape, dtype, paths in sharing.values())
    return generated, list(values.values())
