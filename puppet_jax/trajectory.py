"""The trajectory through parameter space (v1 Eqs. 7 and 12), and the kernels read from it."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from puppet_jax.adaptation import step_size
from puppet_jax.checks import as_integer, check_complexity
from puppet_jax.cpu.windows import apart
from puppet_jax.projection import as_kernel_shape, blocks, join, read
from puppet_jax.puppeteer import Puppeteer, check_puppeteer, kernel_field, start

MOST_RUNS = 4
"""Loops that kernels of several sizes are made by."""
LITTLE_PADDING, MOST_PADDING = 1.25, 1.5
"""Floats over those of the kernels: what saves a loop, and what is too much for loops at all."""
MOST_STATES, MANY_STEPS = 2**29, 16
"""Bytes of states that a gradient keeps. Of more, after so many steps, it keeps some and makes the others again."""
MOST_PRODUCTS = 2**28
"""Bytes of states up to which a gradient keeps as many of products too: at C = 512 it takes a twelfth less time."""


def trajectory(puppeteer: Puppeteer, h: Float[ArrayLike, ""], num_steps: int) -> Float[Array, "N C C taps"]:
    """The states S_0 ... S_N of the Euler scheme S_{n+1} = S_n + dl(h) G(S_n) (v1 Eqs. 7 and 12).

    Stepped by `diffrax.Euler` inside `jax.lax.scan`. Time counts steps and dl multiplies the field, so that the number
    of steps is static and `h` may be traced. Every transform of JAX applies, forward and reverse mode of any order,
    `jax.vmap` and `jax.export` among them; gradients flow to the puppeteer and to `h`.

    Args:
        puppeteer: the parameters.
        h: complexity in nats, a scalar, finite and at least 0. Use `jax.vmap` for several.
        num_steps: N, at least 1, static.

    Returns:
        (N + 1, C, C, K**2) float32, `states[0]` the initial state.

    Raises:
        ValueError: if `num_steps` is less than 1, or `h` is no scalar or (outside `jit`) negative or not finite.

    Example:
        >>> import jax, puppet_jax as pj
        >>> puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=8)
        >>> pj.trajectory(puppeteer, 4.5, num_steps=10).shape
        (11, 8, 8, 9)
    """
    check_puppeteer(puppeteer)
    num_steps = as_integer("num_steps", num_steps)
    check_scalar(h)
    return _solve(puppeteer, jnp.asarray(h, puppeteer.state_dtype), num_steps=num_steps)


@functools.partial(jax.jit, static_argnames="num_steps")  # so that calls outside `jit` compile once too
def _solve(puppeteer: Puppeteer, h: Float[Array, ""], *, num_steps: int) -> Float[Array, "N C C taps"]:
    step = _euler(puppeteer, h, num_steps)
    first = start(puppeteer, h)
    _, states = jax.lax.scan(lambda state, n: (step(state, n)[0],) * 2, first, jnp.arange(num_steps, dtype=first.dtype))
    return jnp.concatenate([first[None], states]).transpose(0, 3, 2, 1)


def _euler(puppeteer: Puppeteer, h: Float[Array, ""], num_steps: int) -> Callable[..., tuple[Array, Array]]:
    """Step n of `num_steps`: of S_n the next state S_{n+1} and the velocity G(S_n).

    A gradient keeps the state and does the step again; all but the product with the pointwise kernel, if it keeps that.
    """
    import diffrax as dfx  # here, since it takes as long to import as all the rest

    solver, term, dl = dfx.Euler(), dfx.ODETerm(lambda t, y, args: args), step_size(h)

    policies, state_bytes = jax.checkpoint_policies, math.prod(puppeteer.state_shape) * puppeteer.state_dtype.itemsize
    kept = policies.dots_saveable if keeps_products(num_steps, state_bytes) else policies.nothing_saveable

    @functools.partial(jax.checkpoint, prevent_cse=False, policy=kept)
    def step(state: Array, n: Array) -> tuple[Array, Array]:
        velocity = kernel_field(puppeteer, state)
        state, *_ = solver.step(term, n, n + 1, state, dl * velocity, None, False)
        return state, velocity

    return step


def generate_kernels(
    puppeteer: Puppeteer,
    h: Float[ArrayLike, ""],
    shapes: Sequence[Any],
    gains: Sequence[Any] | Array | None = None,
) -> tuple[Float[Array, "..."], ...]:
    """The kernels of a CNN at complexity `h`, one Euler step each (v1 Eqs. 12 and 13).

    Layer n = 0, 1, ... uses the state S_{n+1}, average-pooled to the layer's shape; or the velocity G(S_n), if that is
    what the puppeteer's `kernels_from` says. A kernel of more than C input or output channels or K**2 taps, of which
    the papers have none, is joined from blocks of at most C x C channels and K x K taps, and each block takes a step of
    its own: a small puppeteer can make a wide network.

    Args:
        puppeteer: the parameters.
        h: complexity in nats, a scalar, finite and at least 0. Use `jax.vmap` for one set of kernels per image.
        shapes: HWIO shapes in network order, tuples or anything with `.shape`; static.
        gains: factors of the kernels, one each, such as `start_gains` gives. None: as the papers have it, no factors.

    Returns:
        A tuple of float32 arrays of those shapes. From h = 0.5 on they are those of exact arithmetic to about 1e-5. For
        nearly blank images they are not: at h = 0.4 to 1e-4, and between 0.2 and 0.3, where the norms of the field
        divide by next to nothing, another device may give other kernels.

    Raises:
        ValueError: if `shapes` is empty, a shape is no HWIO shape, there are not as many gains as shapes, or `h`
            is no scalar or (outside `jit`) negative or not finite.

    Example:
        >>> import jax, puppet_jax as pj
        >>> puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=16)
        >>> kernels = pj.generate_kernels(puppeteer, 4.5, [(3, 3, 3, 8), (3, 3, 8, 16)])
        >>> [kernel.shape for kernel in kernels]
        [(3, 3, 3, 8), (3, 3, 8, 16)]
    """
    check_puppeteer(puppeteer)
    sizes = _hwio(shapes)
    if not sizes:
        raise ValueError("shapes must name at least one kernel, got none.")
    check_scalar(h)
    kernels = _generate(puppeteer, jnp.asarray(h, puppeteer.state_dtype), sizes=sizes)
    if gains is None:
        return kernels
    if len(gains) != len(sizes):
        raise ValueError(f"gains must be one a kernel, got {len(gains)} for {len(sizes)} shapes.")
    return tuple(jnp.asarray(gain, kernel.dtype) * kernel for gain, kernel in zip(gains, kernels, strict=True))


@functools.partial(jax.jit, static_argnames="sizes")
def _generate(puppeteer: Puppeteer, h: Float[Array, ""], *, sizes: tuple) -> tuple[Float[Array, "..."], ...]:
    """Each step is projected when it is done, so that without a gradient no more than one state is held."""
    state_size = puppeteer.max_channels, puppeteer.kernel_size
    cut = [blocks(size, *state_size) for size in sizes]
    parts = [part for blocks_of_one in cut for part in blocks_of_one]  # one a step
    runs = _runs(parts)
    padded = sum(len(run) * max(map(math.prod, run)) for run in runs)
    run_of = _stacked if padded <= MOST_PADDING * sum(map(math.prod, parts)) else _written
    euler, state = _euler(puppeteer, h, len(parts)), start(puppeteer, h)

    def step(state: Array, n: Array) -> tuple[Array, Array]:
        state, velocity = euler(state, n)
        return state, velocity if puppeteer.kernels_from == "velocity" else state

    found: list[Array] = []
    segment = segment_length(len(parts), state.nbytes)
    for run in runs if run_of is _stacked else [parts]:
        state, own = run_of(step, state, len(found), run, segment)
        found += own
    pieces = iter(found)
    return tuple(join([next(pieces) for _ in own], size, *state_size) for own, size in zip(cut, sizes, strict=True))


def keeps_products(num_steps: int, state_bytes: int) -> bool:
    """Whether a gradient keeps each step's product with the pointwise kernel, as large as a state."""
    return num_steps * state_bytes <= MOST_PRODUCTS


def segment_length(num_steps: int, state_bytes: int) -> int | None:
    """How many states a gradient makes again at a time, beside one that it keeps of each such segment; None: keeps all.

    As many as there are segments, about the root of the steps. It takes a seventh to a third longer.
    """
    if num_steps < MANY_STEPS or num_steps * state_bytes <= MOST_STATES:
        return None
    return math.isqrt(num_steps)


def _scan(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: tuple[Array, ...], segment: int | None
) -> tuple[Any, Any]:
    """`jax.lax.scan` over vectors, in segments of which a gradient keeps what each begins with."""
    count = len(xs[0])
    if segment is None:
        return jax.lax.scan(body, carry, xs)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def part(carry: Any, xs: Any) -> tuple[Any, Any]:
        return jax.lax.scan(body, carry, xs)

    if count <= segment:
        return part(carry, xs)
    whole = count // segment * segment
    carry, found = jax.lax.scan(part, carry, tuple(x[:whole].reshape(-1, segment) for x in xs))
    found = jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), found)
    if whole == count:
        return carry, found
    carry, last = part(carry, tuple(x[whole:] for x in xs))
    return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), found, last)


def _runs(parts: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """The parts cut into runs of neighbours, of which each is padded to the longest of its run.

    As few runs as `LITTLE_PADDING` allows, and never more than `MOST_RUNS`: each is a loop to be compiled.
    """
    runs = [list(same) for _, same in itertools.groupby(parts)]
    total = sum(map(math.prod, parts))

    def padded(run: list[tuple[int, ...]]) -> int:
        return len(run) * max(map(math.prod, run))

    while len(runs) > 1:
        growth = [padded(a + b) - padded(a) - padded(b) for a, b in itertools.pairwise(runs)]
        n = growth.index(min(growth))
        if len(runs) <= MOST_RUNS and sum(map(padded, runs)) + growth[n] > LITTLE_PADDING * total:
            break
        runs[n : n + 2] = [runs[n] + runs[n + 1]]
    return runs


def _reader(parts: Sequence[tuple[int, ...]]) -> tuple[Callable[[Array, Array], Array], np.ndarray]:
    """A function of a number and a state, to a kernel of the shape of that number, flat and padded; and the numbers."""
    shapes, longest = tuple(dict.fromkeys(parts)), max(map(math.prod, parts))

    def flat(shape: tuple[int, ...], state: Array) -> Array:
        kernel = read(state, shape).ravel()
        return jnp.pad(kernel, (0, longest - len(kernel)))

    branches = [functools.partial(flat, shape) for shape in shapes]
    return lambda which, state: jax.lax.switch(which, branches, state), np.array([shapes.index(part) for part in parts])


def _stacked(
    step: Callable[..., tuple[Array, Array]],
    state: Array,
    first: int,
    parts: Sequence[tuple[int, ...]],
    segment: int | None,
) -> tuple[Array, list[Array]]:
    """The state after steps `first`, `first` + 1, ..., and the kernel read from what each gives, of padded rows."""
    reader, which = _reader(parts)
    if len(set(parts)) == 1:  # kept as they are: where a state is split over devices, what is flat cannot be
        reader = lambda _, state: read(state, parts[0])  # noqa: E731

    def body(state: Array, x: tuple[Array, Array]) -> tuple[Array, Array]:
        state, seen = step(state, x[0])
        return state, reader(x[1], seen)

    times = jnp.arange(first, first + len(parts), dtype=state.dtype)
    state, rows = _scan(body, state, (times, jnp.asarray(which)), segment)
    whole = zip(apart(rows), parts, strict=True)
    return state, [row if row.shape == part else row[: math.prod(part)].reshape(part) for row, part in whole]


def _written(
    step: Callable[..., tuple[Array, Array]],
    state: Array,
    first: int,
    parts: Sequence[tuple[int, ...]],
    segment: int | None,
) -> tuple[Array, list[Array]]:
    """The same, one kernel behind the other: parts of very different sizes take no more room than their floats.

    Its gradient copies all that is written in each step, which with many layers takes longer than the steps.
    """
    reader, which = _reader(parts)
    begins = np.cumsum([0, *map(math.prod, parts)])

    def body(carry: tuple[Array, Array], x: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        (state, found), (n, kind, begin) = carry, x
        state, seen = step(state, n)
        flat = reader(kind, seen)  # the next one overwrites its padding
        return (state, jax.lax.dynamic_update_slice(found, flat, (begin,))), None

    found = jnp.zeros_like(state, shape=begins[-1] + max(map(math.prod, parts)))
    times = jnp.arange(first, first + len(parts), dtype=state.dtype)
    numbers = times, jnp.asarray(which), jnp.array(begins[:-1])
    (state, found), _ = _scan(body, (state, found), numbers, segment)
    alone = jax.lax.split(found, (*np.diff(begins).tolist(), len(found) - int(begins[-1])))
    return state, [flat.reshape(part) for flat, part in zip(alone[:-1], parts, strict=True)]


def for_each_level(generate: Callable[[Array], Any], h: Float[Array, "levels ..."]) -> Any:
    """What `generate` gives of each complexity, or of each row of another condition, with a leading axis of sets.

    One after the other on a single CPU, where eight levels at once take up to 1.7 times as long; elsewhere at once.
    """
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        return jax.lax.map(generate, h)
    return jax.vmap(generate)(h)


def num_steps(shapes: Sequence[Any], max_channels: int, kernel_size: int | None = None) -> int:
    """How many Euler steps `generate_kernels` takes: one a kernel that a state holds, else one a block.

    Args:
        shapes: HWIO shapes, tuples or anything with `.shape`.
        max_channels: C of the puppeteer.
        kernel_size: K of the puppeteer; None for one that holds the largest window.

    Raises:
        TypeError, ValueError: if C or K is no positive integer, or a shape is no HWIO shape.

    Example:
        >>> import puppet_jax as pj
        >>> pj.num_steps([(3, 3, 3, 16), (3, 3, 16, 32), (3, 3, 32, 32)], max_channels=16)
        7
    """
    max_channels = as_integer("max_channels", max_channels)
    kernel_size = None if kernel_size is None else as_integer("kernel_size", kernel_size)
    return sum(len(blocks(size, max_channels, kernel_size)) for size in _hwio(shapes))


def _hwio(shapes: Sequence[Any]) -> tuple[tuple[int, ...], ...]:
    """The shapes as tuples of ints; raises a ValueError unless each is HWIO."""
    if not isinstance(shapes, Iterable) or isinstance(shapes, str):
        raise TypeError(f"shapes must be a sequence of HWIO shapes, got {shapes!r:.80}.")
    return tuple(as_kernel_shape(getattr(shape, "shape", shape)) for shape in shapes)


def check_scalar(h: ArrayLike) -> None:
    """Raises a ValueError unless `h` can be the complexity of one trajectory."""
    if jnp.shape(h) != ():
        raise ValueError(
            f"h must be a scalar, got shape {jnp.shape(h)}. For one set of kernels per image use "
            "jax.vmap(..., in_axes=(None, 0)); to share kernels pass one value, such as the mean."
        )
    check_complexity(h)
