"""The CNN of the papers as a network to train, and the same with kernels that no puppeteer generates."""

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import puppet_jax as pj
from experiments.networks import controls
from experiments.networks.contract import Network
from experiments.networks.macs import count_macs
from puppet_jax.generator import Generator
from puppet_jax.puppet import puppet_matrices
from puppet_jax.trajectory import for_each_level


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppeteerSettings:
    """Arguments of `puppet_jax.init_puppeteer`."""

    max_channels: int | None
    kernel_size: int | None
    initial_state: Literal["seeded", "constant", "learned"]
    seed: int
    scale: float
    kernels_from: Literal["state", "velocity"]

    def init(self, key: Array) -> pj.Puppeteer:
        """A new puppeteer."""
        return pj.init_puppeteer(key, **dataclasses.asdict(self))

    def num_floats(self) -> int:
        """Of the puppeteer."""
        return pj.num_floats(jax.eval_shape(lambda: self.init(jax.random.key(0))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetLike(Network):
    """What a puppet does whatever its kernels come from; `params.puppeteer` is the source that they come from."""

    puppet: pj.Puppet
    image_size: tuple[int, int]
    dtype: str = dataclasses.field(default="float32", metadata={"stored": False})

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self.puppet.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return (*self.image_size, self.puppet.in_channels)

    @property
    def depth(self) -> int | None:  # type: ignore[override]
        return None if self.puppet.layers is None else sum(self.puppet.layers)

    @abc.abstractmethod
    def init_source(self, key: Array, shapes: Sequence[tuple[int, ...]]) -> Any:
        """The trainable floats that kernels of HWIO `shapes` come from."""

    @property
    @abc.abstractmethod
    def generate(self) -> Any:
        """From (source, h, shapes) to the kernels, float32."""

    @abc.abstractmethod
    def source_macs(self, source: Any, shapes: Sequence[tuple[int, ...]]) -> int:
        """Multiply-accumulates of making the kernels once."""

    def init(self, seed: int, depths: Sequence[int]) -> pj.PuppetParams:
        source_key, puppet_key = jax.random.split(jax.random.key(seed))
        params = pj.init_puppet(
            puppet_key, self.puppet, pj.init_puppeteer(source_key, 1, self.puppet.kernel_size), max_depth=max(depths)
        )
        source = self.init_source(source_key, self.puppet.kernel_shapes(max(depths)))
        return dataclasses.replace(params, puppeteer=source)

    def init_stats(self, depth: int) -> tuple[pj.BatchStats, ...]:
        return pj.init_batch_stats(self.puppet, depth)

    def apply(self, params, stats, images, h, depth, key=None):
        kernels = generate_sets(self.generate, params.puppeteer, h, self.puppet.kernel_shapes(depth))
        return pj.apply_puppet(self.puppet, params, stats, kernels, images, depth, jnp.dtype(self.dtype), key)

    def matrices(self, params):
        return puppet_matrices(params)

    def predictor(self, params, stats, **settings) -> pj.Predictor:
        settings = {"dtype": jnp.dtype(self.dtype)} | settings
        return pj.Predictor(self.puppet, params, stats, generate=self.generate, **settings)

    def macs(self, params, depth):
        made = self.source_macs(params.puppeteer, self.puppet.kernel_shapes(depth))
        return made, pj.puppet_macs(self.puppet, depth, self.image_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetNetwork(PuppetLike):
    """The puppet whose kernels a puppeteer generates."""

    puppeteer: PuppeteerSettings

    def init_source(self, key, shapes):
        return self.puppeteer.init(key)

    @property
    def generate(self):
        return pj.generate_kernels

    def source_macs(self, source, shapes):
        return pj.generator_macs(source, pj.num_steps(shapes, source.max_channels))

    def generator(self, params):
        return params.puppeteer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlNetwork(PuppetLike):
    """The puppet's layers with ordinary kernels, or with those of another generator, in place of the puppeteer.

    Attributes:
        kernels: which.
        num_coefficients: floats of the generator, at most; None for ordinary kernels.
        seed: of what the generator chooses at random.
    """

    kernels: Literal["ordinary", "frozen_basis", "low_rank", "inverse_dct", "hypernetwork", "shared"]
    num_coefficients: int | None
    seed: int

    @functools.cached_property
    def _other(self) -> Generator | None:
        if self.num_coefficients is None:
            return None
        return controls.other_generator(self.kernels, self.num_coefficients, self.seed)

    def init_source(self, key, shapes):
        return self._other.init(key, shapes) if self._other else controls.init_ordinary(key, shapes)

    @property
    def generate(self):
        return self._other.generate if self._other else controls.ordinary_kernels

    def source_macs(self, source, shapes):
        return count_macs(lambda source: self._other.generate(source, 0.0, shapes), source) if self._other else 0

    def generator(self, params):
        return None if self.kernels == "ordinary" else params.puppeteer

    def matrices(self, params):
        own = controls.generator_matrices(params.puppeteer)
        return dataclasses.replace(super().matrices(params), puppeteer=own)


def generate_sets(generate: Any, source: Any, h: Array | np.ndarray, shapes: Sequence[Any]) -> tuple[Array, ...]:
    """Kernels at one complexity, or with a leading axis of sets at several."""
    if len(h) == 1:
        return generate(source, h[0], shapes)
    return for_each_level(lambda level: generate(source, level, shapes), jnp.asarray(h))
