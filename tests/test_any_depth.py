"""Depths that training did not see, and the depth that a budget allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import apply_puppet

import puppet_jax as pj
from puppet_jax.adaptation import depth_interval

PUPPET = pj.Puppet(channels=(4, 6), depth_rule="per_stage")
PARAMS = pj.init_puppet(jax.random.key(1), PUPPET, pj.init_puppeteer(jax.random.key(0), max_channels=6), 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
H = np.linspace(2.0, 5.0, 16).astype(np.float32)


@pytest.fixture(scope="module")
def stats():
    return {depth: pj.estimate_batch_stats(PUPPET, PARAMS, depth, IMAGES, H) for depth in (2, 3)}


@pytest.fixture(scope="module")
def predictor(stats):
    return pj.Predictor(PUPPET, PARAMS, stats, image_size=(8, 8), num_levels=1)


def kernels_at(depth, h):
    return pj.generate_kernels(PARAMS.puppeteer, h, PUPPET.kernel_shapes(depth))


def test_statistics_are_means_and_variances_of_the_first_convolution(stats):
    first = kernels_at(2, np.clip(H, *depth_interval(2)).mean())[0]
    x = 4 * (IMAGES / 255.0) - 2
    x = jax.lax.conv_general_dilated(x, first, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(stats[2][0].mean, np.mean(x, (0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats[2][0].variance, np.var(x, (0, 1, 2)), rtol=1e-4)
    assert [len(stats[depth]) for depth in (2, 3)] == [4, 6]


def test_own_complexities_where_none_are_given():
    expected = pj.estimate_batch_stats(PUPPET, PARAMS, 3, IMAGES, pj.complexities(IMAGES))
    jax.tree.map(np.testing.assert_array_equal, pj.estimate_batch_stats(PUPPET, PARAMS, 3, IMAGES), expected)


def test_statistics_of_an_array_that_is_filled_anew():
    """The program may still be reading when the statistics are returned."""
    puppet = pj.Puppet(channels=(16, 16), layers=(2, 2))
    params = pj.init_puppet(jax.random.key(1), puppet, pj.init_puppeteer(jax.random.key(0), max_channels=16))
    images, h = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8), np.full(64, 4.5)
    expected = jax.block_until_ready(pj.estimate_batch_stats(puppet, params, 4, images, h))
    for _ in range(8):
        array = images.copy()
        found = pj.estimate_batch_stats(puppet, params, 4, array, h)
        array[...] = 0
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
def test_complexities_that_are_none(value):
    h = H.copy()
    h[5] = value
    with pytest.raises(ValueError, match=rf"h must be finite and at least 0 nats, got {value} \(1 of 16"):
        pj.estimate_batch_stats(PUPPET, PARAMS, 2, IMAGES, h)


def test_all_images_run_at_the_depth_that_is_named(predictor, stats):
    for depth in (2, 3):
        logits, depths = predictor.route(IMAGES, H, depth=depth)
        assert set(depths.tolist()) == {depth}
        kernels = kernels_at(depth, np.mean(depth_interval(depth)))  # the centre of the one level
        expected, _ = apply_puppet(PUPPET, PARAMS, stats[depth], kernels, IMAGES, depth)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(predictor(IMAGES, H, depth=depth), logits)


def test_a_stream_gives_each_batch_in_order_and_dispatches_the_next_before_the_last_is_awaited(predictor):
    batches, taken = [IMAGES[:4], IMAGES[4:8], IMAGES[8:9]], []

    def reading():
        for batch in batches:
            taken.append(len(batch))
            yield batch

    found = []
    for logits in predictor.stream(reading()):
        found.append(logits)
        assert len(taken) == min(len(found) + 1, len(batches))
    for batch, logits in zip(batches, found, strict=True):
        np.testing.assert_array_equal(logits, predictor(batch))
    np.testing.assert_array_equal(next(predictor.stream([IMAGES], depth=3)), predictor(IMAGES, depth=3))
    assert list(predictor.stream([])) == []
    with pytest.raises(ValueError, match="images must have 4 axes"):
        list(predictor.stream([IMAGES, IMAGES[0]]))


@pytest.mark.parametrize("count", [16, 60, 70], ids=["whole", "padded", "cut"])
def test_a_stream_takes_an_array_that_is_filled_anew(count):
    """The program of a batch may still be reading when the next batch is asked for."""
    puppet = pj.Puppet(channels=(16, 16), layers=(2, 2))
    params = pj.init_puppet(jax.random.key(1), puppet, pj.init_puppeteer(jax.random.key(0), max_channels=16))
    constant = pj.CalibratedComplexity(scale=0.0, offset=4.5)
    predictor = pj.Predictor(puppet, params, {4: pj.init_batch_stats(puppet, 4)}, complexity=constant)
    batches = np.random.default_rng(0).integers(0, 256, (4, count, 32, 32, 3), np.uint8)
    batches[::2] //= 8
    expected = [predictor(batch) for batch in batches]
    array = np.empty_like(batches[0])

    def reading():
        for batch in batches:
            array[...] = batch
            yield array
        array[...] = 0

    np.testing.assert_array_equal(list(predictor.stream(reading())), expected)


def test_a_batch_that_is_refused_leaves_those_before_it_their_answers(predictor):
    found = []
    with pytest.raises(ValueError, match="images must have 4 axes"):
        for logits in predictor.stream([IMAGES, IMAGES[:4], IMAGES[0], IMAGES]):
            found.append(logits)
    assert [len(logits) for logits in found] == [16, 4]
    np.testing.assert_array_equal(found[1], predictor(IMAGES[:4]))
    stream = predictor.stream([IMAGES[:1], IMAGES[0]])
    next(stream)
    stream.close()


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("kind", [np.int64, jnp.int32])
def test_a_depth_of_another_library(predictor, kind):
    np.testing.assert_array_equal(predictor(IMAGES, H, depth=kind(3)), predictor(IMAGES, H, depth=3))
    with pytest.raises(TypeError, match=r"depth must be an integer, got 2\.5"):
        predictor(IMAGES, H, depth=2.5)


def test_kernels_of_an_images_own_are_those_of_the_nearest_complexity(stats):
    own = pj.Predictor(PUPPET, PARAMS, stats, adaptation="sample")
    nearest = float(np.clip(H[0], *depth_interval(3)))
    expected, _ = apply_puppet(PUPPET, PARAMS, stats[3], kernels_at(3, nearest), IMAGES[:1], 3)
    np.testing.assert_allclose(own(IMAGES[:1], H[:1], depth=3), expected, rtol=1e-3, atol=1e-4)


def test_a_depth_without_statistics(predictor):
    with pytest.raises(ValueError, match=r"depth must be one of \(2, 3\), the depths with statistics, got 4"):
        predictor(IMAGES, H, depth=4)


class TestBudget:
    def test_multiply_accumulates(self, predictor):
        costs = {depth: pj.puppet_macs(PUPPET, depth, (8, 8)) for depth in (2, 3)}
        assert predictor.deepest(macs=costs[3]) == 3
        assert predictor.deepest(macs=costs[3] - 1) == predictor.deepest(macs=costs[2]) == 2
        with pytest.raises(ValueError, match=rf"no depth meets macs={costs[2] - 1:g}; depth 2 takes the least"):
            predictor.deepest(macs=costs[2] - 1)

    def test_seconds(self, predictor):
        assert predictor.deepest(seconds=100.0) == 3
        with pytest.raises(ValueError, match=r"no depth meets seconds=1e-09; depth \d takes the least"):
            predictor.deepest(seconds=1e-9)

    @pytest.mark.parametrize("budgets", [{}, {"macs": 1.0, "seconds": 1.0}])
    def test_one_budget(self, predictor, budgets):
        with pytest.raises(ValueError, match="give one budget, macs or seconds"):
            predictor.deepest(**budgets)

    def test_size_of_images(self, stats):
        with pytest.raises(ValueError, match="make it with image_size"):
            pj.Predictor(PUPPET, PARAMS, stats).deepest(macs=1e9)


@pytest.fixture(scope="module")
def model():
    return pj.load_pretrained("cifar10-adaptive")


class TestPretrained:
    def test_one_more_depth(self, model):
        images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
        more = model.at_depth(4, images)
        assert sorted(more.batch_stats) == [4, 5, 6, 7]
        h = pj.complexities(images, model.complexity)
        expected = pj.estimate_batch_stats(model.puppet, model.params, 4, images, h)
        jax.tree.map(np.testing.assert_array_equal, more.batch_stats[4], expected)
        assert more.predictor()(images, depth=4).shape == (4, 10)

    def test_deeper_than_its_norms(self, model):
        message = "affine norms for 3 layers of stage 2, depth 8 has 4; take a depth that they were made for"
        with pytest.raises(ValueError, match=message):
            model.at_depth(8, jnp.zeros((2, 32, 32, 3)))
