"""No quiet wrong answer: what is not as documented is refused, or means what it says."""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj
from puppet_jax import extras
from puppet_jax.adaptation import initial_level
from puppet_jax.folded import fold
from puppet_jax.predictor import KernelBank
from puppet_jax.projection import adaptive_average_pool
from puppet_jax.routing import make_groups, nearest_depths, run_groups

PUPPET = pj.Puppet(channels=(4,), layers=(2,), num_classes=3)
PUPPETEER = pj.init_puppeteer(jax.random.key(0), max_channels=4)
PARAMS = pj.init_puppet(jax.random.key(1), PUPPET, PUPPETEER)
STATS = pj.init_batch_stats(PUPPET, 2)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def kernels():
    return pj.generate_kernels(PUPPETEER, 4.5, PUPPET.kernel_shapes(2))


@pytest.fixture(scope="module")
def predictor():
    return pj.Predictor(PUPPET, PARAMS, {2: STATS})


class TestImages:
    @pytest.mark.parametrize("dtype", [bool, np.int8, np.int16, np.int32, np.int64, np.uint16, np.complex64])
    def test_other_dtypes(self, kernels, predictor, dtype):
        head = extras.init_exit(jax.random.key(2), PUPPET, 1)
        images = IMAGES.astype(dtype)
        for call in (
            lambda: pj.apply_puppet(PUPPET, PARAMS, STATS, kernels, images, 2),
            lambda: extras.apply_with_exit(PUPPET, PARAMS, head, STATS, kernels, images, 1),
            lambda: predictor(images),
            lambda: pj.complexities(images),
        ):
            with pytest.raises(ValueError, match=r"images must be uint8, or floating .* images.astype\(np.uint8\)"):
                call()

    @pytest.mark.parametrize("dtype", [bool, jnp.int32, "uint8", jnp.complex64])
    def test_other_dtypes_of_activations(self, kernels, dtype):
        head = extras.init_exit(jax.random.key(2), PUPPET, 1)
        for call in (
            lambda: pj.apply_puppet(PUPPET, PARAMS, STATS, kernels, IMAGES, 2, dtype=dtype),
            lambda: extras.apply_with_exit(PUPPET, PARAMS, head, STATS, kernels, IMAGES, 1, dtype=dtype),
            lambda: pj.Predictor(PUPPET, PARAMS, {2: STATS}, dtype=dtype),
        ):
            with pytest.raises(TypeError, match="dtype must be floating, such as jnp.bfloat16, got"):
                call()

    def test_floats_that_are_no_image(self, kernels):
        for images in (IMAGES.astype(np.float32), np.full(IMAGES.shape, np.nan, np.float32)):
            with pytest.raises(ValueError, match=r"must lie in \[0, 1\] and hold no NaN"):
                pj.apply_puppet(PUPPET, PARAMS, STATS, kernels, images, 2)

    def test_channels_first(self, predictor):
        for shape in ((2, 3, 8, 8), (2, 1, 8, 8), (2, 4, 16, 8)):
            with pytest.raises(ValueError, match="channels last, got shape"):
                pj.complexity(np.zeros(shape, np.uint8))
        assert pj.complexity(np.zeros((1, 3, 8, 4), np.uint8)) == 0  # three pixels high

    def test_byte_order_does_not_matter(self, predictor):
        images = (IMAGES / 255).astype(np.float32)
        expected = predictor(images)
        for _ in range(2):  # a warm program too
            np.testing.assert_array_equal(predictor(images.astype(">f4")), expected)
            np.testing.assert_array_equal(predictor(images.astype(">f4"), np.full(3, 4.5)), predictor(images))
        np.testing.assert_array_equal(pj.complexity(images.astype(">f4")), pj.complexity(images))

    def test_another_size_than_the_models(self):
        model = pj.load_pretrained("cifar10-c64-4bit")
        larger = np.zeros((1, 64, 64, 3), np.uint8)
        with pytest.raises(ValueError, match=r"must be of 32 x 32 pixels, .* got 64 x 64: resize .* image_size=None"):
            model.predictor()(larger)
        assert model.predictor(image_size=None).image_size is None


class TestPredictor:
    @pytest.mark.parametrize("h", [np.array([4.0]), np.full(4, 4.0), np.array(4.0), np.full((3, 1), 4.0)])
    def test_as_many_complexities_as_images(self, predictor, h):
        with pytest.raises(ValueError, match=r"one complexity per image, shape \(3,\), got shape"):
            predictor.route(IMAGES, h)

    @pytest.mark.parametrize("dtype", [np.int32, np.complex64, bool, "text"])
    def test_activations_are_floats(self, dtype):
        with pytest.raises(TypeError, match="dtype must be floating"):
            pj.Predictor(PUPPET, PARAMS, {2: STATS}, dtype=dtype)

    def test_parameters_of_nan(self):
        """Compiled for a CPU, a maximum (ReLU, pooling) may drop NaN: the logits would be finite."""
        broken = dataclasses.replace(PUPPETEER, pointwise_kernel=PUPPETEER.pointwise_kernel.at[0, 0].set(jnp.nan))
        predictor = pj.Predictor(PUPPET, dataclasses.replace(PARAMS, puppeteer=broken), {2: STATS})
        with pytest.raises(FloatingPointError, match="kernel 0 of depth 2 at complexity .* is not finite"):
            predictor(IMAGES)

    def test_a_bank_serves_threads(self):
        made = []

        def generate(puppeteer, h, shapes):
            made.append(h)
            return (jnp.full(shapes[0], h),)

        bank, errors = KernelBank(PUPPET, PUPPETEER, 2, generate), []

        def serve(seed):
            try:
                for h in np.random.default_rng(seed).integers(1, 6, 200):
                    assert float(bank(2, float(h))[0][0, 0, 0, 0]) == h
                    assert len(bank) <= 2
            except Exception as error:
                errors.append(error)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=serve, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert not errors
        assert len(made) > 2  # sets were dropped and made again

    def test_groups_that_are_no_batch(self):
        (group,) = make_groups(np.full(3, 4.5), (2,), 1)
        for groups in ([group, group], [dataclasses.replace(group, indices=np.array([0, 2]))], []):
            with pytest.raises(ValueError, match="every index of a batch .* once"):
                run_groups(groups, lambda group: jnp.ones(group.size))


class TestUnsure:
    """NaN is never sure."""

    LOGITS = np.array([[np.nan, 0.0, 0.0], [9.0, 0.0, 0.0]], np.float32)

    @pytest.mark.filterwarnings("ignore:invalid value")
    def test_combined_exits(self):
        later = np.zeros((2, 3), np.float32)
        logits, sent_on = extras.combine_exits(self.LOGITS, later, 0.5)
        assert sent_on.tolist() == [True, False]
        np.testing.assert_array_equal(logits[0], 0)

    @pytest.mark.filterwarnings("ignore:invalid value")
    def test_ensembles(self):
        _, seen = extras.ensemble([lambda x: self.LOGITS, lambda x: np.zeros((len(x), 3))], IMAGES[:2], threshold=0.5)
        assert seen.tolist() == [2, 1]

    @pytest.mark.parametrize("threshold", [np.nan, "much"])
    def test_threshold(self, threshold):
        for call in (
            lambda: extras.combine_exits(self.LOGITS, self.LOGITS, threshold),
            lambda: extras.ensemble([lambda x: self.LOGITS], IMAGES[:2], threshold=threshold),
        ):
            with pytest.raises((ValueError, TypeError), match="threshold"):
                call()


class TestNumbers:
    @pytest.mark.usefixtures("without_type_checks")
    @pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8, jnp.int32])
    def test_integers_of_any_library(self, kind):
        np.testing.assert_array_equal(pj.seeded_pattern(kind(4), kind(3), kind(7)), pj.seeded_pattern(4, 3, 7))
        puppet = pj.Puppet(channels=[kind(4)], layers=[kind(2)], num_classes=kind(3))
        assert puppet == PUPPET and hash(puppet) == hash(PUPPET)

    @pytest.mark.usefixtures("without_type_checks")
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: pj.Puppet(channels=(2.5,)), "channels must be an integer, got 2.5"),
            (lambda: pj.Puppet(num_classes="3"), "num_classes must be an integer, got '3'"),
            (lambda: pj.Puppet(residual="no"), "residual must be a bool, got 'no'"),
            (lambda: pj.Puppet(channels=(4,)).kernel_shapes(10**9), "depth must be at most 10000"),
            (lambda: pj.depth_interval(float("inf")), "depth must be an integer, got inf"),
            (lambda: pj.init_puppeteer(jax.random.key(0), 4, seed=2.5), "seed must be an integer, got 2.5"),
            (lambda: pj.init_puppeteer(jax.random.key(0), 4, scale="0.1"), "scale must be a number, got '0.1'"),
            (lambda: pj.init_puppeteer(jax.random.key(0), 10**6), r"a state of more than 2\*\*32 floats"),
            (lambda: dataclasses.replace(PUPPETEER, kernels_from="speed"), "kernels_from must be one of .* 'speed'"),
            (lambda: pj.step_size(1e300), r"finite and at least 0 nats, got 1e\+300"),
            (lambda: initial_level([1.0, "x"]), "must be a real number"),
            (lambda: nearest_depths(np.array([np.nan, -1]), (1, 2)), "finite and at least 0 nats, got nan"),
            (lambda: pj.num_steps([(3, 3, -1, 8)], 8), r"HWIO, four positive integers, got \(3, 3, -1, 8\)"),
            (lambda: pj.generate_kernels(PUPPETEER, 4.5, (3, 3, 3, 4)), "HWIO, four positive integers, got 3"),
            (lambda: pj.generate_kernels(PUPPETEER, 4.5, 3), "shapes must be a sequence of HWIO shapes, got 3"),
            (lambda: adaptive_average_pool(jnp.arange(6), (4,)), "x must be floating, got dtype int32"),
            (lambda: pj.CalibratedComplexity(scale=-1.0), "scale must be finite and at least 0, got -1.0"),
            (lambda: pj.CalibratedComplexity(low=2.0, high=1.0), "0 <= low <= high, got 2.0 and 1.0"),
        ],
    )
    def test_refused_by_name_and_value(self, call, message):
        with pytest.raises((ValueError, TypeError), match=message):
            call()

    def test_a_measure_in_numpy(self):
        def measure(images):
            return np.array([np.asarray(image, np.float64).std() for image in images])

        np.testing.assert_allclose(pj.complexities(IMAGES, measure), measure(IMAGES), rtol=1e-6)
        with pytest.raises(ValueError, match=r"one value per image, shape \(4,\) for 4 images, got shape \(1,\)"):
            pj.complexities(IMAGES, lambda images: np.ones(1))


class TestFewBits:
    @pytest.mark.parametrize(("bits", "most"), [(8, 65504 * 128.0), (4, 65504 * 8.0)])
    def test_what_scales_cannot_hold(self, bits, most):
        stored = extras.quantize(jnp.array([[most, 1.0], [2.0, 0.5]]), bits)
        back = extras.dequantize(stored, (2, 2), bits)
        assert abs(back[0, 0] / most - 1) < 0.02
        for value in (1.01 * most, -1.01 * most, np.inf, np.nan):
            with pytest.raises(ValueError, match="must be finite and at most"):
                extras.quantize(jnp.array([[value, 1.0], [2.0, 0.5]]), bits)
        with pytest.raises(ValueError, match=r"finite and at most 65504, got 100000\.0"):
            extras.quantize_tree({"vector": jnp.array([1e5])}, {"vector": 16})

    @pytest.mark.parametrize("bits", [16, 8, 4])
    def test_training_sees_finite_values(self, bits):
        params = {"x": jnp.array([[1e7, 1.0], [2.0, 0.5]])}
        assert jnp.isfinite(extras.fake_quantize(params, {"x": bits})["x"]).all()


class TestPuppetize:
    @staticmethod
    def puppetized(model):
        return pj.puppetize(model, jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32))

    def test_sets_of_kernels_under_vmap_of_the_images(self):
        class Frames(nnx.Module):
            def __init__(self, rngs):
                self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)

            def __call__(self, x):
                return jax.vmap(self.conv)(x[:, None])[:, 0]

        puppet = self.puppetized(Frames(nnx.Rngs(0)))
        assert puppet(IMAGES / 255, h=4.5).shape == (3, 8, 8, 4)
        with pytest.raises(ValueError, match="sets of kernels cannot be paired with images under jax.vmap"):
            puppet(IMAGES / 255, h=np.array([4.5]))

    @pytest.mark.usefixtures("without_type_checks")
    def test_a_complexity_that_is_trained(self):
        puppet = self.puppetized(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)))
        x, h = jnp.asarray(IMAGES / 255, jnp.float32), nnx.Param(jnp.float32(4.5))
        np.testing.assert_array_equal(puppet(x, h=h), puppet(x, h=4.5))
        grad = nnx.grad(lambda h: jnp.square(puppet(x, h=h)).sum())(h)
        assert jnp.isfinite(grad.get_value()) and grad.get_value() != 0

    def test_a_model_with_an_argument_h(self):
        class Cell(nnx.Module):
            def __init__(self, rngs):
                self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)

            def __call__(self, x, h=0.0):
                return self.conv(x) + h

        puppet = self.puppetized(Cell(nnx.Rngs(0)))
        x = jnp.asarray(IMAGES / 255, jnp.float32)
        with pytest.raises(ValueError, match="Cell has an argument h of its own; give the complexity to instantiate"):
            puppet(x, h=4.5)
        np.testing.assert_allclose(puppet.instantiate(h=4.5)(x, h=1.0), puppet(x) + 1, rtol=1e-6)

    def test_numbers_of_python_share_a_trace(self):
        class Scaled(nnx.Module):
            def __init__(self, rngs):
                self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)

            def __call__(self, x, factor):
                return factor * self.conv(x)

        puppet, x = pj.puppetize(Scaled(nnx.Rngs(0))), jnp.asarray(IMAGES / 255, jnp.float32)
        for factor in (0.5, 0.25, 0.125):
            puppet(x, factor)
        assert len(puppet._plan.seen) == 1


class TestFloatsOfAnotherPuppet:
    """Each would give logits of the right shape."""

    SHALLOW = pj.init_batch_stats(pj.Puppet(channels=(4,), layers=(1,)), 1)
    NORMED = dataclasses.replace(PUPPET, affine=True)

    @pytest.mark.parametrize(
        ("puppet", "changed", "stats", "message"),
        [
            (PUPPET, {}, STATS + STATS, "batch_stats must be of the 2 layers of the puppet, got 4. Those of depth 2"),
            (PUPPET, {}, SHALLOW, "batch_stats must be of the 2 layers of the puppet, got 1"),
            (PUPPET, {}, tuple(pj.BatchStats(s.mean[:1], s.variance[:1]) for s in STATS), r"layer 0 .* shape \(4,\)"),
            (PUPPET, {"classifier_kernel": jnp.ones((4, 5))}, STATS, r"kernel of shape \(4, 3\) .* got \(4, 5\)"),
            (PUPPET, {"classifier_bias": jnp.ones(1)}, STATS, r"bias of shape \(3,\), got \(4, 3\) and \(1,\)"),
            (NORMED, {"norm_scale": (jnp.ones((2, 1)),)}, STATS, r"norm_scale must .* of \[4\] channels, got"),
            (NORMED, {"norm_bias": (jnp.ones((1, 4)),)}, STATS, "norms for 1 layers of stage 0, depth 2 has 2"),
        ],
    )
    def test_refused_by_all(self, kernels, puppet, changed, stats, message):
        params = pj.init_puppet(jax.random.key(1), puppet, PUPPETEER)
        head = extras.init_exit(jax.random.key(2), PUPPET, 1)
        params = dataclasses.replace(params, **changed)
        for call in (
            lambda: pj.apply_puppet(puppet, params, stats, kernels, IMAGES, 2),
            lambda: jax.eval_shape(lambda: pj.apply_puppet(puppet, params, stats, kernels, IMAGES, 2)),
            lambda: fold(puppet, params, stats, kernels, 2),
            lambda: pj.Predictor(puppet, params, {2: stats}),
            lambda: extras.apply_with_exit(puppet, params, head, stats, kernels, IMAGES, 1),
            lambda: extras.EarlyExitPredictor(puppet, params, head, stats, exit_layer=1, h=4.5),
        ):
            with pytest.raises(ValueError, match=message):
                call()

    def test_an_exit_of_other_classes(self, kernels):
        head = extras.init_exit(jax.random.key(2), dataclasses.replace(PUPPET, num_classes=5), 1)
        for call in (
            lambda: extras.apply_with_exit(PUPPET, PARAMS, head, STATS, kernels, IMAGES, 1),
            lambda: extras.EarlyExitPredictor(PUPPET, PARAMS, head, STATS, exit_layer=1, h=4.5),
        ):
            with pytest.raises(ValueError, match=r"classifier in the exit head must have a kernel of shape \(4, 3\)"):
                call()

    @pytest.mark.usefixtures("without_type_checks")
    def test_depths_are_integers(self):
        with pytest.raises(TypeError, match=r"a depth of batch_stats must be an integer, got 2\.7"):
            pj.Predictor(PUPPET, PARAMS, {2.7: STATS})
        assert pj.Predictor(PUPPET, PARAMS, {np.int64(2): STATS}).depths == (2,)


def dtypes_of_puppet(puppet):
    """Of logits, of statistics that a batch gives and of what a predictor keeps."""

    def results():
        params = pj.init_puppet(jax.random.key(0), puppet, pj.init_puppeteer(jax.random.key(0), max_channels=8))
        kernels = pj.generate_kernels(params.puppeteer, 4.5, puppet.kernel_shapes(2))
        logits, stats = pj.apply_puppet(puppet, params, None, kernels, IMAGES, 2)
        return jax.tree.leaves((logits, stats, fold(puppet, params, stats, kernels, 2)))

    return {leaf.dtype.name for leaf in jax.eval_shape(results)}


def everything():
    """Kernels, logits, gradients and few bits of small models, as sums, from one seed."""
    key, puppet = jax.random.key(0), pj.Puppet(channels=(4, 8), layers=(1, 1), affine=True)
    params = pj.init_puppet(key, puppet, pj.init_puppeteer(key, max_channels=8))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, pj.init_batch_stats(puppet, 2)))} == {"float32"}
    assert pj.num_bytes(params.puppeteer) == 4 * (8**2 + 15 * 8)
    chosen = extras.choose_bits(params, jax.tree.map(lambda leaf: leaf.ndim > 1, params), 8)

    def loss(params):
        kernels = pj.generate_kernels(params.puppeteer, 4.5, puppet.kernel_shapes(2))
        return pj.apply_puppet(puppet, extras.fake_quantize(params, chosen), None, kernels, IMAGES, 2)[0].var()

    grads = jax.jit(jax.grad(loss))(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(grads)} == {"float32"}
    for mirror in (False, True):
        assert dtypes_of_puppet(dataclasses.replace(puppet, mirror=mirror)) == {"float32"}
    h = pj.complexities(np.concatenate([IMAGES, np.zeros_like(IMAGES)]))
    assert h[3:].tolist() == [0] * 3
    few = extras.dequantize_tree(extras.quantize_tree(params, chosen), params, chosen)
    logits = pj.Predictor(puppet, few, {2: pj.init_batch_stats(puppet, 2)})(IMAGES, h[:3])
    model = pj.load_pretrained("cifar10-c64-4bit")
    assert model.params.puppeteer.pointwise_kernel.dtype == jnp.float32
    puppetized = pj.puppetize(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)))
    y = puppetized((IMAGES / 255).astype(np.float32), h=jnp.array([4.0, 4.2, 4.5]))  # Flax promotes no integers
    pattern = pj.seeded_pattern(8, 3, 1)
    found = (params.puppeteer.pointwise_kernel, params.classifier_kernel, grads, h, logits, y, pattern)
    return [float(np.abs(np.asarray(leaf, np.float64)).sum()) for leaf in jax.tree.leaves(found)]


@pytest.mark.parametrize("kernels_from", ["state", "velocity"])
def test_kernels_are_reproducible(kernels_from):
    """In float32 as in float64, away from the start of training as well."""
    shapes = [(3, 3, 8, 8)] * 4
    with jax.enable_x64(True):
        puppeteer = pj.init_puppeteer(jax.random.key(0), 8, kernels_from=kernels_from)
        leaves, structure = jax.tree.flatten(puppeteer)
        noise = np.random.default_rng(0)
        moved = structure.unflatten([leaf + 0.1 * noise.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
        exact = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), moved)
        for h in (0.5, 1.0, 4.5, 20.0):
            found = pj.generate_kernels(moved, jnp.float32(h), shapes)
            assert {kernel.dtype.name for kernel in found} == {"float32"}
            for one, other in zip(found, pj.generate_kernels(exact, jnp.float64(h), shapes), strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.fixture(scope="module")
def plain():
    return everything()


CHECKS = {
    "jax_debug_nans": True,
    "jax_debug_infs": True,
    "jax_numpy_rank_promotion": "raise",
    "jax_numpy_dtype_promotion": "strict",
}


@pytest.mark.parametrize(
    "switches", [{"jax_enable_x64": True}, pytest.param(CHECKS, marks=pytest.mark.slow)], ids=["x64", "checks"]
)
def test_switches_of_jax(plain, switches):
    """The same draws, kernels, gradients and logits under each."""
    before = {name: getattr(jax.config, name) for name in switches}
    try:
        for name, value in switches.items():
            jax.config.update(name, value)
        found = everything()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_four_devices(plain):
    program = "import jax, sys, test_guarantees; print(jax.device_count(), *test_guarantees.everything())"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    count, *found = map(float, done.stdout.split())
    assert count == 4
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-5)
