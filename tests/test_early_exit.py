"""Nested puppets, and the predictor that goes on to the deep one where the shallow one is unsure."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj
from puppet_jax import early_exit

DEPTHS = (3, 5)
H = 4.2
RNG = np.random.Generator(np.random.PCG64(0))


def make(**changes):
    """A puppet of stages 1-2-2, its parameters, kernels, and statistics of both depths as training finds them."""
    settings = {"channels": (4, 6, 8), "depth_rule": "total", "stem": True, "residual": True, "affine": True}
    puppet = pj.Puppet(**settings | {"max_depth": 5} | changes)
    puppeteer = pj.init_puppeteer(jax.random.key(0), puppet.max_channels)
    params = pj.init_puppet(jax.random.key(1), puppet, puppeteer, max_depth=5)
    kernels = pj.generate_kernels(puppeteer, H, puppet.kernel_shapes(5))
    found = pj.apply_exits(puppet, params, None, kernels, images(64, seed=9), DEPTHS)
    return puppet, params, kernels, {depth: stats for depth, (_, stats) in found.items()}


def images(n, seed=1, size=8):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def nested():
    return make()


def predictor(nested, **settings):
    puppet, params, _, stats = nested
    return pj.EarlyExitPredictor(puppet, params, stats, **{"h": H} | settings)


class TestDoubt:
    def test_by_hand(self):
        logits = np.log([[0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.2, 0.7]])
        np.testing.assert_allclose(pj.doubt(logits), [0.7, 1, 0.5], atol=1e-6)

    def test_does_not_depend_on_a_constant_or_the_order_of_classes(self):
        logits = RNG.normal(size=(5, 7)).astype(np.float32)
        np.testing.assert_allclose(pj.doubt(logits[:, ::-1] + 3), pj.doubt(logits), atol=1e-6)

    def test_refuses_one_class(self):
        with pytest.raises(ValueError, match=r"at least two classes, got shape \(4, 1\)"):
            pj.doubt(np.zeros((4, 1)))


class TestThreshold:
    @pytest.mark.parametrize("share", [0.1, 0.36, 0.9])
    def test_is_exceeded_by_the_share(self, share):
        doubts = RNG.random(1_000)
        assert np.mean(doubts > pj.exit_threshold(doubts, share)) == pytest.approx(share, abs=1e-3)

    @pytest.mark.parametrize("share", [0, 1, -0.1, 2])
    def test_refuses_other_shares(self, share):
        with pytest.raises(ValueError, match=r"share must be in \(0, 1\)"):
            pj.exit_threshold([0.5], share)

    @pytest.mark.parametrize("doubts", [[], [0.1, np.nan]])
    def test_refuses_what_is_no_number(self, doubts):
        with pytest.raises(ValueError, match="doubts must be numbers"):
            pj.exit_threshold(doubts, 0.5)


class TestNestedPuppets:
    @pytest.mark.parametrize(
        ("rule", "stem", "layers"),
        [
            ("total", True, [(1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 2, 3), (1, 3, 3)]),
            ("total", False, [(1, 1, 1), (1, 1, 1), (1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 2, 3), (2, 2, 3)]),
            ("per_stage", True, [(1, d, d) for d in range(1, 8)]),
            ("last", True, [(1, 1, max(d - 2, 1)) for d in range(1, 8)]),
        ],
    )
    def test_layers_are_left_out_from_the_first_stages(self, rule, stem, layers):
        puppet = pj.Puppet(channels=(4, 6, 8), depth_rule=rule, stem=stem, max_depth=7)
        assert [puppet.layers_per_stage(depth) for depth in range(1, 8)] == layers

    @pytest.mark.parametrize("rule", ["total", "per_stage", "last"])
    @pytest.mark.parametrize("stem", [True, False])
    def test_a_deeper_puppet_has_the_layers_of_a_shallower_one(self, rule, stem):
        puppet = pj.Puppet(channels=(4, 6, 8), depth_rule=rule, stem=stem, max_depth=9)
        plain = pj.Puppet(channels=(4, 6, 8), depth_rule=rule, stem=stem)
        for depth in range(1, 9):
            assert set(puppet.layers(depth)) <= set(puppet.layers(depth + 1))
            assert len(puppet.layers(depth)) == len(plain.layers(depth))
        assert puppet.layers(9) == plain.layers(9)

    def test_all_depths_take_the_kernels_of_the_deepest(self):
        puppet = make()[0]
        assert (
            puppet.kernel_shapes(3)
            == puppet.kernel_shapes(5)
            == pj.Puppet(channels=(4, 6, 8), depth_rule="total", stem=True).kernel_shapes(5)
        )

    def test_shared_layers(self):
        puppet = pj.Puppet(channels=(4, 6, 8), depth_rule="total", stem=True, max_depth=7)
        assert [puppet.shared_layers(depth, 7) for depth in (4, 5, 6, 7)] == [2, 2, 3, 7]
        assert puppet.shared_layers(4, 5) == 4
        plain = pj.Puppet(channels=(4, 6, 8), depth_rule="total", stem=True)
        assert [plain.shared_layers(depth, 7) for depth in (5, 7)] == [0, 7]

    @pytest.mark.parametrize("exit_depth", [None, 3])
    def test_a_shallow_puppet_can_be_the_beginning_of_a_deep_one(self, exit_depth):
        puppet, params, kernels, stats = make(depth_rule="last", exit_depth=exit_depth)
        assert [puppet.shared_layers(depth, 5) for depth in (3, 4)] == [3, 4]
        one = pj.EarlyExitPredictor(puppet, params, stats, h=H)
        for threshold, depth in ((1.0, 3), (-1.0, 5)):
            one.threshold = threshold
            expected, _ = pj.apply_puppet(puppet, params, stats[depth], kernels, images(5), depth)
            np.testing.assert_allclose(one(images(5)), expected, atol=1e-5)

    @pytest.mark.parametrize("depth", [0, 6])
    def test_refuses_other_depths(self, nested, depth):
        with pytest.raises(ValueError, match=f"at least 1 and at most max_depth, 5, got {depth}"):
            nested[0].layers(depth)

    def test_refuses_a_bad_max_depth(self):
        with pytest.raises(ValueError, match="max_depth must be at least 1, got 0"):
            pj.Puppet(max_depth=0)

    @pytest.mark.parametrize("changes", [{}, {"mirror": True}, {"classifier": "generated"}])
    def test_equals_a_plain_puppet_of_the_same_kernels(self, changes):
        puppet, params, kernels, stats = make(**changes)
        plain = pj.Puppet(channels=(4, 6, 8), residual=True, affine=True, **changes)  # one layer a stage at depth 1
        own = [kernels[0], kernels[1], kernels[3], *kernels[5:]]
        expected, _ = pj.apply_puppet(plain, params, stats[3], own, images(3), 1)
        found, _ = pj.apply_puppet(puppet, params, stats[3], kernels, images(3), 3)
        np.testing.assert_allclose(found, expected, atol=1e-6)


class TestExits:
    @pytest.mark.parametrize("key", [None, 5])
    @pytest.mark.parametrize("training", [True, False])
    def test_equal_each_puppet_alone(self, training, key):
        puppet, params, kernels, stats = make(dropout=0.3)
        key = None if key is None else jax.random.key(key)
        both = pj.apply_exits(puppet, params, None if training else stats, kernels, images(6), DEPTHS, jnp.float32, key)
        for depth in DEPTHS:
            own = None if training else stats[depth]
            logits, used = pj.apply_puppet(puppet, params, own, kernels, images(6), depth, key=key)
            np.testing.assert_allclose(both[depth][0], logits, atol=1e-5)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), both[depth][1], used)

    def test_shared_layers_run_once(self, nested):
        puppet, params, kernels, _ = nested

        def convolutions(depths):
            program = jax.make_jaxpr(
                lambda x: [v[0] for v in pj.apply_exits(*nested[:2], None, kernels, x, depths).values()]
            )
            return str(program(images(2))).count("conv_general_dilated[")

        alone = [convolutions((depth,)) for depth in DEPTHS]
        assert alone == [3, 5]
        assert convolutions(DEPTHS) == sum(alone) - puppet.shared_layers(*DEPTHS)

    def test_gradients_are_those_of_the_sum(self, nested):
        puppet, params, kernels, _ = nested

        def loss(depths):
            return lambda kernels: sum(
                jnp.square(logits).sum()
                for logits, _ in pj.apply_exits(puppet, params, None, kernels, images(4), depths).values()
            )

        both, *alone = (jax.grad(loss(depths))(kernels) for depths in (DEPTHS, DEPTHS[:1], DEPTHS[1:]))
        jax.tree.map(lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=2e-3, atol=2e-3), both, *alone)

    def test_refuses_puppets_that_share_no_kernels(self):
        puppet = pj.Puppet(channels=(4, 6))
        puppeteer = pj.init_puppeteer(jax.random.key(0), 6)
        params = pj.init_puppet(jax.random.key(0), puppet, puppeteer, 2)
        kernels = pj.generate_kernels(puppeteer, H, puppet.kernel_shapes(2))
        with pytest.raises(ValueError, match=r"depths \(1, 2\) share kernels only if max_depth is given"):
            pj.apply_exits(puppet, params, None, kernels, images(2), (1, 2))


class TestOwnExit:
    """The shallow puppet with norms and a classifier of its own, every float of both changed from its start."""

    @staticmethod
    def make(depth, **changes):
        puppet, params, kernels, _ = make(exit_depth=depth, **changes)
        names = ("norm_scale", "norm_bias", "classifier_kernel", "classifier_bias", "exit")
        parts = {name: getattr(params, name) for name in names}
        leaves, tree = jax.tree.flatten(parts)
        keys = jax.random.split(jax.random.key(3), len(leaves))
        moved = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
        params = dataclasses.replace(params, **jax.tree.unflatten(tree, moved))
        found = pj.apply_exits(puppet, params, None, kernels, images(64, seed=9), (3, 4, 5))
        return puppet, params, kernels, {depth: stats for depth, (_, stats) in found.items()}

    @pytest.mark.parametrize(
        ("changes", "more"),
        [
            ({}, 2 * 8 + 8 * 10 + 10),  # stages 1-1-1 of 1-2-2: the last layer is its own
            ({"mirror": True}, 2 * 4 + 4 * 10 + 10),
            ({"affine": False}, 8 * 10 + 10),
            ({"classifier": "generated"}, 2 * 8),
            ({"depth_rule": "last"}, 8 * 10 + 10),
        ],
    )
    def test_floats(self, changes, more):
        assert pj.num_floats(make(exit_depth=3, **changes)[1]) - pj.num_floats(make(**changes)[1]) == more

    @pytest.mark.parametrize("changes", [{}, {"mirror": True}, {"classifier": "generated"}])
    def test_equals_a_plain_puppet_of_those_norms_and_that_classifier(self, changes):
        puppet, params, kernels, stats = self.make(3, **changes)
        plain = pj.Puppet(channels=(4, 6, 8), residual=True, affine=True, **changes)
        own = params.exit
        first = [tuple(stage[:1] for stage in norms[:2]) for norms in (params.norm_scale, params.norm_bias)]
        alone = dataclasses.replace(
            params,
            norm_scale=(*first[0], own.norm_scale[0][None]),
            norm_bias=(*first[1], own.norm_bias[0][None]),
            classifier_kernel=own.classifier_kernel,
            classifier_bias=own.classifier_bias,
            exit=None,
        )
        taken = [kernels[0], kernels[1], kernels[3], *kernels[5:]]
        expected, _ = pj.apply_puppet(plain, alone, stats[3], taken, images(3), 1)
        found, _ = pj.apply_puppet(puppet, params, stats[3], kernels, images(3), 3)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_the_deep_puppet_is_as_without(self):
        puppet, params, kernels, stats = self.make(3)
        without = dataclasses.replace(puppet, exit_depth=None), dataclasses.replace(params, exit=None)
        expected, _ = pj.apply_puppet(*without, stats[5], kernels, images(3), 5)
        found, _ = pj.apply_puppet(puppet, params, stats[5], kernels, images(3), 5)
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize("depths", [(3, 4, 5), (5, 4, 3)])
    @pytest.mark.parametrize("exit_depth", [3, 4])
    def test_puppets_together_equal_each_alone(self, exit_depth, depths):
        puppet, params, kernels, _ = self.make(exit_depth)
        together = pj.apply_exits(puppet, params, None, kernels, images(6), depths)
        for depth in depths:
            logits, _ = pj.apply_puppet(puppet, params, None, kernels, images(6), depth)
            np.testing.assert_allclose(together[depth][0], logits, atol=1e-5)

    @pytest.mark.parametrize(("exit_depth", "depths"), [(3, (3, 5)), (4, (4, 5)), (3, (3, 4)), (4, (3, 4))])
    def test_predictor_goes_on_from_what_both_share(self, exit_depth, depths):
        puppet, params, kernels, stats = self.make(exit_depth)
        assert puppet.shared_layers(*depths) == 2  # of 3 and 4 the third layer differs by its norm alone
        one = pj.EarlyExitPredictor(puppet, params, {depth: stats[depth] for depth in depths}, h=H, threshold=-1.0)
        expected, _ = pj.apply_puppet(puppet, params, stats[depths[1]], kernels, images(5), depths[1])
        np.testing.assert_allclose(one(images(5)), expected, atol=1e-5)

    def test_detach_wants_the_exit_that_it_is_for(self, nested):
        puppet, params, kernels, _ = nested
        with pytest.raises(ValueError, match=r"detach is for the puppet of exit_depth, None, .* depths \(3, 5\)"):
            pj.apply_exits(puppet, params, None, kernels, images(2), DEPTHS, detach=True)

    @pytest.mark.parametrize("changes", [{}, {"depth_rule": "last"}, {"classifier": "generated"}])
    def test_detached_it_trains_alone_and_the_deep_puppet_as_without(self, changes):
        puppet, params, _, _ = self.make(3, **changes)
        weights = jax.random.normal(jax.random.key(5), (6, 10))  # a norm takes a plain sum of activations out

        def logits(params, detach, depths):
            kernels = pj.generate_kernels(params.puppeteer, H, puppet.kernel_shapes(5))
            found = pj.apply_exits(puppet, params, None, kernels, images(6), depths, detach=detach)
            return {depth: found[depth][0] for depth in depths}

        def gradients(detach, *depths):
            return jax.grad(lambda params: sum((weights * x).sum() for x in logits(params, detach, depths).values()))

        jax.tree.map(np.testing.assert_array_equal, *(logits(params, detach, (3, 5)) for detach in (False, True)))
        together, alone, shallow = (
            gradients(True, 3, 5)(params),
            gradients(False, 5)(params),
            gradients(False, 3)(params),
        )
        assert np.abs(together.puppeteer.pointwise_kernel).max() > 0
        assert np.abs(shallow.puppeteer.pointwise_kernel).max() > 0  # what is cut off
        assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        rest = [dataclasses.replace(tree, exit=None) for tree in (together, alone)]
        jax.tree.map(assert_close, *rest)
        jax.tree.map(assert_close, together.exit, shallow.exit)

    @pytest.mark.parametrize("settings", [{"exit_depth": 0}, {"exit_depth": 5}, {"exit_depth": 3, "max_depth": None}])
    def test_refuses_other_depths(self, settings):
        with pytest.raises(ValueError, match="exit_depth must be at least 1 and less than max_depth"):
            make(**settings)


class TestPredictor:
    @pytest.mark.parametrize("n", [1, 5, 300])
    def test_answers_what_both_puppets_say(self, nested, n):
        one = predictor(nested)
        x = images(n)
        shallow, deep = one.exits(x)
        one.threshold = pj.exit_threshold(pj.doubt(shallow), 0.4) if n > 1 else 0.0
        logits, depths = one.route(x)
        expected, unsure = pj.combine_exits(shallow, deep, one.threshold)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
        np.testing.assert_array_equal(depths, np.where(unsure, 5, 3))
        assert n == 1 or 0 < unsure.sum() < n
        np.testing.assert_allclose(shallow[~unsure], logits[~unsure], atol=1e-6)
        np.testing.assert_allclose(deep[unsure], logits[unsure], atol=1e-5)

    def test_exits_are_the_puppets(self, nested):
        puppet, params, kernels, stats = nested
        found = predictor(nested).exits(images(3))
        for logits, depth in zip(found, DEPTHS, strict=True):
            expected, _ = pj.apply_puppet(puppet, params, stats[depth], kernels, images(3), depth)
            np.testing.assert_allclose(logits, expected, atol=1e-5)

    @pytest.mark.parametrize(("threshold", "depth"), [(None, 3), (-1.0, 5)])
    def test_none_or_all_go_on(self, nested, threshold, depth):
        assert set(predictor(nested, threshold=threshold).route(images(20))[1].tolist()) == {depth}

    def test_an_image_alone_gets_the_same_logits(self, nested):
        one = predictor(nested, threshold=0.5)
        x = images(9)
        alone = np.concatenate([one(x[i : i + 1]) for i in range(9)])
        np.testing.assert_allclose(one(x), alone, atol=1e-5)

    def test_kernels_are_generated_once_or_anew(self, nested):
        calls = []

        def generate(*args):
            calls.append(args)
            return pj.generate_kernels(*args)

        for adaptation, expected in (("level", 1), ("sample", 3)):
            calls.clear()
            one = predictor(nested, threshold=0.5, adaptation=adaptation, generate=generate)
            results = [one(images(2)) for _ in range(3)]
            assert len(calls) == expected
            np.testing.assert_array_equal(results[0], results[2])

    def test_few_programs_for_many_numbers_of_images(self, nested):
        one = predictor(nested, threshold=0.5)
        before = early_exit._start._cache_size(), early_exit._go_on._cache_size()
        for n in range(1, 40):
            one(images(n))
        assert early_exit._start._cache_size() - before[0] <= 4
        assert early_exit._go_on._cache_size() - before[1] <= 5 * 4

    def test_takes_bfloat16(self, nested):
        one = predictor(nested, dtype=jnp.bfloat16, threshold=-1.0)
        logits = one(images(4))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, predictor(nested, threshold=-1.0)(images(4)), atol=0.1)

    def test_refuses_no_images(self, nested):
        with pytest.raises(ValueError, match="images must not be empty"):
            predictor(nested)(images(0))

    @pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
    def test_refuses_values_outside_of_images(self, nested, value):
        x = images(2).astype(np.float32) / 255
        assert np.isfinite(predictor(nested)(x)).all()
        x[1, 3, 2, 0] = value
        for call in (predictor(nested), predictor(nested).exits):
            with pytest.raises(ValueError, match=r"at index \(1, 3, 2, 0\)"):
                call(x)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"puppet": pj.Puppet()}, "must be nested for early exits"),
            ({"batch_stats": {3: ()}}, r"must be of two depths, got \[3\]"),
            ({"adaptation": "image"}, "must be 'level' or 'sample', got 'image'"),
        ],
    )
    def test_refuses(self, nested, settings, message):
        puppet, params, _, stats = nested
        given = {"puppet": puppet, "params": params, "batch_stats": stats, "h": H} | settings
        with pytest.raises(ValueError, match=message):
            pj.EarlyExitPredictor(**given)


def test_macs_of_going_on():
    puppet = pj.Puppet(channels=(4, 6, 8), depth_rule="total", stem=True, max_depth=5)
    n, shared = 8 * 8, puppet.shared_layers(3, 5)
    stem, second, third = 9 * 3 * 4 * n, 9 * 4 * 6 * n // 4, 9 * 6 * 8 * n // 16
    assert pj.puppet_macs(puppet, 3, (8, 8)) == stem + second + third + 80
    deep = pj.puppet_macs(puppet, 5, (8, 8))
    assert pj.puppet_macs(puppet, 5, (8, 8), first=shared) == deep - stem - second
