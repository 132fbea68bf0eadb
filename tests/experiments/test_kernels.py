"""Controls: kernels that are stored, or combined from frozen signs."""

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj
from experiments.config import Config
from experiments.kernels import (
    PER_BLOCK,
    CombinedKernels,
    StoredKernels,
    combined_kernels,
    init_combined,
    init_stored,
    random_signs,
    reseeded_kernels,
    source_macs,
    standardised_kernels,
    stored_kernels,
)
from experiments.model_file import Model, load_model, save_model
from experiments.networks import make_network

SHAPES = ((3, 3, 3, 16), (3, 3, 16, 16), (3, 3, 16, 32))
SIZES = [math.prod(shape) for shape in SHAPES]


class TestRandomSigns:
    def test_the_bits_are_fixed(self):
        signs = np.asarray(random_signs((1000,), seed=7, stream=3))
        digest = hashlib.sha256(signs.tobytes()).hexdigest()
        assert digest == "845058673a23365553003ca46b44784dff899907889f0fb3a49bf179d61df64d"

    def test_are_signs_without_a_preference(self):
        signs = np.asarray(random_signs((50, 1001), seed=0, stream=1))
        assert set(np.unique(signs)) == {-1, 1}
        assert abs(signs.mean()) < 4 / math.sqrt(signs.size)
        assert abs((signs[:, 1:] * signs[:, :-1]).mean()) < 4 / math.sqrt(signs.size)

    def test_seed_and_stream_matter(self):
        first, *others = (np.asarray(random_signs((4096,), *key)) for key in ((0, 0), (0, 1), (1, 0)))
        for other in others:
            assert abs((first * other).mean()) < 4 / math.sqrt(4096)


class TestStored:
    def test_are_what_is_stored(self):
        source = init_stored(jax.random.key(0), SHAPES)
        for kernel, stored in zip(stored_kernels(source, 1.0, SHAPES), source.kernels, strict=True):
            assert kernel is stored
        assert pj.num_floats(source) == sum(SIZES)
        assert source_macs(source, SHAPES) == 0

    def test_other_shapes_are_refused(self):
        source = init_stored(jax.random.key(0), SHAPES)
        with pytest.raises(ValueError, match="were asked for, but those of"):
            stored_kernels(source, 1.0, SHAPES[:2])


class TestCombined:
    def test_is_the_sum_of_signs_times_coefficients(self):
        source = init_combined(jax.random.key(1), SHAPES, 20 * PER_BLOCK, seed=5)
        kernels = combined_kernels(source, 1.0, SHAPES)
        for layer, (kernel, coefficients, shape) in enumerate(zip(kernels, source.coefficients, SHAPES, strict=True)):
            blocks, length = len(coefficients), -(-math.prod(shape) // len(coefficients))
            signs = np.asarray(random_signs((blocks, PER_BLOCK, length), 5, layer), np.float64)
            expected = np.einsum("bk,bkw->bw", np.asarray(coefficients, np.float64), signs).reshape(-1)
            expected *= math.sqrt(2 / math.prod(shape[:-1])) / (0.1 * math.sqrt(PER_BLOCK))
            weights = np.asarray(kernel).reshape(-1)
            np.testing.assert_allclose(weights, expected[: len(weights)], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("blocks", [3, 4, 7, 50, 1000])
    def test_shares_all_coefficients_in_proportion(self, blocks):
        source = init_combined(jax.random.key(0), SHAPES, blocks * PER_BLOCK + PER_BLOCK - 1)
        counts = [len(one) for one in source.coefficients]
        assert sum(counts) == blocks
        assert min(counts) >= 1
        for count, size in zip(counts, SIZES, strict=True):
            assert abs(count - blocks * size / sum(SIZES)) <= 1 or count == 1 or blocks < 5

    def test_kernels_start_with_the_variance_of_he(self):
        source = init_combined(jax.random.key(0), [(3, 3, 64, 64)] * 4, 200 * PER_BLOCK)
        for kernel in combined_kernels(source, 1.0, [(3, 3, 64, 64)] * 4):
            assert float(kernel.var()) == pytest.approx(2 / (9 * 64), rel=0.15)

    def test_too_few_coefficients(self):
        with pytest.raises(ValueError, match="3 kernels need at least 48 coefficients, got 32"):
            init_combined(jax.random.key(0), SHAPES, 47)

    def test_macs(self):
        source = init_combined(jax.random.key(0), SHAPES, 320)
        assert source_macs(source, SHAPES) == PER_BLOCK * sum(SIZES)


class TestVariants:
    PUPPETEER = pj.init_puppeteer(jax.random.key(0), max_channels=32, scale=0.3, seed=11)

    def test_standardised(self):
        plain = pj.generate_kernels(self.PUPPETEER, 4.5, SHAPES)
        for kernel, before in zip(standardised_kernels(self.PUPPETEER, 4.5, SHAPES), plain, strict=True):
            kernel, before = np.asarray(kernel, np.float64), np.asarray(before, np.float64)
            np.testing.assert_allclose(kernel.mean((0, 1, 2)), 0, atol=1e-6)
            np.testing.assert_allclose(kernel.var((0, 1, 2)), 1 / np.prod(kernel.shape[:3]), rtol=1e-3)
            for channel in range(kernel.shape[-1]):
                assert np.corrcoef(kernel[..., channel].ravel(), before[..., channel].ravel())[0, 1] > 0.9999

    def test_reseeded(self):
        plain = pj.generate_kernels(self.PUPPETEER, 4.5, SHAPES)
        for n, (kernel, before) in enumerate(zip(reseeded_kernels(self.PUPPETEER, 4.5, SHAPES), plain, strict=True)):
            pattern = pj.project(pj.seeded_pattern(32, 3, 12 + n), SHAPES[n])
            np.testing.assert_allclose(kernel - before, 0.3 * pattern, atol=1e-6)

    def test_macs(self):
        assert source_macs(self.PUPPETEER, SHAPES) == pj.generator_macs(self.PUPPETEER, 3)


@pytest.mark.parametrize(("kernels", "kind"), [("stored", StoredKernels), ("combined", CombinedKernels)])
class TestNetwork:
    CONFIG = {"channels": (8, 16), "max_channels": 32, "affine": True, "spread": (2, 2)}

    def test_learns(self, kernels, kind):
        config = Config(kernels=kernels, **self.CONFIG)
        assert config.adapts == "none"
        network = make_network(config, 4, (8, 8, 3))
        params = network.init(0, (2,))
        assert isinstance(params.puppeteer, kind)
        images = jax.random.uniform(jax.random.key(1), (16, 8, 8, 3))
        labels = jnp.arange(16) % 4

        @jax.jit
        def step(params):
            def loss(params):
                logits, _ = network.forward(params, None, images, jnp.full(1, 2.5), 2, jnp.float32)
                return -jax.nn.log_softmax(logits)[jnp.arange(16), labels].mean()

            value, grads = jax.value_and_grad(loss)(params)
            return value, jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), grads

        losses = []
        for _ in range(10):
            loss, params, grads = step(params)
            losses.append(float(loss))
        assert losses[-1] < losses[0] - 0.05
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads.puppeteer))

    def test_stored_size(self, kernels, kind):
        network = make_network(Config(kernels=kernels, **self.CONFIG), 4, (8, 8, 3))
        params = network.init(0, (2,))
        weights = 9 * (3 * 8 + 8 * 8 + 8 * 16 + 16 * 16)
        affine, classifier = 2 * (2 * 8 + 2 * 16), 16 * 4 + 4
        own = weights if kernels == "stored" else (32**2 + 15 * 32) // PER_BLOCK * PER_BLOCK
        assert pj.num_floats(params) == own + affine + classifier
        assert pj.num_floats(network.generator_params(params)) == (0 if kernels == "stored" else own)

    def test_round_trip_through_a_file(self, kernels, kind, tmp_path):
        network = make_network(Config(kernels=kernels, pattern_seed=9, **self.CONFIG), 4, (8, 8, 3))
        model = Model(
            network=network,
            params=network.init(0, (2,)),
            batch_stats={2: network.init_stats(2)},
            class_names=tuple("abcd"),
            adaptation="level",
            num_slices=1,
            complexity=pj.CalibratedComplexity(0.0, 2.5),
            step=1,
        )
        save_model(tmp_path / "model", model)
        loaded = load_model(tmp_path / "model")
        assert loaded.network == network
        images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
        np.testing.assert_array_equal(loaded.predictor()(images), model.predictor()(images))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernels": "stored", "adapt": "both"}, "--adapt must be none .* with stored kernels"),
        ({"kernels": "combined", "adapt": "depth"}, "--adapt must be none .* with combined kernels"),
        ({"kernels": "stored", "spread": (3, 4)}, "--spread must be one depth twice, such as 4 4, with --adapt none"),
        ({"dropout": 0.2, "network": "resnet20"}, "--dropout must be in"),
        ({"dropout": 1.0}, "--dropout must be in"),
        ({"kernels": "combined", "network": "resnet20"}, "--kernels must be generated or stored"),
    ],
)
def test_settings_that_do_not_go_together(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)
