import dataclasses
import gc
import weakref
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import apply_puppet, compilations, quick
from hypothesis import given, settings, strategies as st
from PIL import Image

import puppet_jax as pj
from puppet_jax import extras
from puppet_jax.predictor import KernelBank
from puppet_jax.routing import GROUP_SIZES, level_centre, make_groups, nearest_depths

PUPPET = pj.Puppet(channels=(4, 6), num_classes=5)
DEPTHS = (2, 3)


@pytest.fixture(scope="module")
def model():
    puppeteer = pj.init_puppeteer(jax.random.key(0), 6)
    params = pj.init_puppet(jax.random.key(1), PUPPET, puppeteer, max(DEPTHS))
    # large variances, so that activations stay small without training
    stats = {
        depth: tuple(pj.BatchStats(s.mean, 9 * s.variance) for s in pj.init_batch_stats(PUPPET, depth))
        for depth in DEPTHS
    }
    return params, stats


def pictures(n, seed=0):
    """Images of very different complexity: noise of few to many grey levels."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, rng.choice([1, 2, 4, 16, 64]), (8, 8, 3)) for _ in range(n)]).astype(np.uint8)


@given(
    h=st.lists(st.floats(0, 6, width=32), min_size=1, max_size=70),
    num_levels=st.sampled_from([None, 1, 5]),
    depths=st.sampled_from([(1,), (2, 4), (1, 2, 3, 4, 5)]),
)
@settings(deadline=None, max_examples=40)
def test_groups_hold_every_image_once(h, num_levels, depths):
    h = np.array(h, np.float32)
    groups = make_groups(h, depths, num_levels, sizes=(1, 4, 16), padding=1)
    assert sorted(np.concatenate([g.indices for g in groups]).tolist()) == list(range(len(h)))
    for group in groups:
        assert group.size in (1, 4, 16) and group.size >= len(group.indices) > group.size // 4
        assert len(group.padded_indices()) == group.size
        assert set(group.padded_indices().tolist()) == set(group.indices.tolist())
        wanted = np.asarray(pj.depth(h[group.indices]))
        gaps = np.abs(wanted[:, None] - np.array(depths)[None])
        assert (np.abs(wanted - group.depth) == gaps.min(axis=1)).all()
        assert (group.h is None) == (num_levels is None)
        if group.h is not None:
            low, high = pj.depth_interval(group.depth)
            assert low < group.h < high
            inside = np.clip(h[group.indices], low, high)
            assert (np.abs(inside - group.h) <= 0.5001 * (high - low) / num_levels + 1e-5).all()


@pytest.mark.parametrize("sizes", [(1, 4, 16, 64, 256), (4, 16)])
@pytest.mark.parametrize("padding", [0, 0.25, 1])
def test_no_group_pads_more_than_it_may(sizes, padding):
    for count in range(1, 600):
        groups = make_groups(np.full(count, 4.5), (4,), None, sizes, padding)
        assert np.concatenate([group.indices for group in groups]).tolist() == list(range(count))
        for group in groups:
            fill = len(group.indices)
            assert group.size in sizes and fill <= group.size
            assert group.size - fill <= padding * group.size or fill < sizes[0]
        if padding == 1:
            assert [group.size for group in groups[:-1]] == [sizes[-1]] * ((count - 1) // sizes[-1])


@pytest.mark.parametrize("padding", [-0.1, 1.1, np.nan])
def test_padding_is_a_part(padding):
    with pytest.raises(ValueError, match=r"padding must be in \[0, 1\], got"):
        make_groups(np.ones(3), (4,), padding=padding)


@pytest.mark.parametrize("depths", [(1, 2), (5, 6, 7), (1, 4, 9), (3, 20, 50), (4,)])
def test_nearest_depth_is_that_of_the_depth_function(depths):
    """At complexities of all sizes, and at every float beside those where D(h) changes."""
    edges = np.float32([pj.depth_interval(depth)[0] for depth in range(2, 52)]).view(np.int32)
    beside = (edges[:, None] + np.arange(-20, 21, dtype=np.int32)).view(np.float32).ravel()
    h = np.concatenate(
        [beside, np.random.default_rng(0).uniform(0, 60, 1000).astype(np.float32), np.float32([0, 1e30])]
    )
    wanted = np.asarray(jax.jit(pj.depth)(h), np.int64)
    expected = np.array(depths)[np.abs(wanted[:, None] - np.array(depths)).argmin(axis=1)]
    np.testing.assert_array_equal(nearest_depths(h, depths), expected)


@pytest.mark.parametrize("adaptation", quick(["level", "sample"], "level"))
def test_results_come_back_in_order_and_do_not_depend_on_the_batch(model, adaptation):
    predictor = pj.Predictor(PUPPET, *model, adaptation=adaptation)
    x = pictures(21)
    together = predictor(x)
    order = np.random.default_rng(1).permutation(len(x))
    np.testing.assert_allclose(predictor(x[order]), together[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(predictor(x[5:8]), together[5:8], rtol=1e-4, atol=1e-5)
    assert len(set(nearest_depths(pj.complexities(x), DEPTHS).tolist())) == 2


def test_sample_equals_one_image_at_a_time_through_the_public_functions(model):
    params, stats = model
    x = pictures(6)
    logits = pj.Predictor(PUPPET, params, stats, adaptation="sample")(x)
    for image, row in zip(x, logits, strict=True):
        h = float(pj.complexity(image[None])[0])
        depth = min(max(int(pj.depth(h)), 2), 3)
        h = np.clip(h, *(pj.depth_interval(2)[0], pj.depth_interval(3)[1]))
        kernels = pj.generate_kernels(params.puppeteer, h, PUPPET.kernel_shapes(depth))
        alone, _ = apply_puppet(PUPPET, params, stats[depth], kernels, image[None], depth)
        np.testing.assert_allclose(row, alone[0], rtol=1e-4, atol=1e-5)


def test_levels_approach_samples_as_they_narrow(model):
    x = pictures(24)
    own = pj.Predictor(PUPPET, *model, adaptation="sample")(x)
    errors = [np.abs(pj.Predictor(PUPPET, *model, num_levels=n)(x) - own).max() for n in (1, 8, 64)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_compilations_are_bounded_over_many_random_batches(model):
    """One program per (depth, size)."""
    rng = np.random.default_rng(0)
    predictor = pj.Predictor(PUPPET, *model, num_levels=2)
    predictor(pictures(1))  # small helpers of the host side
    with compilations() as compiled:
        for n in rng.integers(1, 64, size=25):
            predictor(pictures(n, seed=int(n)))
        first = len(compiled)
        for n in rng.integers(1, 64, size=25):
            predictor(pictures(n, seed=100 + int(n)))
    sizes = [s for s in GROUP_SIZES if s <= 64]
    forwards = [name for name in compiled if "forward" in name]
    assert 0 < len(forwards) <= len(DEPTHS) * len(sizes)
    # the rest: a generator for each depth, complexity for each size, depth for each power of two
    assert len(compiled) - len(forwards) <= len(DEPTHS) + len(sizes) + 7
    assert len(compiled) - first <= 2


def test_bank_generates_each_set_once_and_forgets_the_oldest(model):
    calls = []

    def generate(puppeteer, h, shapes):
        calls.append(h)
        return pj.generate_kernels(puppeteer, h, shapes)

    bank = KernelBank(PUPPET, model[0].puppeteer, max_sets=2, generate=generate)
    a = bank(1, 1.0)
    assert bank(1, 1.0) is a and len(calls) == 1
    bank(1, 1.5)
    bank(1, 1.0)
    bank(1, 1.7)  # 1.5 goes
    bank(1, 1.0)
    assert calls == [1.0, 1.5, 1.7] and len(bank) == 2
    bank(1, 1.5)
    assert calls[-1] == 1.5 and len(calls) == 4
    with pytest.raises(ValueError, match="max_sets"):
        KernelBank(PUPPET, model[0].puppeteer, max_sets=0)


@pytest.mark.usefixtures("without_type_checks")  # which keep frames of calls
@pytest.mark.parametrize("adaptation", ["level", "sample"])
def test_a_predictor_that_nobody_holds_is_freed_at_once(model, adaptation):
    """With its kernels and its copy of the floats, before the garbage collector finds them."""
    puppet = pj.Puppet(channels=(4, 6), layers=(1, 2))
    params = pj.init_puppet(jax.random.key(1), puppet, pj.init_puppeteer(jax.random.key(0), 6))
    stats, head = pj.init_batch_stats(puppet, 3), extras.init_exit(jax.random.key(2), puppet, 2)
    made = [
        pj.Predictor(puppet, params, {3: stats}, adaptation=adaptation),
        extras.EarlyExitPredictor(puppet, params, head, stats, exit_layer=2, h=4.5, adaptation=adaptation),
    ]
    for predictor in made:
        predictor(pictures(3))
    assert len(list(made[0].stream([pictures(2)]))) == 1
    alive = [weakref.ref(predictor) for predictor in made]
    gc.disable()
    try:
        del made, predictor
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("adaptation", ["level", "sample"])
def test_kernels_may_be_made_in_another_way(model, adaptation):
    params, stats = model

    def doubled(puppeteer, h, shapes):
        return tuple(2 * kernel for kernel in pj.generate_kernels(puppeteer, h, shapes))

    predictor = pj.Predictor(PUPPET, params, stats, adaptation=adaptation, num_levels=1, generate=doubled)
    depth = predictor.depths[0]
    centre = level_centre(np.zeros(1), depth, 1)[0]
    x, h = pictures(5), np.full(5, centre, np.float32)
    kernels = doubled(params.puppeteer, centre, PUPPET.kernel_shapes(depth))
    expected, _ = apply_puppet(PUPPET, params, stats[depth], kernels, x, depth)
    np.testing.assert_allclose(predictor(x, h), expected, rtol=1e-4, atol=1e-5)


def test_any_complexity_measure_serves(model):
    def brightness(x):
        return jnp.asarray(x).astype(jnp.float32).mean(axis=(1, 2, 3)) / 60

    x = pictures(9)
    predictor = pj.Predictor(PUPPET, *model, complexity=brightness)
    expected = pj.Predictor(PUPPET, *model)(x, np.asarray(brightness(x)))
    np.testing.assert_array_equal(predictor(x), expected)


def in_place(images):
    images[:, 0] = 0
    return images.mean((1, 2, 3))


def by_image(images):
    values = np.zeros(len(images))
    for n, image in enumerate(images):
        values[n] = image.std()
    return values


@pytest.mark.parametrize(
    "measure",
    [
        in_place,
        by_image,
        lambda images: [len(zlib.compress(image)) for image in images],
        lambda images: [len(zlib.compress(image.tobytes())) for image in images],
        lambda images: [Image.fromarray(image).entropy() for image in images],
        lambda images: [float(image[image > 8].sum()) for image in images],
    ],
    ids=["in_place", "by_image", "buffers", "bytes", "pillow", "mask"],
)
def test_measures_that_jax_cannot_trace(measure):
    x = pictures(5)
    kept = x.copy()
    np.testing.assert_allclose(pj.complexities(x, measure), np.float32(measure(x.copy())))
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize("frozen", [False, True])
def test_measures_without_a_hash(frozen):
    """A dataclass that may be changed has none, and an array in one that may not has none either."""
    x, weights, traced = pictures(5), np.float32([[[[0, 1, 2]]]]), []

    @dataclasses.dataclass(frozen=frozen)
    class Weighted:
        weights: np.ndarray

        def __call__(self, images):
            traced.append(images.shape)
            return (images.astype(np.float32) * self.weights).mean((1, 2, 3))

    measure, other = Weighted(weights), Weighted(3 * weights)
    expected = (x * weights).mean((1, 2, 3))
    for _ in range(3):
        np.testing.assert_allclose(pj.complexities(x, measure), expected, rtol=1e-5)
        np.testing.assert_allclose(pj.complexities(x, other), 3 * expected, rtol=1e-5)
    assert sorted(traced) == [(1, 8, 8, 3)] * 2 + [(4, 8, 8, 3)] * 2  # once a size
    alive = weakref.ref(measure)
    del measure
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize(
    ("measure", "shape"),
    [
        (lambda images: images.astype(np.float32).mean((1, 2)).ravel(), r"\(12,\)"),
        (lambda images: images.astype(np.float32).mean(), r"\(\)"),
        (lambda images: images.astype(np.float32).mean((1, 2, 3))[:, None], r"\(4, 1\)"),
        (lambda images: float(images.mean()), r"\(\)"),
    ],
    ids=["three_each", "scalar", "two_axes", "not_traced"],
)
def test_refuses_measures_of_other_shapes(measure, shape):
    with pytest.raises(ValueError, match=rf"one value per image, shape \(4,\) for 4 images, got shape {shape}"):
        pj.complexities(pictures(4), measure)


def test_an_error_of_a_measure_is_its_own():
    def measure(images):
        raise KeyError("no such table")

    with pytest.raises(KeyError, match="no such table"):
        pj.complexities(pictures(4), measure)


def test_names_the_image_whose_complexity_is_bad():
    x = np.full((3, 8, 8, 3), 10, np.uint8)
    x[1] = 0
    with pytest.raises(ValueError, match=r"image 1 is -inf \(1 of 3 images are bad\)"):
        pj.complexities(x, lambda images: jnp.log(images.astype(jnp.float32).mean((1, 2, 3))))


def test_calibration_spreads_depths():
    h = np.random.default_rng(0).normal(4.9, 0.1, 1000).astype(np.float32)
    measure = pj.calibrate(h, 2, 5)
    spread = np.clip(measure.scale * h + measure.offset, measure.low, measure.high)
    depths = np.asarray(pj.depth(spread))
    assert set(depths.tolist()) == {2, 3, 4, 5}
    assert (np.diff(spread[np.argsort(h)]) >= 0).all()
    x = pictures(5)
    np.testing.assert_allclose(
        measure(x), np.clip(measure.scale * pj.complexity(x) + measure.offset, measure.low, measure.high), rtol=1e-5
    )
    for bad in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match="min_depth"):
            pj.calibrate(h, *bad)
    with pytest.raises(ValueError, match="spread"):
        pj.calibrate(np.ones(5), 1, 2)
    with pytest.raises(ValueError, match="quantile"):
        pj.calibrate(h, 1, 2, quantile=0.5)


@pytest.mark.usefixtures("without_type_checks")
def test_refuses_bad_batches(model):
    predictor = pj.Predictor(PUPPET, *model)
    with pytest.raises(ValueError, match="empty"):
        predictor(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        predictor(np.zeros((1, 8, 8, 3), np.int32))
    with pytest.raises(ValueError, match="adaptation"):
        pj.Predictor(PUPPET, *model, adaptation="each")
    with pytest.raises(ValueError, match="at least one depth"):
        make_groups(np.ones(3, np.float32), ())
    with pytest.raises(ValueError, match="shape"):
        make_groups(np.ones((3, 1), np.float32), (1,))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
@pytest.mark.parametrize("measure", [pj.complexity, pj.CalibratedComplexity(0.0, 1.5)], ids=["entropy", "constant"])
@pytest.mark.parametrize("h", [None, np.full(2, 1.5)], ids=["measured", "given"])
def test_refuses_values_outside_of_images(model, measure, h, value):
    x = np.full((2, 8, 8, 3), 0.5, np.float32)
    predictor = pj.Predictor(PUPPET, *model, complexity=measure)
    assert np.isfinite(predictor(x, h)).all()
    x[1, 3, 2, 0] = value
    with pytest.raises(ValueError, match=r"got .* at index \(1, 3, 2, 0\) \(1 bad values\)"):
        predictor(x, h)


def test_constant_image_is_routed_to_the_nearest_depth(model):
    black = np.zeros((1, 8, 8, 3), np.uint8)
    assert pj.complexities(black)[0] == 0
    assert np.isfinite(pj.Predictor(PUPPET, *model)(black)).all()
    assert np.isfinite(pj.Predictor(PUPPET, *model, adaptation="sample")(black)).all()


@pytest.mark.parametrize("num_levels", [None, 1, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_image_is_grouped_as_in_a_batch(num_levels, dtype):
    """Beside every step of D(h) and of a level too."""
    depths = (3, 5, 4)
    steps = [bound for depth in range(1, 8) for bound in pj.depth_interval(depth)]
    low, high = pj.depth_interval(4)
    steps += np.linspace(low, high, 17).tolist()
    near = np.array(steps, dtype)
    h = np.concatenate([[0, 1e30], near, np.nextafter(near, dtype(0)), np.nextafter(near, dtype(99))]).astype(dtype)
    by_image = {int(n): group for group in make_groups(h, depths, num_levels) for n in group.indices}
    for n in range(len(h)):
        (alone,) = make_groups(h[n : n + 1], depths, num_levels)
        together = by_image[n]
        assert (alone.depth, alone.h, alone.size, alone.indices.tolist()) == (together.depth, together.h, 1, [0])


@pytest.mark.parametrize("num_levels", [None, 4])
@pytest.mark.parametrize("count", [2, 16, 600])
def test_images_of_one_complexity_are_grouped_as_among_others(count, num_levels):
    """In pieces of 64, the last padded to the next size, or cut where that would be too much."""
    h = np.full(count, 4.5, np.float32)
    found = make_groups(h, (3, 4, 5), num_levels)
    among = [
        group
        for group in make_groups(np.append(h, np.float32(99)), (3, 4, 5), num_levels)
        if count not in group.indices
    ]
    expected = among if num_levels else make_groups(h.astype(np.float16), (3, 4, 5))
    shown = [[(g.depth, g.h, g.size, g.indices.tolist()) for g in groups] for groups in (found, expected)]
    assert shown[0] == shown[1]
    assert [group.size for group in found] == {2: [1, 1], 16: [16], 600: [64] * 9 + [16, 4, 4]}[count]
