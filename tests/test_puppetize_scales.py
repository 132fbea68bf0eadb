"""Scales and kept weights of a puppet: whose they are, what a copy or a state does to them, what has none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from puppets import X

import puppet_jax as pj
from puppet_jax.extras.generators import Shared

GENERATOR = Shared(num_floats=20)


class Branch(nnx.Module):
    """Two convolutions in a row beside the input; the kernels of those in `zero` are zero."""

    def __init__(self, zero="", dtype=jnp.float32, scale=0.1, seed=0):
        rngs = nnx.Rngs(seed)

        def conv(name):
            init = nnx.initializers.zeros if name in zero else nnx.initializers.normal(scale)
            return nnx.Conv(3, 3, (3, 3), kernel_init=init, param_dtype=dtype, use_bias=False, rngs=rngs)

        self.a, self.b = conv("a"), conv("b")

    def __call__(self, x):
        return x + self.b(self.a(x))


def puppet_of(model, **options):
    return pj.puppetize(model, X, **{"generator": GENERATOR, "keep_scale": True} | options)


class TestCopies:
    def test_scales_of_a_copy_are_its_own(self):
        puppet = puppet_of(Branch(zero="b"))
        puppet.zero_gains.set_value(jnp.full(1, 0.5))
        before, copy = puppet.generate(), nnx.clone(puppet)
        copy.keep_scale([jnp.zeros((3, 3, 3, 3)), jnp.ones((3, 3, 3, 3))])
        for kernel, earlier in zip(puppet.generate(), before, strict=True):
            np.testing.assert_array_equal(kernel, earlier)
        np.testing.assert_array_equal(copy.generate()[0], 0)
        assert np.all(np.asarray(copy.generate()[1]) != 0)

    def test_a_compiled_function_follows(self):
        puppet = puppet_of(Branch(zero="b"))
        generate = nnx.jit(lambda puppet: puppet.generate())
        generate(puppet)
        puppet.keep_scale([jnp.zeros((3, 3, 3, 3)), jnp.ones((3, 3, 3, 3))])
        for found, expected in zip(generate(puppet), puppet.generate(), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


class TestStates:
    NAME = "Shared(num_floats=20, seed=0)"

    @pytest.mark.parametrize(
        "options, name",
        [
            ({"keep_scale": False}, ""),
            ({}, ", kept scale"),
            ({"zero": "b"}, ", kept scale, trained factors of 1"),
            ({"zero": "ab"}, ", kept scale, trained factors of 0 1"),
            ({"difference": True}, ", difference"),
        ],
    )
    def test_names(self, options, name):
        puppet = puppet_of(Branch(zero=options.pop("zero", "")), **options)
        assert list(puppet.settings) == [self.NAME + name]

    @pytest.mark.parametrize(
        "saved, loaded",
        [
            ({"zero": "a"}, {"zero": "b"}),
            ({}, {"zero": "b"}),
            ({}, {"difference": True}),
            ({"zero": "ab"}, {"difference": True}),
        ],
        ids=["another kernel", "none", "weights are kept", "weights are kept, and as many factors"],
    )
    def test_of_others_are_refused(self, saved, loaded):
        source, target = (
            puppet_of(Branch(zero=one.get("zero", "")), difference=one.get("difference", False))
            for one in (saved, loaded)
        )
        nnx.update(target, nnx.state(source))
        with pytest.raises(ValueError, match="a state of the settings .*kept scale.* was loaded into a puppet of"):
            target(X)

    def test_of_a_fitted_puppet_loads(self):
        trained = Branch(seed=1)
        fitted = puppet_of(trained, keep_scale=False)
        pj.fit(fitted, trained, X, num_steps=2)
        fresh = puppet_of(Branch(seed=2))
        assert np.abs(fresh(X) - fitted(X)).max() > 1e-3
        nnx.update(fresh, nnx.state(fitted))
        np.testing.assert_array_equal(fresh(X), fitted(X))


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Sums of two outer products, of which one factor starts at zero."""

    condition_size = None

    def init(self, key, shapes):
        return tuple((jax.random.normal(key, (9 * s[2], 2)), jnp.zeros((2, s[3]))) for s in shapes)

    def generate(self, params, condition, shapes):
        return tuple((a @ b).reshape(shape) for (a, b), shape in zip(params, shapes, strict=True))


@pytest.mark.filterwarnings("ignore:.*holds more floats")
class TestKernelsThatStartAtZero:
    def test_a_difference_starts_as_the_model_and_learns(self):
        model = Branch()
        puppet = puppet_of(model, generator=Adapter(), keep_scale=False, difference=True)
        np.testing.assert_array_equal(puppet.gains[...], 1)
        np.testing.assert_allclose(puppet(X), model(X), rtol=1e-6)
        grads = nnx.grad(lambda puppet: jnp.square(puppet(X)).sum())(puppet)
        slopes = [float(np.abs(slope).max()) for slope in jax.tree.leaves(grads["puppeteer"])]
        assert np.isfinite(slopes).all() and sum(slope > 0 for slope in slopes) == 2

    def test_have_no_scale_to_keep(self):
        with pytest.raises(ValueError, match=r"the generator makes a \(3, 3, 3, 3\), b .*zero under the condition 4.5"):
            puppet_of(Branch(), generator=Adapter())

    def test_a_refusal_changes_nothing(self):
        model = Branch()
        puppet = puppet_of(model, generator=Adapter(), keep_scale=False, difference=True)
        with pytest.raises(ValueError, match="no factor gives that a scale"):
            puppet.keep_scale([jnp.ones((3, 3, 3, 3))] * 2)
        np.testing.assert_allclose(puppet(X), model(X), rtol=1e-6)

    def test_start_gains(self):
        puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=1, kernel_size=1, kernels_from="velocity")
        with pytest.raises(ValueError, match=r"kernel 0 of shape \(1, 1, 1, 1\) is zero"):
            pj.start_gains(puppeteer, 4.5, [(1, 1, 1, 1)])


@pytest.mark.parametrize("scale", [1e-4, 3e2])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_scales_of_half_precision(dtype, scale):
    """Squares of such weights are no float16."""
    model = Branch(dtype=dtype, scale=scale)
    puppet = puppet_of(model)
    assert puppet.zero_gains is None
    for layer, kernel in zip((model.a, model.b), puppet.generate(), strict=True):
        original = np.asarray(layer.kernel[...], np.float32)
        assert 0.7 < float(kernel.std()) / original.std() < 1.4


def test_factors_are_float32_where_floats_are_not():
    with jax.enable_x64(True):
        puppet = puppet_of(Branch(zero="b"))
        assert puppet.zero_gains.dtype == puppet.gains.dtype == jnp.float32
