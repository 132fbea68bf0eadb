"""What a call of a puppet makes and sets: it arrives as in the plain model, and no generated kernel does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from puppets import X, noise

import puppet_jax as pj
from puppet_jax.extras.generators import Shared


def conv(c_in=3, c_out=3):
    return nnx.Conv(c_in, c_out, (1, 1), use_bias=False, rngs=nnx.Rngs(0))


class Counting(nnx.Module):
    """Makes its variables anew in each call."""

    def __init__(self):
        self.conv = conv()
        self.count = nnx.Variable(jnp.zeros(()))

    def __call__(self, x):
        self.count = nnx.Variable(self.count[...] + 1)
        self.last = nnx.Intermediate(x.sum())
        return self.conv(x)


class Containers(nnx.Module):
    """Sets containers of arrays, one that it has and one that it has not."""

    def __init__(self):
        self.conv = conv()
        self.stats = nnx.data((jnp.zeros(3), jnp.ones(3)))
        self.log = nnx.List([])

    def __call__(self, x):
        self.stats = nnx.data((x.mean((0, 1, 2)), x.std((0, 1, 2))))
        self.features = nnx.data([x.mean()])
        self.log.append(nnx.Intermediate(x.mean()))
        return self.conv(x)


class Aliasing(nnx.Module):
    """Gives a layer another name, or another holder, in a call."""

    def __init__(self, how):
        self.first, self.second, self.how, self.old = conv(), conv(), how, 1

    def __call__(self, x):
        if self.how == "name":
            self.alias = self.second
        elif self.how == "lazily" and not hasattr(self, "alias"):
            self.alias = self.second
        elif self.how == "list":
            self.alias = nnx.List([self.second])
        elif self.how == "replaced":
            self.second.kernel = nnx.Param(2 * self.second.kernel[...])
        elif self.how == "kernel":
            self.alias = self.second.kernel
        elif self.how == "deleted" and hasattr(self, "old"):
            del self.old
        return self.second(self.first(x))


def puppet_of(model):
    return pj.puppetize(model, X, generator=Shared(num_floats=8))


def test_variables_that_a_call_makes_anew():
    plain, puppet = Counting(), puppet_of(Counting())
    for x in (X, 2 * X):
        plain(x)
        puppet(x)
    assert float(puppet.model.count[...]) == float(plain.count[...]) == 2
    np.testing.assert_array_equal(puppet.model.last[...], plain.last[...])


def test_containers_that_a_call_sets():
    plain, puppet = Containers(), puppet_of(Containers())
    for x in (X, noise(*X.shape, seed=1)):
        plain(x)
        puppet(x)
        np.testing.assert_array_equal(puppet.model.stats[1], plain.stats[1])
        np.testing.assert_array_equal(puppet.model.features[0], plain.features[0])
    assert len(puppet.model.log) == len(plain.log) == 2


@pytest.mark.parametrize("how", ["name", "lazily", "list", "kernel", "replaced"])
def test_no_kernel_stays_in_the_puppet(how):
    """Also after a call that names a layer anew, the kernels are generated: two linear layers, so twice 3."""
    puppet = puppet_of(Aliasing(how))
    before = puppet(X)
    params = nnx.to_flat_state(nnx.state(puppet, nnx.Param))
    assert [path for path, _ in params] == [("puppeteer", "values")]
    if how in ("name", "lazily"):
        assert puppet.model.alias is puppet.model.second
    if how == "list":
        assert puppet.model.alias[0] is puppet.model.second
    puppet.puppeteer.values.set_value(3 * puppet.puppeteer.values[...])
    np.testing.assert_allclose(puppet(X), 9 * before, rtol=1e-4, atol=1e-5)


def test_what_a_call_deletes_is_gone():
    puppet = puppet_of(Aliasing("deleted"))
    puppet(X)
    assert not hasattr(puppet.model, "old")


def test_a_call_that_sets_nothing_sets_nothing():
    """A module of an outer trace cannot be changed, so what is the same must be left alone."""
    model = Aliasing("nothing")
    model.constants = nnx.data((jnp.ones(3), [jnp.zeros(2), None]))
    puppet = puppet_of(model)
    mapped = jax.vmap(lambda x: puppet(x[None])[0])(X)
    np.testing.assert_allclose(mapped, puppet(X), rtol=1e-4, atol=1e-5)


class Named(nnx.Module):
    def __init__(self):
        self.conv = conv()

    def __call__(self, x, function=1.0, model=1.0, plan=1.0):
        return self.conv(x) * function * model * plan


def test_any_name_of_an_argument():
    puppet = puppet_of(Named())
    np.testing.assert_allclose(puppet(X, function=2.0, model=3.0, plan=4.0), 24 * puppet(X), rtol=1e-5)
    assert not puppet.summary(X, function=2.0).notes[1:]
