"""Networks of matrices, and networks all of whose weights are generated."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import quick, sign_descent

import puppet_jax as pj
from experiments.config import FrozenBasis, Generated, OtherGenerator, Puppetized, ResNet8, Transformer
from experiments.model import Model, load_model, save_model
from experiments.networks import describe_network, read_network
from experiments.networks.transformers import positions
from experiments.tables.definitions import TRAINED

SHAPE = (8, 8, 3)
SMALL = {"width": 8, "num_blocks": 1}
CONFIGS = {
    "ViT": Puppetized(plain=Transformer(name="vit", **SMALL), kernels=Generated(max_channels=4)),
    "mixer, by mean": Puppetized(
        plain=Transformer(name="mixer", **SMALL), kernels=Generated(max_channels=4), matrices="mean"
    ),
    "ResNet-8, shared": Puppetized(plain=ResNet8(width=8), kernels=OtherGenerator(generator="shared", max_channels=8)),
}


@pytest.fixture(scope="module", params=quick(CONFIGS, "ViT"))
def made(request):
    """Configuration, network and parameters."""
    config = CONFIGS[request.param]
    network = config.make(4, SHAPE)
    return config, network, network.init(0, (network.depth,))


IMAGES = np.random.default_rng(0).integers(0, 256, (16, *SHAPE), dtype=np.uint8)


class TestPuppetized:
    def test_learns(self, made):
        _, network, params = made
        labels = jnp.arange(16) % 4

        def loss(params):
            logits, _ = network.apply(params, None, IMAGES, jnp.full(1, 4.5), network.depth)
            return -jax.nn.log_softmax(logits)[jnp.arange(16), labels].mean()

        params, losses = sign_descent(loss, params, rate=0.003, steps=10)
        assert losses[-1] < losses[0] - 0.05

    def test_all_but_biases_norms_and_gains_is_generated(self, made):
        _, network, params = made
        own = {name: leaf for name, leaf in params.items() if not name.startswith(("puppeteer.", "gains"))}
        assert all(leaf.ndim == 1 or name.rpartition(".")[2] == "bias" for name, leaf in own.items())
        assert params["gains"].shape == (network.depth,)

    def test_weights_start_with_the_scale_of_those_they_replace(self, made):
        config, network, params = made
        plain = config.plain.make(4, SHAPE).make(0)
        puppet = network.model(params, network.init_stats(0))
        weights = nnx.jit(lambda puppet: puppet.generate())(puppet)
        for one, weight in zip(puppet.kernels, weights, strict=True):
            original = plain
            for part in one.paths[0]:
                original = original[part] if isinstance(part, int) else getattr(original, part)
            assert 0.5 < float(jnp.linalg.norm(weight) / jnp.linalg.norm(original[...])) < 2

    def test_the_predictor_makes_the_weights_once(self, made):
        _, network, params = made
        stats = network.init_stats(0)
        stats = {name: one._replace(variance=one.variance + 1) for name, one in stats.items()}
        apply = jax.jit(network.apply, static_argnums=4)
        expected, _ = apply(params, stats, IMAGES, jnp.full(1, 4.5), network.depth)
        np.testing.assert_allclose(network.predictor(params, {0: stats})(IMAGES), expected, rtol=1e-3, atol=1e-4)

    def test_macs_are_those_of_the_plain_network(self, made):
        config, network, params = made
        plain = config.plain.make(4, SHAPE)
        made_macs, macs = network.macs(params, network.depth)
        assert macs == plain.macs(jax.eval_shape(lambda: plain.init(0, (1,))), 1)[1]
        assert (made_macs == 0) == isinstance(config.kernels, FrozenBasis)

    def test_round_trip_through_a_file(self, made, tmp_path):
        _, network, params = made
        assert read_network(json.loads(json.dumps(describe_network(network)))) == network
        stats = {network.depth: network.init_stats(network.depth)}
        settings = {"adaptation": "level", "num_levels": 8, "complexity": pj.CalibratedComplexity(), "step": 3}
        names = ("a", "b", "c", "d")
        model = Model(network=network, params=params, batch_stats=stats, class_names=names, **settings)
        save_model(tmp_path / "model", model)
        found = load_model(tmp_path / "model")
        assert found.network == network
        jax.tree.map(np.testing.assert_array_equal, found.params, params)
        generator, everything = dataclasses.replace(model, bits=4).stored_bytes()
        assert generator < everything
        assert generator < 0.75 * pj.num_floats(network.generator(params))  # half a byte each, and scales


class TestTransformer:
    def test_positions_are_sines_and_cosines_of_rows_and_columns(self):
        found = np.asarray(positions(2, 3, 8))
        assert found.shape == (6, 8)
        for token, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
            angles = [row, row * 1e-4, column, column * 1e-4]
            np.testing.assert_allclose(found[token], [*np.sin(angles), *np.cos(angles)], atol=1e-6)

    def test_a_mixer_does_not_know_positions_but_by_its_weights(self):
        network = Transformer(name="mixer", **SMALL).make(4, SHAPE)
        assert network.make(0).grid is None

    @pytest.mark.parametrize(
        "options, message", [({"patch": 3}, "--patch must divide the image of 8 x 8"), ({"width": 6}, "multiple of 4")]
    )
    def test_refusals(self, options, message):
        with pytest.raises(ValueError, match=message):
            nnx.eval_shape(lambda: Transformer(**SMALL | options).make(4, SHAPE).make(0))


class TestTables:
    @pytest.mark.parametrize(
        "name, least", [("generators", 0.9), pytest.param("transformers", 0.9, marks=pytest.mark.slow)]
    )
    def test_rows_store_equally_many_floats(self, name, least):
        rows = TRAINED[name]().rows
        groups = {}
        for row in rows:
            network = row.config.network.make(10, (32, 32, 3))
            params = jax.eval_shape(lambda network=network: network.init(0, [network.depth]))
            groups.setdefault(row.label.split(",")[0] if name == "transformers" else "", []).append(
                pj.num_floats(params)
            )
            assert len(row.rates) == 3
        for floats in groups.values():
            assert min(floats) > least * max(floats) and 4 * max(floats) <= 30_000
