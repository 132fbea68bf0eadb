"""Seconds that programs take to be traced and compiled, as JSON; in the project's root: compile_times.py."""

import json
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

import puppet_jax as pj
from puppet_jax.convolution import convolve

sys.path.insert(0, str(Path.cwd() / "tests"))
from full_size import NETWORKS

LAYERS = {"layer-64": (32, 64), "layer-128": (16, 128), "layer-256": (8, 256)}  # side, channels; batch 64


def seconds(function, *arguments):
    """CPU seconds until a program can run."""
    jax.clear_caches()
    started = time.process_time()
    jax.jit(function).lower(*arguments).compile()
    return round(time.process_time() - started, 2)


def programs(model, image):
    """A forward pass, and a gradient by all parameters."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params, rest, x):
        return nnx.merge(graphdef, params, rest, copy=True)(x)

    def gradient(params, rest, x):
        return jax.grad(lambda params: jnp.square(forward(params, rest, x)).mean())(params)

    return [seconds(one, params, rest, image) for one in (forward, gradient)]


def layer(side, channels):
    """A convolution with both gradients."""
    shapes = (64, side, side, channels), (3, 3, channels, channels)
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    dims = ("NHWC", "HWIO", "NHWC")

    def loss(x, kernel):
        return jnp.square(convolve(x, kernel, (1, 1), "SAME", dimension_numbers=dims)).mean()

    return seconds(jax.grad(loss, (0, 1)), *operands)


found = {name: layer(*size) for name, size in LAYERS.items()}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # of EfficientNet: the puppeteer is not much smaller
    for name, (network, size) in NETWORKS.items():
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        plain = nnx.eval_shape(lambda network=network: network(nnx.Rngs(0)))
        puppet = pj.puppetize(plain, image)
        found[name] = {"ordinary": programs(plain, image), "puppet": programs(puppet, image)}
print(json.dumps(found))
