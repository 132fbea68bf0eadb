"""Properties of the mathematics, for examples that hypothesis finds: 25 by default, 500 with `-m slow`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import puppet_jax as pj
from puppet_jax import extras
from puppet_jax.model_file import load_model, save_model
from puppet_jax.predictor import Predictor
from puppet_jax.pretrained import like_puppet
from puppet_jax.projection import adaptive_average_pool
from puppet_jax.routing import make_groups, run_groups

EXAMPLES = pytest.mark.parametrize("examples", [25, pytest.param(500, marks=pytest.mark.slow)])
COMPLEXITY = st.floats(0, 1e4, width=32)


def holds(check, examples, **strategies):
    """Runs `check` on so many examples."""
    quiet = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    quiet(given(**strategies)(check))()


@EXAMPLES
def test_pooling_keeps_means_where_bins_are_even(examples):
    def check(bins, width, seed):
        x = np.random.default_rng(seed).normal(size=(bins[0] * width, bins[1])).astype(np.float32)
        pooled = adaptive_average_pool(jnp.asarray(x), bins)
        assert pooled.shape == bins
        np.testing.assert_allclose(pooled.mean(), x.mean(), atol=1e-6)
        np.testing.assert_allclose(pooled, x.reshape(bins[0], width, bins[1]).mean(1), atol=1e-6)

    bins = st.tuples(st.integers(1, 3), st.integers(1, 3))
    holds(check, examples, bins=bins, width=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))


@EXAMPLES
def test_grouping_is_a_permutation(examples):
    def check(h, depths, num_levels):
        h = np.array(h, np.float32)
        groups = make_groups(h, sorted(depths), num_levels, sizes=(1, 4, 16))
        assert sorted(np.concatenate([group.indices for group in groups]).tolist()) == list(range(len(h)))
        back = run_groups(groups, lambda group: jnp.asarray(h[group.padded_indices()]))
        np.testing.assert_array_equal(back, h)

    depths, levels = st.sets(st.integers(1, 12), min_size=1, max_size=4), st.one_of(st.none(), st.integers(1, 9))
    holds(check, examples, h=st.lists(COMPLEXITY, min_size=1, max_size=40), depths=depths, num_levels=levels)


@EXAMPLES
def test_depth_times_step_is_at_most_one(examples):
    def check(h):
        depth, dl = int(pj.depth(h)), float(pj.step_size(h))
        assert depth * dl <= 1 + 1e-6 and 0 < dl <= 1 and depth >= 1
        low, high = pj.depth_interval(depth)
        assert low * (1 - 1e-5) - 1e-5 <= h <= high * (1 + 1e-5)

    holds(check, examples, h=COMPLEXITY)


@EXAMPLES
def test_vmap_is_a_loop(examples):
    puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=4)
    shapes = [(3, 3, 3, 4), (3, 3, 4, 4)]
    together = jax.jit(jax.vmap(lambda h: pj.generate_kernels(puppeteer, h, shapes)))

    def check(h):
        for n, kernels in enumerate(zip(*together(jnp.array(h, jnp.float32)), strict=True)):
            for kernel, alone in zip(kernels, pj.generate_kernels(puppeteer, h[n], shapes), strict=True):
                np.testing.assert_allclose(kernel, alone, atol=1e-5)

    holds(check, examples, h=st.tuples(*[st.floats(0.5, 50, width=32)] * 3))


@EXAMPLES
def test_quantized_twice_is_quantized_once(examples):
    def check(values, bits):
        x = np.array(values, np.float32).reshape(8, 2)
        back = extras.dequantize(extras.quantize(x, bits), x.shape, bits)
        span = np.abs(x).max(axis=0)
        levels = 2 ** (bits - 1) - 1
        step = np.maximum(span / levels, 6e-8)  # float16 holds no smaller scale
        rounded = levels * np.spacing(np.float16(step)).astype(np.float32) / 2  # what storing the scale may cost
        assert (np.abs(back - x) <= 0.51 * step + 1.01 * rounded).all()
        np.testing.assert_array_equal(extras.dequantize(extras.quantize(back, bits), x.shape, bits), back)

    values = st.lists(st.floats(-100, 100, width=16), min_size=16, max_size=16)
    holds(check, examples, values=values, bits=st.sampled_from([8, 4]))


@EXAMPLES
def test_written_and_read_is_the_same_model(examples, tmp_path):
    from test_model_file import DESCRIPTION, TREE, in_json

    def check(seed, scale):
        rng = np.random.default_rng(seed)
        tree = jax.tree.map(lambda leaf: scale * rng.random(leaf.shape, np.float32), TREE)
        save_model(tmp_path / "model", tree, DESCRIPTION)
        read, description = load_model(tmp_path / "model", like_puppet)
        for one, other in zip(jax.tree.leaves(read), jax.tree.leaves(tree), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        assert {name: description[name] for name in DESCRIPTION} == in_json(DESCRIPTION)

    holds(check, examples, seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 1e6, width=32))


def test_a_level_serves_whoever_is_in_it():
    """The bank never holds more sets than levels and depths make."""
    puppet = pj.Puppet(channels=(4,), num_classes=2)
    params = pj.init_puppet(jax.random.key(0), puppet, pj.init_puppeteer(jax.random.key(0), 4), max_depth=2)
    stats = {depth: pj.init_batch_stats(puppet, depth) for depth in (1, 2)}
    predictor = Predictor(puppet, params, stats, num_levels=3)
    predictor(np.zeros((20, 4, 4, 3), np.uint8), np.random.default_rng(0).uniform(0, 9, 20))
    assert len(predictor.bank) <= 2 * 3
