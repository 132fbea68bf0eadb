"""How complexity becomes step size, depth and initial level (v1 Eqs. 10 and 11).

All functions take the complexity `h` in nats (any shape, finite, at least 0), work elementwise and are pure.
Concrete values that are negative, infinite or NaN raise; inside `jit` they give NaN (depth 0).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from puppet_jax.checks import as_complexity, as_integer


def _as_float(h: ArrayLike) -> Float[Array, "..."]:
    h = as_complexity(h)
    return h.astype(jnp.promote_types(h.dtype, jnp.float32))


def step_size(h: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Step of the Euler scheme, `dl = tanh(1 / h)` (v1 Eq. 10), in (0, 1]; `h = 0` gives 1.

    Args:
        h: complexity in nats, any shape, finite and at least 0.

    Returns:
        `dl`, same shape, float32 (float64 for a float64 `h`).

    Raises:
        ValueError: if a concrete `h` is negative, infinite or NaN.

    Example:
        >>> import puppet_jax as pj
        >>> round(float(pj.step_size(4.0)), 4)
        0.2449
    """
    h = _as_float(h)
    # tanh(100) is 1 to the last bit; the unused branch is kept finite, so that its gradient is no NaN
    safe = jnp.where(h < 1e-2, 1.0, h)
    dl = jnp.where(h < 1e-2, 1.0, jnp.tanh(1.0 / safe))
    return jnp.where(jnp.isfinite(h) & (h >= 0), dl, jnp.nan)


def depth(h: Float[ArrayLike, "..."]) -> Int[Array, "..."]:
    """Depth of the puppet, `D = floor(1 / dl(h))` (v1 Eq. 10), at least 1.

    Layers per stage under `depth_rule="per_stage"` (v1), layers in total under `"total"` (v2).

    Args:
        h: complexity in nats, any shape, finite and at least 0.

    Returns:
        int32, same shape.

    Raises:
        ValueError: if a concrete `h` is negative, infinite or NaN.

    Example:
        >>> import puppet_jax as pj
        >>> int(pj.depth(4.0)), int(pj.depth(0.0))
        (4, 1)
    """
    dl = step_size(h)
    layers = jnp.maximum(jnp.floor(1.0 / dl), 1.0)
    return jnp.where(jnp.isnan(dl), 0.0, layers).astype(jnp.int32)


def initial_level(h: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """Level of the initial state, `p0 = exp(1 - h**-2)` (v1 Eq. 11), in [0, e); `h = 0` gives 0.

    Args:
        h: complexity in nats, any shape, finite and at least 0.

    Returns:
        `p0`, same shape, float32 (float64 for a float64 `h`).

    Raises:
        ValueError: if a concrete `h` is negative, infinite or NaN.

    Example:
        >>> import puppet_jax as pj
        >>> float(pj.initial_level(1.0))
        1.0
    """
    h = _as_float(h)
    # exp(1 - h**-2) underflows to 0 long before h**-2 overflows
    safe = jnp.where(h < 1e-3, 1.0, h)
    level = jnp.where(h < 1e-3, 0.0, jnp.exp(1.0 - 1.0 / (safe * safe)))
    return jnp.where(jnp.isfinite(h) & (h >= 0), level, jnp.nan)


def depth_interval(depth: int) -> tuple[float, float]:
    """The complexities whose depth is `depth`: `low <= h < high`, in nats (v1 Eq. 10 inverted).

    `1 / tanh(1 / h)` reaches `D` at `h = 1 / artanh(1 / D)`, so an interval is about one nat wide.

    Args:
        depth: at least 1.

    Returns:
        `(low, high)`; `low` is 0 for depth 1.

    Raises:
        TypeError: if `depth` is no integer.
        ValueError: if it is less than 1.

    Example:
        >>> import puppet_jax as pj
        >>> [round(bound, 3) for bound in pj.depth_interval(4)]
        [3.915, 4.933]
    """
    depth = as_integer("depth", depth)
    low = 0.0 if depth == 1 else 1.0 / math.atanh(1.0 / depth)
    return low, 1.0 / math.atanh(1.0 / (depth + 1))
