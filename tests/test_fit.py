"""Trained weights and generated ones: `fit`, and `puppetize(difference=True)`."""

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import sign_descent

import puppet_jax as pj
from puppet_jax.extras.generators import LowRank

X = jnp.asarray(np.random.default_rng(0).normal(size=(64, 6, 6, 3)), jnp.float32)
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, 2, 64))


@pytest.fixture(scope="module")
def trained():
    """A model that knows its 64 images by heart."""
    model = models.build(models.Small)
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return optax.softmax_cross_entropy_with_integer_labels(model(X), LABELS).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(60):
        step(model, optimizer)
    model.eval()
    return model


def error(puppet, model):
    found, wanted = puppet(X), model(X)
    return float(jnp.square(found - wanted).mean() / wanted.var())


class TestFit:
    @pytest.mark.parametrize(
        "generator",
        [None, pytest.param(LowRank(num_floats=120), marks=pytest.mark.slow)],
        ids=["puppeteer", "low rank"],
    )
    def test_answers_as_the_model_does(self, trained, generator):
        before = jax.tree.map(np.array, nnx.state(trained))
        puppet = pj.puppetize(trained, X[:1], generator=generator)
        puppet.eval()
        untrained = error(puppet, trained)
        losses = pj.fit(puppet, trained, X, num_steps=100, learning_rate=1e-2)
        assert losses.shape == (100,) and losses[-10:].mean() < 0.7 * losses[0]
        assert error(puppet, trained) < 0.7 * untrained
        jax.tree.map(np.testing.assert_array_equal, nnx.state(trained), before)

    def test_starts_with_scales_and_all_that_is_kept(self, trained):
        """Also where the puppet was made of another model."""
        puppet = pj.puppetize(models.build(models.Small), X[:1])
        losses = pj.fit(puppet, trained, X, num_steps=1, learning_rate=1e-12)
        assert losses.shape == (1,)
        for one, weight in zip(puppet.kernels, puppet.generate(), strict=True):
            ratio = weight.std() / getattr(trained, one.paths[0][0]).kernel[...].std()
            assert 0.5 < float(ratio) < 2
        np.testing.assert_allclose(puppet.model.linear.kernel[...], trained.linear.kernel[...], rtol=1e-6)

    def test_refusals(self, trained):
        puppet = pj.puppetize(trained, X[:1])
        with pytest.raises(TypeError, match="puppet"):
            pj.fit(trained, trained, X)
        with pytest.raises(ValueError, match=r"the model has no weight a \(3, 3, 4, 4\): at a lies none"):
            pj.fit(puppet, nnx.Linear(2, 2, rngs=nnx.Rngs(0)), X)
        with pytest.raises(ValueError, match="num_steps must be at least 1"):
            pj.fit(puppet, trained, X, num_steps=0)
        with pytest.raises(ValueError, match="already answers as it does; fit one .*without difference=True"):
            pj.fit(pj.puppetize(trained, X[:1], difference=True), trained, X)
        for inputs in ((X, X[:2]), jnp.ones(()), X[:0]):
            with pytest.raises(ValueError, match="inputs must be an array of examples, or a tuple of such of one len"):
                pj.fit(puppet, trained, inputs)

    def test_what_is_not_generated_has_to_fit(self, trained):
        puppet = pj.puppetize(trained, X[:1])
        other = nnx.clone(trained)
        other.linear = nnx.Linear(4, 7, rngs=nnx.Rngs(0))
        before = jax.tree.map(np.array, nnx.state(puppet))
        with pytest.raises(ValueError, match=r"linear.bias of the model has shape \(7,\), that of the puppet \(2,\)"):
            pj.fit(puppet, other, X)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(puppet), before)

    @pytest.mark.parametrize("average", [True, False])
    def test_modes_stay(self, trained, average):
        puppet = pj.puppetize(trained, X[:1])
        puppet.train()
        puppet.model.norm.use_running_average = average
        pj.fit(puppet, trained, X, num_steps=1)
        assert puppet.model.norm.use_running_average is average

    def test_a_model_that_cannot_be_called(self):
        class Encoder(nnx.Module):
            def __init__(self):
                self.conv = nnx.Conv(3, 4, (1, 1), rngs=nnx.Rngs(0))

            def encode(self, x):
                return self.conv(x)

        puppet = pj.puppetize(Encoder(), lambda model: model.encode(X), generator=LowRank(num_floats=10))
        with pytest.raises(TypeError, match="fit calls puppet and model with inputs, and Encoder has no __call__"):
            pj.fit(puppet, Encoder(), X)


class Outputs(nnx.Module):
    """Returns what `function` makes of the outputs of a convolution."""

    def __init__(self, function):
        self.conv, self.function = nnx.Conv(3, 4, (1, 1), rngs=nnx.Rngs(0)), function

    def __call__(self, x):
        return self.function(self.conv(x))


class TestOutputs:
    """Of other kinds than one array of floats."""

    @pytest.mark.parametrize(
        "function", [lambda y: (y, 0.0, y.argmax(-1)), lambda y: y + 1j * y], ids=["aux", "complex"]
    )
    def test_are_followed(self, function):
        plain, model = Outputs(lambda y: y), Outputs(function)
        puppets = [pj.puppetize(one, X[:1], generator=LowRank(num_floats=10)) for one in (plain, model)]
        assert puppets[1].summary(X).notes == puppets[0].summary(X).notes
        wanted, found = (pj.fit(*pair, X, num_steps=1) for pair in zip(puppets, (plain, model), strict=True))
        np.testing.assert_allclose(found, wanted, rtol=1e-3)

    def test_no_floats(self):
        model = Outputs(lambda y: (y.argmax(-1), 0.0))
        puppet = pj.puppetize(model, X[:1], generator=LowRank(num_floats=10))
        assert puppet.summary(X).notes[-1].startswith("no output is a floating array: which kernels it depends on")
        with pytest.raises(ValueError, match="no output of the model is a floating array; fit one that returns such"):
            pj.fit(puppet, model, X)
        assert puppet.gains is None  # a refused call changes nothing


class TestDifference:
    def test_starts_as_the_model_and_learns(self, trained):
        puppet = pj.puppetize(trained, X[:1], difference=True)
        puppet.eval()
        np.testing.assert_allclose(puppet(X, h=3.0), trained(X), rtol=1e-5, atol=1e-6)
        assert "252 floats of weights are kept" in str(puppet.summary())
        graphdef, params, rest = nnx.split(puppet, nnx.Param, ...)

        def loss(params):
            return jnp.square(nnx.merge(graphdef, params, rest, copy=True)(X, h=3.0) - 1).mean()

        params, losses = sign_descent(loss, params, rate=0.003, steps=5)
        assert losses[-1] < losses[0]
        after = nnx.merge(graphdef, params, rest)
        kept = jax.tree.leaves(nnx.state(after.kept))
        for one, weight in zip(puppet.kernels, kept, strict=True):
            np.testing.assert_array_equal(weight, getattr(trained, one.paths[0][0]).kernel[...])
        assert np.abs(after.generate(3.0)[0] - kept[0]).max() > 1e-5

    def test_each_set_has_its_own(self, trained):
        puppet = pj.puppetize(trained, X[:1], difference=True)
        puppet.zero_gains.set_value(jnp.ones(2))
        puppet.eval()
        pair = puppet(X[:4], h=jnp.array([3.0, 5.0]))
        np.testing.assert_allclose(pair[:2], puppet(X[:4], h=3.0)[:2], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(pair[2:], puppet(X[:4], h=5.0)[2:], rtol=1e-4, atol=1e-5)
        assert np.abs(puppet(X[:4], h=3.0) - puppet(X[:4], h=5.0)).max() > 1e-3

    def test_needs_an_example(self, trained):
        with pytest.raises(ValueError, match="keep_scale and difference need an example"):
            pj.puppetize(trained, difference=True)
