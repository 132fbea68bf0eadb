"""An exit head behind the first layers of a puppet, and the predictor that sends on what the head is unsure of."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import apply_puppet, quick

import puppet_jax as pj
from puppet_jax import extras
from puppet_jax.execution_order import uses
from puppet_jax.extras import exit_predictor

LAYERS, DEPTH, EXIT = (1, 1, 3), 5, 3
H = 4.2
RNG = np.random.Generator(np.random.PCG64(0))


def images(n, seed=1, size=8):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def moved(tree, amount=0.3):
    """The tree with every float changed from its start."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    return structure.unflatten([x + amount * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@functools.cache
def make(exit_layer=EXIT, **changes):
    """A puppet, its parameters, its head, kernels, and statistics as training finds them."""
    settings = {"channels": (4, 6, 8), "layers": LAYERS, "residual": True, "affine": True}
    puppet = pj.Puppet(**settings | changes)
    puppeteer = pj.init_puppeteer(jax.random.key(0), puppet.max_channels)
    params = pj.init_puppet(jax.random.key(1), puppet, puppeteer)
    names = ("norm_scale", "norm_bias", "classifier_kernel", "classifier_bias")
    params = dataclasses.replace(params, **moved({name: getattr(params, name) for name in names}))
    head = moved(extras.init_exit(jax.random.key(2), puppet, exit_layer))
    kernels = pj.generate_kernels(puppeteer, H, puppet.kernel_shapes(DEPTH))
    _, stats = apply_puppet(puppet, params, None, kernels, images(64, seed=9), DEPTH)
    return puppet, params, head, kernels, stats


@pytest.fixture(scope="module")
def plain():
    return make()


def predictor(made, **settings):
    puppet, params, head, _, stats = made
    return extras.EarlyExitPredictor(puppet, params, head, stats, **{"exit_layer": EXIT, "h": H} | settings)


class TestConfidence:
    def test_by_hand(self):
        logits = np.log([[0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7]])
        np.testing.assert_allclose(extras.confidence(logits), [0.3, 0, 0.5], atol=1e-6)

    def test_does_not_depend_on_a_constant_or_the_order_of_classes(self):
        logits = RNG.normal(size=(5, 7)).astype(np.float32)
        np.testing.assert_allclose(extras.confidence(logits[:, ::-1] + 3), extras.confidence(logits), atol=1e-6)

    def test_refuses_one_class(self):
        with pytest.raises(ValueError, match=r"at least two classes, got shape \(4, 1\)"):
            extras.confidence(np.zeros((4, 1)))


class TestThreshold:
    @pytest.mark.parametrize("fraction", [0.1, 0.36, 0.9])
    def test_lies_above_the_fraction(self, fraction):
        values = RNG.random(1_000)
        assert np.mean(values < extras.exit_threshold(values, fraction)) == pytest.approx(fraction, abs=1e-3)

    @pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
    def test_refuses_other_fractions(self, fraction):
        with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\)"):
            extras.exit_threshold(np.array([0.5]), fraction)

    @pytest.mark.parametrize("values", [[], [0.1, np.nan]])
    def test_refuses_what_is_no_number(self, values):
        with pytest.raises(ValueError, match="confidences must be numbers"):
            extras.exit_threshold(np.array(values), 0.5)


class TestApplyWithExit:
    @pytest.mark.parametrize(
        ("changes", "training", "key"),
        [
            ({}, True, 5),
            ({}, False, None),
            *(
                pytest.param(*one, marks=pytest.mark.slow)
                for one in (
                    ({}, True, None),
                    ({}, False, 5),
                    ({"mirror": True}, True, None),
                    ({"classifier": "generated"}, False, None),
                )
            ),
        ],
    )
    def test_the_puppet_is_as_without(self, changes, training, key):
        puppet, params, head, kernels, stats = make(dropout=0.3, **changes)
        key = None if key is None else jax.random.key(key)
        stats = None if training else stats
        _, logits, used = extras.apply_with_exit(
            puppet, params, head, stats, kernels, images(6), EXIT, jnp.float32, key
        )
        expected, own = pj.apply_puppet(puppet, params, stats, kernels, images(6), DEPTH, key=key)
        np.testing.assert_array_equal(logits, expected)
        jax.tree.map(np.testing.assert_array_equal, used, own)

    @pytest.mark.parametrize(
        "changes", quick([{}, {"mirror": True}, {"affine": False}, {"classifier": "generated"}], {}, {"mirror": True})
    )
    @pytest.mark.parametrize("exit_layer", quick([1, 2, 3, 4], 2, 4))
    def test_the_exit_is_a_puppet_of_the_first_layers_and_that_classifier(self, exit_layer, changes):
        puppet, params, head, kernels, stats = make(exit_layer, **changes)
        stages = max(1, min(exit_layer, 3))
        layers = (*LAYERS[: stages - 1], exit_layer - sum(LAYERS[: stages - 1]))
        first = dataclasses.replace(puppet, channels=puppet.channels[:stages], layers=layers, classifier="linear")
        part = lambda norms: norms and tuple(norm[:n] for norm, n in zip(norms, layers, strict=False))  # noqa: E731
        alone = dataclasses.replace(
            params,
            norm_scale=part(params.norm_scale),
            norm_bias=part(params.norm_bias),
            classifier_kernel=head.kernel,
            classifier_bias=head.bias,
        )
        expected, _ = pj.apply_puppet(first, alone, stats[:exit_layer], kernels[:exit_layer], images(3), exit_layer)
        found, _, _ = extras.apply_with_exit(puppet, params, head, stats, kernels, images(3), exit_layer)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_each_layer_runs_once(self, plain):
        puppet, params, head, kernels, _ = plain
        run = lambda kernels, x: extras.apply_with_exit(puppet, params, head, None, kernels, x, EXIT)[:2]  # noqa: E731
        assert uses(run, kernels, images(2)) == [(n, "conv_general_dilated") for n in range(DEPTH)]

    @pytest.mark.parametrize("changes", quick([{}, {"mirror": True}, {"classifier": "generated"}], {}))
    def test_the_exit_trains_its_head_alone(self, changes):
        puppet, params, head, _, _ = make(**changes)
        weights = jax.random.normal(jax.random.key(5), (6, 10))  # a norm takes a plain sum of activations out

        def loss(params, head, of_exit, of_puppet):
            kernels = pj.generate_kernels(params.puppeteer, H, puppet.kernel_shapes(DEPTH))
            early, late, _ = extras.apply_with_exit(puppet, params, head, None, kernels, images(6), EXIT)
            return of_exit * (weights * early).sum() + of_puppet * (weights * late).sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        together, of_exit, of_puppet = (
            gradient(params, head, *parts) for parts in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
        )
        assert np.abs(of_exit[1].kernel).max() > 0 and np.abs(of_puppet[0].puppeteer.pointwise_kernel).max() > 0
        for leaf in jax.tree.leaves((of_exit[0], of_puppet[1])):
            np.testing.assert_array_equal(leaf, 0)
        assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        jax.tree.map(assert_close, together, (of_puppet[0], of_exit[1]))

    @pytest.mark.parametrize(
        ("exit_layer", "changes", "features"),
        [(3, {}, 8), (2, {}, 6), (3, {"mirror": True}, 4), (1, {"classifier": "generated"}, 4)],
    )
    def test_floats_of_the_head(self, exit_layer, changes, features):
        head = make(exit_layer, **changes)[2]
        assert (head.kernel.shape, head.bias.shape) == ((features, 10), (10,))

    def test_the_head_starts_as_a_classifier_does(self):
        puppet = pj.Puppet(channels=(4, 16), layers=(1, 2))
        params = pj.init_puppet(jax.random.key(2), puppet, pj.init_puppeteer(jax.random.key(0), 16))
        head = extras.init_exit(jax.random.key(2), puppet, 2)
        np.testing.assert_array_equal(head.kernel, params.classifier_kernel)
        np.testing.assert_array_equal(head.bias, params.classifier_bias)

    @pytest.mark.parametrize("exit_layer", [0, 5, 6])
    def test_refuses_other_layers(self, plain, exit_layer):
        puppet, params, head, kernels, _ = plain
        for call in (
            lambda: extras.init_exit(jax.random.key(0), puppet, exit_layer),
            lambda: extras.apply_with_exit(puppet, params, head, None, kernels, images(2), exit_layer),
            lambda: extras.exit_macs(puppet, exit_layer, (8, 8)),
        ):
            with pytest.raises(ValueError, match=f"exit_layer must be at least 1 and less than 5, got {exit_layer}"):
                call()

    def test_refuses_a_puppet_of_many_depths(self):
        with pytest.raises(ValueError, match="has many depths, by the rule 'total'; give its layers"):
            extras.init_exit(jax.random.key(0), pj.Puppet(depth_rule="total"), 1)


class TestPredictor:
    @pytest.mark.parametrize("n", quick([1, 5, 300], 1, 300))
    def test_answers_what_the_exit_or_the_puppet_says(self, plain, n):
        one = predictor(plain)
        x = images(n)
        early, late = one.exits(x)
        one.threshold = extras.exit_threshold(extras.confidence(early), 0.4) if n > 1 else 1.0
        logits, depths = one.route(x)
        expected, sent_on = extras.combine_exits(early, late, one.threshold)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        np.testing.assert_array_equal(depths, np.where(sent_on, DEPTH, EXIT))
        assert n == 1 or 0 < sent_on.sum() < n
        np.testing.assert_allclose(early[~sent_on], logits[~sent_on], atol=1e-6)
        np.testing.assert_allclose(late[sent_on], logits[sent_on], atol=1e-5)

    def test_exits_are_those_of_apply_with_exit(self, plain):
        puppet, params, head, kernels, stats = plain
        expected = extras.apply_with_exit(puppet, params, head, stats, kernels, images(3), EXIT)[:2]
        np.testing.assert_allclose(predictor(plain).exits(images(3)), expected, atol=1e-5)

    @pytest.mark.parametrize("exit_layer", quick([1, 2, 4], 1, 4))
    @pytest.mark.parametrize("changes", [{"mirror": True}, {"classifier": "generated"}])
    def test_goes_on_from_any_layer(self, exit_layer, changes):
        made = make(exit_layer, **changes)
        one = predictor(made, exit_layer=exit_layer, threshold=2.0)
        puppet, params, _, kernels, stats = made
        expected, _ = pj.apply_puppet(puppet, params, stats, kernels, images(5), DEPTH)
        np.testing.assert_allclose(one(images(5)), expected, atol=1e-5)
        assert one.depths == (exit_layer, DEPTH)

    @pytest.mark.parametrize(("threshold", "depth"), [(None, EXIT), (0.0, EXIT), (2.0, DEPTH)])
    def test_none_or_all_are_sent_on(self, plain, threshold, depth):
        assert set(predictor(plain, threshold=threshold).route(images(20))[1].tolist()) == {depth}

    def test_an_image_alone_gets_the_same_logits(self, plain):
        one = predictor(plain, threshold=0.5)
        x = images(9)
        alone = np.concatenate([one(x[i : i + 1]) for i in range(9)])
        np.testing.assert_allclose(one(x), alone, atol=1e-5)

    def test_kernels_are_generated_once_or_anew(self, plain):
        calls = []

        def generate(*args):
            calls.append(args)
            return pj.generate_kernels(*args)

        for adaptation, expected in (("level", 1), ("sample", 3)):
            calls.clear()
            one = predictor(plain, threshold=0.5, adaptation=adaptation, generate=generate)
            results = [one(images(2)) for _ in range(3)]
            assert len(calls) == expected
            np.testing.assert_array_equal(results[0], results[2])

    def test_few_programs_for_many_numbers_of_images(self, plain):
        one = predictor(plain, threshold=0.5)
        before = exit_predictor._start._cache_size(), exit_predictor._go_on._cache_size()
        for n in range(1, 40):
            one(images(n))
        assert exit_predictor._start._cache_size() - before[0] <= 4
        assert exit_predictor._go_on._cache_size() - before[1] <= 5 * 4

    def test_takes_bfloat16(self, plain):
        one = predictor(plain, dtype=jnp.bfloat16, threshold=2.0)
        logits = one(images(4))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, predictor(plain, threshold=2.0)(images(4)), atol=0.1)

    def test_refuses_no_images(self, plain):
        with pytest.raises(ValueError, match="images must not be empty"):
            predictor(plain)(images(0))

    @pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
    def test_refuses_values_outside_of_images(self, plain, value):
        x = images(2).astype(np.float32) / 255
        assert np.isfinite(predictor(plain)(x)).all()
        x[1, 3, 2, 0] = value
        for call in (predictor(plain), predictor(plain).exits):
            with pytest.raises(ValueError, match=r"at index \(1, 3, 2, 0\)"):
                call(x)

    @pytest.mark.usefixtures("without_type_checks")
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"puppet": pj.Puppet()}, "has many depths"),
            ({"exit_layer": 5}, "exit_layer must be at least 1 and less than 5, got 5"),
            ({"batch_stats": ()}, "batch_stats must be of the 5 layers of the puppet, got 0"),
            ({"adaptation": "image"}, "must be 'level' or 'sample', got 'image'"),
        ],
    )
    def test_refuses(self, plain, settings, message):
        puppet, params, head, _, stats = plain
        made = {"puppet": puppet, "params": params, "head": head, "batch_stats": stats, "exit_layer": EXIT, "h": H}
        with pytest.raises(ValueError, match=message):
            extras.EarlyExitPredictor(**made | settings)


def test_macs_by_hand():
    puppet = pj.Puppet(channels=(4, 6, 8), layers=LAYERS, mirror=True)
    n = 8 * 8
    first = 9 * 3 * 4 * n + 9 * 4 * 6 * n // 4 + 9 * 6 * 8 * n // 16
    assert extras.exit_macs(puppet, 3, (8, 8)) == (first + 40, first + 2 * 9 * 8 * 8 * n // 16 + 2 * 40)
    assert pj.puppet_macs(puppet, 5, (8, 8), first=3) == pj.puppet_macs(puppet, 5, (8, 8)) - first
