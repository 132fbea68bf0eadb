"""What `puppetize` and its puppets refuse: models, options, orders, complexities."""

import jax.numpy as jnp
import models
import pytest
from flax import nnx
from puppets import X, noise, one_layer, shape_of, small

import puppet_jax as pj


class Branching(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = (nnx.Conv(3, 3, (3, 3), rngs=rngs) for _ in range(2))
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x, order="ab"):
        order = order if x.shape[1] < 10 else "ba"
        order = order if not self.norm.use_running_average else "ba"
        for name in order:
            x = getattr(self, name)(x)
        return self.norm(x)


@pytest.mark.usefixtures("without_type_checks")
def test_what_cannot_be_puppetized():
    with pytest.raises(TypeError, match=r"must be a flax\.nnx\.Module, got function"):
        pj.puppetize(lambda x: x)
    with pytest.raises(ValueError, match="Linear holds no nnx.Conv"):
        pj.puppetize(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"matches none of the 2 weights \(a, b\)"):
        small(where=lambda path, conv: False)
    with pytest.raises(TypeError, match=r"model\.a holds a weight of shape \(\).*puppetized"):
        pj.puppetize(small())
    stacked = one_layer()
    stacked.layers[0].kernel = nnx.Param(jnp.ones((3, 3, 3, 4, 5)))  # five layers, but on the last axis
    with pytest.raises(TypeError, match="stack of such on the first axes"):
        pj.puppetize(stacked)
    with pytest.raises(ValueError, match="finite and at least 0"):
        small(h=-1.0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_channels": 0}, "max_channels must be at least 1"),
        ({"kernel_size": 0}, "kernel_size must be at least 1, got 0"),
    ],
)
def test_puppeteers_that_are_too_small(options, message):
    with pytest.raises(ValueError, match=message):
        pj.puppetize(models.build(models.Small), **options)


def test_a_kernel_without_a_place():
    net = models.build(Branching)
    with pytest.raises(ValueError, match=r"does not use b \(3, 3, 3, 3\), so.*example.*where"):
        pj.puppetize(net, (X, "a"))
    puppet = pj.puppetize(net)
    with pytest.raises(ValueError, match="not known yet: call the model once"):
        puppet.execution_order  # noqa: B018
    with pytest.raises(ValueError, match="not known yet"):
        puppet.instantiate()
    with pytest.raises(ValueError, match="does not use b"):
        shape_of(puppet, X, order="a")
    assert shape_of(puppet, X, order="ba") == X.shape  # a failed call decides nothing
    assert puppet.execution_order == (1, 0)


@pytest.mark.usefixtures("without_type_checks")
def test_an_order_that_changes_is_refused_and_a_subset_is_not():
    puppet = pj.puppetize(models.build(Branching), X)
    assert puppet.execution_order == (0, 1)
    refused = r"another order than in the first call: then a \(3, 3, 3, 3\), b .*; now b .*, a .*depend on the input"
    with pytest.raises(ValueError, match=refused):
        shape_of(puppet, X, order="ba")
    with pytest.raises(ValueError, match=refused):
        shape_of(puppet, noise(2, 12, 12, 3))
    puppet.eval()
    with pytest.raises(ValueError, match=refused):
        shape_of(puppet, X)
    puppet.train()
    assert shape_of(puppet, X) == X.shape  # as in the first call, it still works
    assert shape_of(puppet, noise(2, 7, 5, 3)) == (2, 7, 5, 3)  # another size, the same order
    assert shape_of(puppet, X, order="b") == shape_of(puppet, X, order="aba") == X.shape


@pytest.fixture(scope="module")
def puppet():
    return pj.puppetize(models.build(models.Misleading), X)


@pytest.mark.parametrize(
    "h, message",
    [
        (-1.0, "finite and at least 0"),
        (float("nan"), "finite and at least 0"),
        (jnp.array([4.0, jnp.inf]), "finite and at least 0"),
        (jnp.ones((2, 2)), r"scalar, or have one axis.*\(2, 2\)"),
        (jnp.ones(3), "must divide the batch, got 3 for 4"),
        (jnp.ones(0), "must divide the batch, got 0 for 4"),
        (True, "real number"),
    ],
)
def test_complexities_that_are_none(puppet, h, message):
    with pytest.raises(ValueError, match=message):
        shape_of(puppet, X, h=h)
