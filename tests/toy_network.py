"""A network in one file, as the docstring of `experiments.networks` says: one hidden layer with a batch norm."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import puppet_jax as pj
from experiments.networks.contract import Network
from puppet_jax.puppet import centred


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
    """The options of the toy."""

    hidden: int = 4
    """Width of the hidden layer."""

    def make(self, num_classes, image_shape):
        return ToyNetwork(num_classes=num_classes, image_shape=image_shape, hidden=self.hidden)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyNetwork(Network):
    num_classes: int
    image_shape: tuple[int, int, int]
    hidden: int
    depth: ClassVar[int] = 1

    def init(self, seed, depths):
        shapes = (math.prod(self.image_shape), self.hidden), (self.hidden, self.num_classes)
        keys = jax.random.split(jax.random.key(seed))
        first, second = (jax.random.normal(key, s) / math.sqrt(s[0]) for key, s in zip(keys, shapes, strict=True))
        return {"first": first, "second": second, "bias": jnp.zeros(self.num_classes)}

    def init_stats(self, depth):
        return pj.BatchStats(jnp.zeros(self.hidden), jnp.ones(self.hidden))

    def apply(self, params, stats, images, h, depth, key=None):
        x = centred(images).reshape(len(images), -1) @ params["first"]
        used = pj.BatchStats(x.mean(axis=0), x.var(axis=0)) if stats is None else stats
        x = jax.nn.relu((x - used.mean[None]) / jnp.sqrt(used.variance + 1e-5)[None])
        return x @ params["second"] + params["bias"][None], used

    def predictor(self, params, stats, **settings):
        return ToyPredictor(self, params, stats[self.depth])

    def macs(self, params, depth):
        return 0, (math.prod(self.image_shape) + self.num_classes) * self.hidden


class ToyPredictor:
    def __init__(self, network, params, stats):
        self.run = jax.jit(lambda images: network.apply(params, stats, images, None, network.depth)[0])

    def __call__(self, images, h=None):
        return np.asarray(self.run(images))

    def route(self, images, h=None):
        return self(images, h), np.full(len(images), ToyNetwork.depth)
