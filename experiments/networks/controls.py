"""Kernels that no puppeteer generates, in a puppet's layers: what a puppeteer is compared with."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from puppet_jax.extras import generators
from puppet_jax.extras.generators.pieces import he_gain
from puppet_jax.generator import Generator

GENERATORS: dict[str, Any] = {
    "frozen_basis": generators.FrozenBasis,
    "low_rank": generators.LowRank,
    "inverse_dct": generators.InverseDCT,
    "hypernetwork": generators.Hypernetwork,
    "shared": generators.Shared,
}
"""By the names that a configuration has for them."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class OrdinaryKernels:
    """Every weight of every kernel, trained and stored."""

    kernels: tuple[Float[Array, "kh kw c_in c_out"], ...]


def init_ordinary(key: PRNGKeyArray, shapes: Sequence[tuple[int, ...]]) -> OrdinaryKernels:
    """Kernels of HWIO `shapes`, normal with variance 2 / fan-in (He et al. 2015)."""
    keys = jax.random.split(key, len(shapes))
    return OrdinaryKernels(
        kernels=tuple(he_gain(shape) * jax.random.normal(one, shape) for one, shape in zip(keys, shapes, strict=True))
    )


def ordinary_kernels(source: OrdinaryKernels, h: Any, shapes: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """The kernels themselves; `h` does not matter.

    Raises:
        ValueError: if `shapes` are others.
    """
    found = tuple(kernel.shape for kernel in source.kernels)
    if found != tuple(map(tuple, shapes)):
        raise ValueError(f"kernels of shapes {tuple(shapes)} were asked for, but the model has those of {found}.")
    return source.kernels


def other_generator(name: str, num_floats: int, seed: int) -> Generator:
    """A generator of at most `num_floats`; `seed` is that of what it chooses at random."""
    seeded = {"seed": seed} if name in ("frozen_basis", "shared") else {}
    return GENERATORS[name](num_floats=num_floats, **seeded)


def generator_matrices(params: Any) -> Any:
    """Which floats of a generator are for weight decay, Muon and few bits, a tree of booleans: its matrices.

    Where it has none, all of them: the shared floats, and the coefficients of an inverse DCT.
    """
    matrices = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    return matrices if any(jax.tree.leaves(matrices)) else jax.tree.map(lambda _: True, params)
