"""A network of NNX layers, all of whose weights are generated."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

import puppet_jax as pj
from experiments.networks.baselines.resnet8 import ResNet8Network
from experiments.networks.baselines.tiniest import TiniestNetwork
from experiments.networks.controls import generator_matrices, other_generator
from experiments.networks.macs import count_macs
from experiments.networks.module import GeneratedPredictor, ModuleNetwork
from experiments.networks.transformers import TransformerNetwork
from puppet_jax.gains import response
from puppet_jax.generator import Generator
from puppet_jax.puppet import centred
from puppet_jax.puppetized.plan import Generated as Weight
from puppet_jax.puppetized.weights import at

Plain = TransformerNetwork | ResNet8Network | TiniestNetwork


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Which generator, and how large.

    Attributes:
        kind: "puppeteer", or a name of `experiments.networks.controls.GENERATORS`.
        max_channels: C of the puppeteer; another generator has as many floats as that has.
        seed: of the frozen pattern.
        matrices: how a puppeteer's matrices are read, see `pj.PuppeteerGenerator`.
        kernels_from: what of the trajectory a puppeteer's kernels are.
        scale: of a puppeteer's seeded pattern.
    """

    kind: Literal["puppeteer", "frozen_basis", "low_rank", "inverse_dct", "hypernetwork", "shared"]
    max_channels: int
    seed: int
    matrices: Literal["mean", "taps"]
    kernels_from: Literal["state", "velocity"]
    scale: float

    def generator(self) -> Generator:
        """The generator itself."""
        puppeteer = pj.PuppeteerGenerator(
            max_channels=self.max_channels,
            kernel_size=3,
            seed=self.seed,
            scale=self.scale,
            kernels_from=self.kernels_from,
            matrices=self.matrices,
        )
        if self.kind == "puppeteer":
            return puppeteer
        floats = pj.num_floats(jax.eval_shape(lambda: puppeteer.init(jax.random.key(0), [])))
        return other_generator(self.kind, floats, self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuppetizedNetwork(ModuleNetwork):
    """A network whose weights, all but biases and norms, a generator makes; each with a trained gain.

    The gains start such that the weights have the scale of those that they replace.

    Attributes:
        plain: the network.
        source: the generator.
    """

    plain: Plain
    source: Source

    def make(self, seed):
        model = self.plain.make(seed)
        example = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        key = jax.random.split(jax.random.key(seed))[0]
        puppet = pj.puppetize(model, example, weights="all", generator=self.source.generator(), key=key)
        ratios = [
            _response(one, at(model, one.paths[0]).get_value()) / _response(one, made)
            for one, made in zip(puppet.kernels, puppet.generate(), strict=True)
        ]
        puppet.gains = nnx.Param(jnp.sqrt(jnp.stack(ratios)))  # type: ignore[assignment]
        return puppet

    def call(self, model, x, key):
        return self.plain.call(model, x, key)

    def loss(self, outputs, targets):
        return self.plain.loss(outputs, targets)

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Number of generated weights."""
        return len(self.generated)

    def predictor(self, params, stats, **settings) -> GeneratedPredictor:
        return GeneratedPredictor(self, params, *stats.values())

    def generate(self, params):
        return self.model(params, self.init_stats(0)).generate()

    def apply_with(self, params, stats, kernels, images):
        return self.model(params, stats).with_kernels(kernels)(centred(images))

    def macs(self, params, depth):
        made = count_macs(self.generate, params)
        return made, super().macs(params, depth)[1] - made

    def generator(self, params):
        return self.model(params, None).puppeteer.get_value()

    def matrices(self, params):
        own = {name: leaf for name, leaf in params.items() if name.startswith("puppeteer.")}
        return super().matrices(params) | generator_matrices(own)


def _response(one: Weight, values: Array) -> Array:
    return response(values.reshape(one.stack, *one.hwio), one.lookup)
