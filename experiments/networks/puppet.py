"""The CNN of the papers as a network to train, its kernels generated, stored or combined."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import puppet_jax as pj
from experiments.config import CONTROLS
from experiments.kernels import GENERATE, init_combined, init_stored, source_macs
from experiments.networks.contract import Generator, Network
from puppet_jax.puppet import fitting_settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetNetwork(Network):
    """The CNN of the papers, of input-adaptive depth; or with kernels of another kind of `experiments.kernels`.

    "stored" and "combined" are of one depth and stand where a Puppet-CNN has its puppeteer; "combined" has as many
    coefficients as the puppeteer would have floats. `exits` are the depths of nested puppets, trained together, the
    deep one for the images that the shallow one doubts.
    """

    puppet: pj.Puppet
    generator: Generator
    image_size: tuple[int, int]
    kernels: str = "generated"
    exits: tuple[int, int] | None = None

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self.puppet.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return (*self.image_size, self.puppet.in_channels)

    def init(self, seed: int, depths: Sequence[int]) -> pj.PuppetParams:
        puppeteer_key, puppet_key = jax.random.split(jax.random.key(seed))
        settings = fitting_settings(self.puppet, dataclasses.asdict(self.generator))
        puppeteer = pj.init_puppeteer(puppeteer_key, **settings)
        params = pj.init_puppet(puppet_key, self.puppet, puppeteer, max_depth=max(depths))
        if self.kernels not in CONTROLS:
            return params
        (depth,) = depths
        shapes = self.puppet.kernel_shapes(depth)
        source: Any
        if self.kernels == "stored":
            source = init_stored(puppeteer_key, shapes)
        else:
            source = init_combined(puppeteer_key, shapes, pj.num_floats(puppeteer), self.generator.seed)
        return dataclasses.replace(params, puppeteer=source)

    def init_stats(self, depth: int) -> tuple[pj.BatchStats, ...]:
        return pj.init_batch_stats(self.puppet, depth)

    def forward(self, params, stats, images, h, depth, dtype, key=None):
        kernels = self._generate(params, h, depth)
        return pj.apply_puppet(self.puppet, params, stats, kernels, images, depth, dtype, key)

    def forward_together(self, params, images, h, depth, dtype, key=None, detach=False):
        if self.exits is None:
            return super().forward_together(params, images, h, depth, dtype, key)
        kernels = self._generate(params, h, depth)
        return pj.apply_exits(self.puppet, params, None, kernels, images, self.exits, dtype, key, detach)

    def _generate(self, params, h, depth):
        shapes, generate = self.puppet.kernel_shapes(depth), GENERATE[self.kernels]
        if len(h) == 1:
            return generate(params.puppeteer, h[0], shapes)
        return jax.vmap(lambda level: generate(params.puppeteer, level, shapes))(h)

    def decays(self, params):
        return pj.puppet_matrices(params)

    def depths(self, h: np.ndarray) -> np.ndarray:
        return np.asarray(pj.depth(h))

    def interval(self, depth: int) -> tuple[float, float]:
        return pj.depth_interval(self.puppet.max_depth or depth)

    def check(self) -> None:
        self.puppet.check_image_size(*self.image_size)

    def predictor(self, params, stats, threshold=None, **settings) -> pj.Predictor | pj.EarlyExitPredictor:
        generate = GENERATE[self.kernels]
        if self.exits is None:
            return pj.Predictor(self.puppet, params, stats, generate=generate, **settings)
        known = {name: settings[name] for name in ("adaptation", "dtype") if name in settings}
        h = settings["complexity"].offset  # the one complexity of all images
        return pj.EarlyExitPredictor(self.puppet, params, stats, h=h, threshold=threshold, generate=generate, **known)

    def macs(self, params, depth):
        generator = source_macs(params.puppeteer, self.puppet.kernel_shapes(depth))
        if self.exits is None or depth == self.exits[0]:
            return generator, pj.puppet_macs(self.puppet, depth, self.image_size)
        shallow = pj.puppet_macs(self.puppet, self.exits[0], self.image_size)
        shared = self.puppet.shared_layers(*self.exits)
        return generator, shallow + pj.puppet_macs(self.puppet, depth, self.image_size, first=shared)

    def generator_params(self, params):
        return None if self.kernels == "stored" else params.puppeteer

    def describe(self) -> dict[str, Any]:
        return {"kind": "puppet", **dataclasses.asdict(self)}
