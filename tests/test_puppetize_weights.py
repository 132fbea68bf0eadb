"""`puppetize` on weights that are no convolutions, and with generators that are no puppeteers."""

import architectures
import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from flax import nnx
from helpers import quick, sign_descent

import puppet_jax as pj
from puppet_jax.extras import generators
from puppet_jax.generator import GeneratorModule, check_generator
from puppet_jax.puppetized.order import Kernel

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 11, (4, 9)))


def call(puppet, h):
    return puppet(X, h=h)


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.second, self.first = nnx.Linear(20, 30, rngs=rngs), nnx.Linear(3, 20, rngs=rngs)
        self.own = nnx.Param(jax.random.normal(rngs.params(), (5, 6, 4)))

    def __call__(self, x):
        x = self.second(nnx.tanh(self.first(x))).reshape(-1, 5, 6)
        return jnp.einsum("nab,abc->nc", x, self.own[...])


def perceptron():
    return models.build(Perceptron), jnp.ones((2, 3))


class TestWhich:
    def test_all_are_those_of_the_layers(self):
        net, x = perceptron()
        puppet = pj.puppetize(net, x, weights="all", max_channels=8)
        assert [(one.name, one.hwio) for one in puppet.kernels] == [
            ("first", (1, 1, 3, 20)),
            ("second", (1, 1, 20, 30)),
        ]
        assert [puppet.kernels[place].name for place in puppet.execution_order] == ["first", "second"]
        assert puppet.model.own.shape == (5, 6, 4)

    def test_a_function_chooses_parameters(self):
        net, x = perceptron()
        puppet = pj.puppetize(net, x, weights=lambda path, variable: path == ("own",), max_channels=8)
        (one,) = puppet.kernels
        assert (one.name, one.shape, one.hwio) == ("own", (5, 6, 4), (1, 1, 30, 4))
        assert isinstance(puppet.instantiate().own, Kernel)

    def test_where_leaves_modules_alone(self):
        net, x = perceptron()
        puppet = pj.puppetize(net, x, weights="all", where=lambda path, module: module.in_features > 3, max_channels=8)
        assert [one.name for one in puppet.kernels] == ["second"]

    def test_attention_and_embedding(self):
        puppet = pj.puppetize(models.build(architectures.LanguageModel), TOKENS, weights="all", max_channels=6)
        found = {one.name: (one.shape, one.hwio) for one in puppet.kernels}
        assert found["embed.embedding"] == ((11, 12), (1, 1, 11, 12))
        assert found["block.attention.query"] == ((12, 2, 6), (1, 1, 12, 12))
        assert found["block.attention.out"] == ((2, 6, 12), (1, 1, 12, 12))
        assert puppet.kernels[puppet.execution_order[0]].name == "embed.embedding"

    def test_a_stack_is_generated_kernel_by_kernel(self):
        net, x = models.build(architectures.Scanned), jnp.ones((4, 3))
        puppet = pj.puppetize(net, x, weights="all", max_channels=8)
        shapes = [(1, 1, 3, 8), *[(1, 1, 8, 8)] * 6, (1, 1, 8, 4)]
        expected = pj.generate_kernels(puppet.puppeteer.get_value(), 4.2, shapes)
        by_name = dict(zip([one.name for one in puppet.kernels], puppet.generate(4.2), strict=True))
        np.testing.assert_array_equal(by_name["layers"], jnp.stack(expected[1:7])[:, 0, 0])
        np.testing.assert_array_equal(by_name["head"], expected[7][0, 0])
        assert sum(puppet.summary().trajectory.steps) == 8


class TestAMatrix:
    """Read from the average of the taps, or from each of them."""

    def test_by_mean(self):
        net, x = perceptron()
        puppet = pj.puppetize(net, x, weights="all", max_channels=8)
        kernels = pj.generate_kernels(puppet.puppeteer.get_value(), 4.2, [(1, 1, 3, 20), (1, 1, 20, 30)])
        for kernel, found in zip(kernels, puppet.generate(4.2), strict=True):
            np.testing.assert_array_equal(found, kernel[0, 0])

    def test_by_taps(self):
        """Block (i, j) of the matrix is the kernel's tap (i, j); what a block has too much is cut off."""
        net, x = perceptron()
        generator = pj.PuppeteerGenerator(matrices="taps", max_channels=10)
        puppet = pj.puppetize(net, x, weights="all", generator=generator)
        assert puppet.puppeteer.settings.endswith("matrices by taps")
        kernels = pj.generate_kernels(puppet.puppeteer.get_value(), 4.2, [(3, 3, 1, 7), (3, 3, 7, 10)])
        for kernel, found in zip(kernels, puppet.generate(4.2), strict=True):
            expected = np.block([[np.asarray(kernel[i, j]) for j in range(3)] for i in range(3)])
            np.testing.assert_array_equal(found, expected[: found.shape[0], : found.shape[1]])
        assert puppet.summary().trajectory.steps == (1, 1)

    def test_by_taps_takes_a_ninth_of_the_steps(self):
        shapes = [(1, 1, 96, 96)]
        steps = {
            how: pj.PuppeteerGenerator(matrices=how).num_steps(pj.init_puppeteer(jax.random.key(0), 16), shapes)
            for how in ("mean", "taps")
        }
        assert steps == {"mean": 36, "taps": 4}

    def test_another_word(self):
        with pytest.raises(ValueError, match="matrices must be mean or taps, got 'all'"):
            pj.PuppeteerGenerator(matrices="all")


class TestGenerators:
    KINDS = ("FrozenBasis", "Hypernetwork", "InverseDCT", "LowRank", "Shared")

    @pytest.mark.parametrize("kind", quick(KINDS, "FrozenBasis", "Hypernetwork"))
    def test_train(self, kind):
        net = models.build(models.Small)
        generator = getattr(generators, kind)(num_floats=200)
        puppet = pj.puppetize(net, X, generator=generator, keep_scale=True)
        assert pj.num_floats(nnx.state(puppet.puppeteer, nnx.Param)) <= 200
        graphdef, params, rest = nnx.split(puppet, nnx.Param, ...)

        def loss(params):
            return jnp.square(nnx.merge(graphdef, params, rest, copy=True)(X) - 1).mean()

        params, losses = sign_descent(loss, params, rate=0.01, steps=10)
        assert losses[-1] < 0.9 * losses[0]
        assert "complexity does not change any weight" in puppet.summary().notes

    def test_kernels_are_in_the_order_of_use(self):
        """`b` runs before `a`."""
        generator = generators.LowRank(num_floats=200)
        puppet = pj.puppetize(models.build(models.Small), X, generator=generator)
        params = puppet.puppeteer.get_value()
        expected = generator.generate(params, 4.5, [(3, 3, 3, 4), (3, 3, 4, 4)])
        by_name = dict(zip([one.name for one in puppet.kernels], puppet.generate(), strict=True))
        np.testing.assert_array_equal(by_name["b"], expected[0])
        np.testing.assert_array_equal(by_name["a"], expected[1])

    def test_a_vector_is_a_condition(self):
        generator = generators.Hypernetwork(num_floats=200, condition_size=3)
        puppet = pj.puppetize(models.build(models.Small), X, generator=generator)
        assert puppet.h == (0.0, 0.0, 0.0)
        one, other = jnp.eye(3)[:2]
        nnx.jit(call)(puppet, jnp.stack([one, other]))  # training mode, two images each
        puppet.eval()
        whole = nnx.jit(call)
        pairs, answers = whole(puppet, jnp.stack([one, other])), [whole(puppet, one), whole(puppet, other)]
        assert np.abs(answers[0] - answers[1]).max() > 1e-3
        for half, answer in zip((slice(0, 2), slice(2, 4)), answers, strict=True):
            np.testing.assert_allclose(pairs[half], answer[half], rtol=1e-4, atol=1e-5)
        slope = jax.jit(jax.grad(lambda h: puppet(X, h=h).sum()))(one)
        assert slope.shape == (3,) and np.abs(slope).max() > 0
        assert not [note for note in puppet.summary().notes if "change" in note]

    def test_a_condition_of_another_shape(self):
        generator = generators.Hypernetwork(num_floats=200, condition_size=3)
        puppet = pj.puppetize(models.build(models.Small), X, generator=generator, h=(1, 0, 0))
        for h in (4.5, jnp.ones(2), jnp.ones((2, 2))):
            with pytest.raises(ValueError, match="h must be 3 numbers, the condition of the generator"):
                puppet(X, h=h)
        with pytest.raises(ValueError, match=r"have one axis more, one a set of kernels, got shape \(1, 2, 3\)"):
            puppet(X, h=jnp.ones((1, 2, 3)))
        with pytest.raises(ValueError, match="h must be 3 numbers"):
            pj.puppetize(models.build(models.Small), X, generator=generator, h=4.5)

    def test_several_networks_share_one(self):
        """In a module that holds both there are one puppeteer's floats, with the gradients of both."""
        one = pj.puppetize(models.build(models.Small), X)
        other = pj.puppetize(models.Small(nnx.Rngs(1)), X, generator=one.puppeteer)
        both = nnx.List([one, other])
        assert other.puppeteer is one.puppeteer
        kept = sum(pj.num_floats(nnx.state(puppet.model, nnx.Param)) for puppet in both)
        assert pj.num_floats(nnx.state(both, nnx.Param)) == kept + pj.num_floats(one.puppeteer)

        def loss(both, weights):
            return sum(w * jnp.square(puppet(X)).mean() for w, puppet in zip(weights, both, strict=True))

        gradient = nnx.jit(nnx.grad(loss))

        def slope(weights):
            return np.asarray(gradient(both, weights)[0]["puppeteer"]["pointwise_kernel"][...])

        np.testing.assert_allclose(slope((1.0, 1.0)), slope((1.0, 0.0)) + slope((0.0, 1.0)), rtol=1e-3, atol=1e-6)

    def test_each_sample_its_own_under_vmap(self):
        """Linear layers take one set of weights a call; `jax.vmap` gives each sample its own."""
        net, _ = perceptron()
        x, h = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)), jnp.float32), jnp.array([3.0, 4.0, 5.0])
        puppet = pj.puppetize(net, x, weights="all", max_channels=8, keep_scale=True)
        with pytest.raises(ValueError, match="map one image a time"):
            puppet(x, h=h)
        mapped = jax.vmap(lambda h, x: puppet.instantiate(h)(x[None])[0])(h, x)
        for n in range(3):
            np.testing.assert_allclose(mapped[n], puppet(x[n : n + 1], h=h[n])[0], rtol=1e-4, atol=1e-5)
        assert np.abs(mapped[0] - puppet(x[:1], h=5.0)[0]).max() > 1e-4


class TestRefusals:
    def test_no_such_weight(self):
        net, x = perceptron()
        with pytest.raises(
            ValueError, match='holds no nnx.Conv.*nothing to generate. With weights="all" first would be'
        ):
            pj.puppetize(net, x)
        with pytest.raises(ValueError, match="Perceptron holds no such weight"):
            pj.puppetize(net, x, weights=lambda path, variable: False)
        with pytest.raises(ValueError, match="weights must be convolutions, all or a function, got 'linear'"):
            pj.puppetize(net, x, weights="linear")

    def test_a_weight_that_cannot_be_generated(self):
        net, x = perceptron()
        with pytest.raises(ValueError, match=r"first.bias has shape \(20,\); only weights of two axes or more"):
            pj.puppetize(net, x, weights=lambda path, variable: path[-1] == "bias")
        net.own = nnx.Param(jnp.ones((5, 6), jnp.int32))
        with pytest.raises(ValueError, match=r"own has shape \(5, 6\) and dtype int32; only floats"):
            pj.puppetize(net, x, weights=lambda path, variable: path == ("own",))

    def test_two_generators(self):
        net, x = perceptron()
        shared = generators.Shared(num_floats=200)
        for options in ({"max_channels": 8}, {"puppeteer": pj.init_puppeteer(jax.random.key(0), 8)}, {"seed": 3}):
            with pytest.raises(ValueError, match="give a generator, or a puppeteer or the arguments of one, not both"):
                pj.puppetize(net, x, weights="all", generator=shared, **options)

    def test_a_puppeteer_and_the_arguments_of_another(self):
        puppeteer = pj.init_puppeteer(jax.random.key(0), 8)
        for name, value in {"max_channels": 8, "kernel_size": 3, "seed": 3, "scale": 1.0}.items():
            with pytest.raises(ValueError, match=f"a trained puppeteer has settings of its own; give it, or {name} of"):
                pj.puppetize(models.build(models.Small), puppeteer=puppeteer, **{name: value})
        with pytest.raises(ValueError, match="or initial_state, kernels_from of a new one"):
            options = {"initial_state": "learned", "kernels_from": "velocity"}
            pj.puppetize(models.build(models.Small), puppeteer=puppeteer, **options)

    def test_a_difference_of_no_numbers(self):
        with pytest.raises(ValueError, match="difference needs the numbers of"):
            nnx.eval_shape(lambda: pj.puppetize(models.Small(nnx.Rngs(0)), X, difference=True))

    @pytest.mark.parametrize(
        "params, message",
        [
            ({"a_b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, r"\['a'\]\['b'\] and \['a_b'\] .*both be called 'a_b'"),
            ({"generator": jnp.ones(1)}, r"\['generator'\] .*would be called 'generator', which a module has"),
            ({"settings": jnp.ones(1)}, "would be called 'settings'"),
            ({"train": jnp.ones(1)}, "would be called 'train'"),
        ],
    )
    def test_parameters_without_a_name_of_their_own(self, params, message):
        with pytest.raises(ValueError, match=message):
            GeneratorModule(generators.Shared(num_floats=2), params)

    def test_no_generator(self):
        net, x = perceptron()
        with pytest.raises(TypeError, match="generator"):
            pj.puppetize(net, x, weights="all", generator="low rank")
        with pytest.raises(TypeError, match="generator must have condition_size, init and generate.*got 'low rank'"):
            check_generator("low rank")
        with pytest.raises(TypeError, match="generator must be an instance, got the class LowRank"):
            check_generator(generators.LowRank)

    def test_the_order_must_be_known(self):
        with pytest.raises(ValueError, match="a generator needs an example"):
            pj.puppetize(perceptron()[0], weights="all", generator=generators.LowRank(num_floats=200))

    def test_a_state_of_another_generator(self):
        net = models.build(models.Small)
        puppet, other = (pj.puppetize(net, X, generator=generators.Shared(num_floats=200, seed=n)) for n in range(2))
        nnx.update(other, nnx.state(puppet))
        with pytest.raises(ValueError, match="puppetize with those"):
            other(X)
