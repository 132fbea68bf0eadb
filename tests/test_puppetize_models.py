"""Puppets of models that do more than call convolutions."""

import warnings

import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
import reference
from flax import nnx
from puppets import X, by_hand

import puppet_jax as pj


class Unusual(nnx.Module):
    """Dropout, keywords, a dictionary for a result, containers whose keys are names of methods, plain attributes."""

    def __init__(self, rngs):
        self.blocks = nnx.data(
            {"items": nnx.Conv(4, 4, (3, 3), rngs=rngs), "keys": (nnx.Conv(3, 4, (3, 3), rngs=rngs),)}
        )
        self.named = nnx.Dict({"values": nnx.Conv(4, 4, (1, 1), rngs=rngs)})
        self.dropout = nnx.Dropout(0.5)
        self.config = {"widths": [3, 4]}  # cannot be hashed

    @nnx.remat
    def block(self, x):
        return self.blocks["items"](x)

    def __call__(self, x, *, train, rngs=None):
        x = self.blocks["keys"][0](x)
        self.sow(nnx.Intermediate, "first", x)
        y = self.dropout(self.block(x), deterministic=not train, rngs=rngs)
        return {"y": nnx.jit(lambda m, y: m(y))(self.named["values"], y), "n": 3}


def test_an_unusual_model():
    net = Unusual(nnx.Rngs(0))
    puppet = pj.puppetize(net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of `sow` outside `nnx.capture`, as in the plain model
        rngs = nnx.Rngs(1)
        noisy, again = (puppet(X, train=True, rngs=rngs) for _ in range(2))
        quiet = puppet(X, train=False)
    in_order = ["blocks.keys.0 (3, 3, 3, 4)", "blocks.items (3, 3, 4, 4)", "named.values (1, 1, 4, 4)"]
    assert [str(puppet.kernels[place]) for place in puppet.execution_order] == in_order
    assert rngs.default.count[...] == 2  # finding the order drew no numbers
    assert np.any(noisy["y"] != again["y"]) and np.any(noisy["y"] != quiet["y"]) and quiet["n"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert reference.relative_error(quiet["y"], by_hand(net, puppet, 4.5)(X, train=False)["y"]) < 1e-5
    _, sown = nnx.capture(puppet, nnx.Intermediate)(X, train=False)
    assert jax.tree.leaves(sown)[0].shape == (4, 6, 6, 4)


def test_other_methods_through_instantiate():
    puppet = pj.puppetize(models.build(models.Small), X)
    model = puppet.instantiate(3.0)
    assert type(model) is models.Small
    assert model.features(X).shape == (4, 6, 6, 4)
    assert np.any(np.asarray(puppet.model.norm.mean[...]))  # its statistics are the puppet's, not copies
    assert model.linear.kernel is puppet.model.linear.kernel


def test_dropout_of_a_model_with_its_own_random_numbers():
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
    puppet = pj.puppetize(net, X)
    count = int(net.layers[1].rngs.count[...])
    first, second = puppet(X), puppet(X)
    assert np.any(first != second)
    assert int(puppet.model.layers[1].rngs.count[...]) == count + 2 and int(net.layers[1].rngs.count[...]) == count
    puppet.eval()
    np.testing.assert_array_equal(puppet(X), puppet(X))


class Outer(nnx.Module):
    def __init__(self, rngs):
        self.inner = pj.puppetize(nnx.Sequential(nnx.Conv(3, 4, (3, 3), rngs=rngs)), h=2.0)
        self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)

    def __call__(self, x):
        return self.conv(self.inner(x))


def test_a_puppet_inside_a_puppet():
    """Two puppeteers; the outer complexity is not the inner one."""
    net = Outer(nnx.Rngs(0))
    with pytest.raises(TypeError, match="already puppetized"):
        pj.puppetize(net)
    puppet = pj.puppetize(net, X, where=lambda path, conv: path[0] == "conv")
    np.testing.assert_allclose(puppet(X, h=3.0), by_hand(net, puppet, 3.0)(X), rtol=1e-5, atol=2e-6)


def test_a_convolution_on_its_own():
    puppet = pj.puppetize(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), X)
    assert str(puppet.kernels[0]) == "the model itself (3, 3, 3, 4)"
    assert puppet(X).shape == puppet(X, h=jnp.array([3.0, 4.0])).shape == (4, 6, 6, 4)
    assert puppet(X[0]).shape == (6, 6, 4)
