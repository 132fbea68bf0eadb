"""Networks of full size as puppets: what a program takes of memory, by shapes and the compiler's own figures."""

import warnings

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from full_size import NETWORKS

import puppet_jax as pj

TIMES = 4


def temporary(model, image):
    """Bytes beside the arguments: of a forward pass, and of a gradient by all parameters."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params, rest, x):
        return nnx.merge(graphdef, params, rest, copy=True)(x)

    def gradient(params, rest, x):
        return jax.grad(lambda params: jnp.square(forward(params, rest, x)).mean())(params)

    programs = (jax.jit(one).lower(params, rest, image).compile() for one in (forward, gradient))
    return [program.memory_analysis().temp_size_in_bytes for program in programs]


def weights(model):
    return 4 * pj.num_floats(nnx.state(model, nnx.Param))


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_memory(name):
    """One image, defaults alone: four times the weights and activations of the network itself, at most."""
    network, size = NETWORKS[name]
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    plain = nnx.eval_shape(lambda: network(nnx.Rngs(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of EfficientNet: the puppeteer is not much smaller
        puppet = pj.puppetize(plain, image)
    for own, ordinary in zip(temporary(puppet, image), temporary(plain, image), strict=True):
        assert weights(puppet) + own <= TIMES * (weights(plain) + ordinary)
