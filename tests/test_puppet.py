import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj
from experiments.networks.macs import count_macs
from puppet_jax.puppeteer import IDLE_BIASES

PAPER = pj.Puppet()


def make(puppet, depth=3, seed=0):
    puppeteer = pj.init_puppeteer(jax.random.key(seed), puppet.max_channels)
    params = pj.init_puppet(jax.random.key(seed + 1), puppet, puppeteer, depth)
    return params, random_kernels(puppet, depth)


def random_kernels(puppet, depth, *sets):
    """Of the shapes that are generated, each about as large as a network starts with."""
    rng = np.random.default_rng(1)
    shapes = puppet.kernel_shapes(depth)
    return tuple(jnp.asarray(rng.normal(size=(*sets, *shape)) * 0.2, jnp.float32) for shape in shapes)


def images(n=4, size=8, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def reference(puppet, params, kernels, x, stats, depth):
    """A plain NumPy forward pass, float64: shifted products, no library convolution."""
    x = 4 * x.astype(np.float64) / 255 - 2
    n = 0
    for stage in range(len(puppet.channels)):
        for place in range(puppet.layers_per_stage(depth)[stage]):
            if place == 0 and stage > 0:
                b, h, w, c = x.shape
                x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
            k = np.asarray(kernels[n], np.float64)
            r = k.shape[0] // 2
            p = np.pad(x, ((0, 0), (r, r), (r, r), (0, 0)))
            y = sum(
                p[:, i : i + x.shape[1], j : j + x.shape[2]] @ k[i, j]
                for i in range(k.shape[0])
                for j in range(k.shape[1])
            )
            mean, variance = (y.mean((0, 1, 2)), y.var((0, 1, 2))) if stats is None else stats[n]
            y = (y - np.asarray(mean)) / np.sqrt(np.asarray(variance) + 1e-5)
            if puppet.affine:
                y = y * np.asarray(params.norm_scale[stage][place]) + np.asarray(params.norm_bias[stage][place])
            y = np.maximum(y, 0)
            x = x + y if puppet.residual and place else y
            n += 1
    features = x.mean((1, 2))
    if puppet.classifier == "generated":
        return features @ np.asarray(kernels[-1], np.float64)[0, 0]
    return features @ np.asarray(params.classifier_kernel) + np.asarray(params.classifier_bias)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("classifier", ["linear", "generated"])
def test_matches_a_plain_loop_in_both_modes(affine, residual, classifier):
    puppet = pj.Puppet(channels=(4, 6), num_classes=5, affine=affine, residual=residual, classifier=classifier)
    params, kernels = make(puppet, 2)
    if affine:
        noise = lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(7), leaf.shape)  # noqa: E731
        params = dataclasses.replace(
            params, norm_scale=jax.tree.map(noise, params.norm_scale), norm_bias=jax.tree.map(noise, params.norm_bias)
        )
    x = images(size=9)  # odd: the last row and column are dropped by pooling
    logits, stats = pj.apply_puppet(puppet, params, None, kernels, x, 2)
    np.testing.assert_allclose(logits, reference(puppet, params, kernels, x, None, 2), rtol=1e-4, atol=1e-5)
    again, used = pj.apply_puppet(puppet, params, stats, kernels, x, 2)
    np.testing.assert_allclose(again, logits, rtol=1e-5, atol=1e-6)
    other = [pj.BatchStats(s.mean + 0.1, s.variance * 1.5) for s in stats]
    logits, _ = pj.apply_puppet(puppet, params, other, kernels, x, 2)
    np.testing.assert_allclose(logits, reference(puppet, params, kernels, x, other, 2), rtol=1e-4, atol=1e-5)
    assert used == stats


def test_uint8_and_floats_are_the_same_image():
    puppet = pj.Puppet(channels=(4,))
    params, kernels = make(puppet, 2)
    x = images()
    a, _ = pj.apply_puppet(puppet, params, None, kernels, x, 2)
    b, _ = pj.apply_puppet(puppet, params, None, kernels, (x / 255).astype(np.float32), 2)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classifier", ["linear", "generated"])
@pytest.mark.parametrize("sets", [1, 2, 4])
def test_sets_of_kernels_serve_their_part_of_the_batch(classifier, sets):
    puppet = pj.Puppet(channels=(4, 6), num_classes=5, classifier=classifier)
    params, _ = make(puppet, 1)
    kernels = random_kernels(puppet, 1, sets)
    x = images(4)
    stats = pj.init_batch_stats(puppet, 1)
    logits, _ = pj.apply_puppet(puppet, params, stats, kernels, x, 1)
    parts = [
        pj.apply_puppet(puppet, params, stats, [kernel[i] for kernel in kernels], part, 1)[0]
        for i, part in enumerate(np.split(x, sets))
    ]
    np.testing.assert_allclose(logits, np.concatenate(parts), rtol=1e-4, atol=1e-5)


def test_bfloat16_changes_activations_only():
    puppet = pj.Puppet(channels=(8,))
    params, kernels = make(puppet, 2)
    exact, _ = pj.apply_puppet(puppet, params, None, kernels, images(), 2)
    rough, stats = pj.apply_puppet(puppet, params, None, kernels, images(), 2, jnp.bfloat16)
    assert rough.dtype == jnp.float32 and stats[0].mean.dtype == jnp.float32
    assert 0 < np.abs(np.asarray(exact - rough)).max() < 0.1


class TestDropout:
    PUPPET = pj.Puppet(channels=(4, 8), dropout=0.4)

    def stats(self, key):
        params, kernels = make(self.PUPPET, 1)
        return pj.apply_puppet(self.PUPPET, params, None, kernels, images(), 1, key=key)[1]

    def test_without_a_key_nothing_is_dropped(self):
        params, kernels = make(self.PUPPET, 1)
        plain = dataclasses.replace(self.PUPPET, dropout=0.0)
        dropped, _ = pj.apply_puppet(self.PUPPET, params, None, kernels, images(), 1)
        for puppet, key in ((plain, None), (plain, jax.random.key(0))):
            np.testing.assert_array_equal(
                dropped, pj.apply_puppet(puppet, params, None, kernels, images(), 1, key=key)[0]
            )

    def test_keeps_the_mean_behind_a_pooling_and_leaves_the_first_stage_alone(self):
        """The second layer is linear in what is dropped: its mean stays on average, its variance grows."""
        without = self.stats(None)
        many = jax.lax.map(self.stats, jax.random.split(jax.random.key(1), 400))
        np.testing.assert_allclose(many[0].mean[0], without[0].mean, rtol=1e-5)
        error = np.asarray(many[1].mean).std(axis=0) / 20
        assert (np.abs(many[1].mean.mean(axis=0) - without[1].mean) < 5 * error).all()
        assert (many[1].variance.mean(axis=0) > without[1].variance).all()

    def test_the_key_decides(self):
        first, again, other = (self.stats(jax.random.key(seed))[1].mean for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


class TestMirror:
    @staticmethod
    def puppet(**options):
        return pj.Puppet(channels=(4, 6), num_classes=5, mirror=True, affine=True, residual=True, **options)

    @staticmethod
    def perturbed(params):
        noise = lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(7), leaf.shape)  # noqa: E731
        return dataclasses.replace(
            params, norm_scale=jax.tree.map(noise, params.norm_scale), norm_bias=jax.tree.map(noise, params.norm_bias)
        )

    @pytest.mark.parametrize("classifier", ["linear", "generated"])
    def test_a_mirror_image_gets_the_same_logits(self, classifier):
        puppet = self.puppet(classifier=classifier)
        params, kernels = make(puppet, 2)
        x = images(size=12)
        for stats in (None, pj.apply_puppet(puppet, params, None, kernels, x[:2], 2)[1]):
            logits, _ = pj.apply_puppet(puppet, params, stats, kernels, x, 2)
            mirrored, _ = pj.apply_puppet(puppet, params, stats, kernels, x[:, :, ::-1], 2)
            np.testing.assert_allclose(mirrored, logits, rtol=1e-4, atol=1e-5)
            assert np.ptp(logits, axis=0).max() > 0.01  # and images that are no mirror images other ones

    def test_is_a_plain_puppet_whose_kernels_are_tied(self):
        puppet = self.puppet()
        params, kernels = make(puppet, 2)
        params = self.perturbed(params)
        rng = np.random.default_rng(3)
        widths = [kernel.shape[-1] for kernel in kernels]
        stats = [pj.BatchStats(rng.normal(size=n), rng.uniform(0.5, 2, n)) for n in widths]

        def tied(n, kernel):
            kernel = np.asarray(kernel)
            c_in = kernel.shape[2]
            partner = np.arange(c_in) if n == 0 else (np.arange(c_in) + c_in // 2) % c_in
            return np.concatenate([kernel, kernel[:, ::-1][:, :, partner]], axis=-1)

        twice = lambda leaf: np.concatenate([leaf, leaf], axis=-1)  # noqa: E731
        plain = dataclasses.replace(puppet, mirror=False)
        plain_params = dataclasses.replace(
            params,
            norm_scale=jax.tree.map(twice, params.norm_scale),
            norm_bias=jax.tree.map(twice, params.norm_bias),
            classifier_kernel=np.concatenate([params.classifier_kernel, params.classifier_kernel]) / 2,
        )
        x = images(size=9)
        logits, _ = pj.apply_puppet(puppet, params, stats, kernels, x, 2)
        expected = reference(
            plain,
            plain_params,
            [tied(n, kernel) for n, kernel in enumerate(kernels)],
            x,
            [jax.tree.map(twice, one) for one in stats],
            2,
        )
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

    def test_stores_half_of_all_but_the_puppeteer(self):
        plain = pj.Puppet(affine=True)
        halved = dataclasses.replace(plain, mirror=True)

        def beside(puppet):
            def init():
                return pj.init_puppet(jax.random.key(0), puppet, pj.init_puppeteer(jax.random.key(0), 512), 5)

            return pj.num_floats(jax.eval_shape(init)) - 269_824

        assert beside(halved) - 10 == (beside(plain) - 10) // 2
        assert halved.kernel_shapes(1) == tuple((*shape[:-1], shape[-1] // 2) for shape in plain.kernel_shapes(1))
        for puppet in (plain, halved):
            params = jax.eval_shape(lambda puppet=puppet: make(puppet, 3)[0])
            kernels = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in puppet.kernel_shapes(3)]
            stats = pj.init_batch_stats(puppet, 3)

            def macs(batch, puppet=puppet, params=params, kernels=kernels, stats=stats):
                x = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
                return count_macs(
                    lambda *given: pj.apply_puppet(puppet, given[0], stats, *given[1:], 3), params, kernels, x
                )

            image = macs(2) - macs(1)  # without what statistics take
            assert pj.puppet_macs(puppet, 3, (32, 32)) == pytest.approx(image, rel=1e-3)
        assert pj.puppet_macs(halved, 3, (32, 32)) < 0.7 * pj.puppet_macs(plain, 3, (32, 32))

    def test_sets_of_kernels(self):
        puppet = self.puppet()
        params, _ = make(puppet, 2)
        kernels = random_kernels(puppet, 2, 2)
        x, stats = images(4), pj.init_batch_stats(puppet, 2)
        logits, _ = pj.apply_puppet(puppet, params, stats, kernels, x, 2)
        for i in range(2):
            one = [kernel[i] for kernel in kernels]
            expected, _ = pj.apply_puppet(puppet, params, stats, one, x[2 * i : 2 * i + 2], 2)
            np.testing.assert_allclose(logits[2 * i : 2 * i + 2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "depth", "expected"),
    [
        ("per_stage", 3, (3, 3, 3, 3)),
        ("per_stage", 1, (1, 1, 1, 1)),
        ("total", 1, (1, 1, 1, 1)),
        ("total", 4, (1, 1, 1, 1)),
        ("total", 5, (1, 1, 1, 2)),
        ("total", 10, (2, 2, 3, 3)),
        ("total", 19, (4, 5, 5, 5)),
    ],
)
def test_depth_rules(rule, depth, expected):
    puppet = pj.Puppet(depth_rule=rule)
    assert puppet.layers_per_stage(depth) == expected
    assert len(puppet.kernel_shapes(depth)) == sum(expected)


class TestLayers:
    PUPPET = pj.Puppet(channels=(4, 6, 8), layers=(1, 3, 2), affine=True)

    def test_are_as_given(self):
        assert self.PUPPET.layers_per_stage(6) == (1, 3, 2) and self.PUPPET.only_depth == 6
        by_rule = pj.Puppet(channels=(4, 6, 8), depth_rule="total", stem=True)
        assert dataclasses.replace(self.PUPPET, layers=(1, 2, 3)).kernel_shapes(6) == by_rule.kernel_shapes(6)

    def test_are_the_depth_of_the_params_unless_another_is_given(self):
        puppeteer = pj.init_puppeteer(jax.random.key(0), 8)
        shapes = [leaf.shape for leaf in pj.init_puppet(jax.random.key(1), self.PUPPET, puppeteer).norm_scale]
        assert shapes == [(1, 4), (3, 6), (2, 8)]
        with pytest.raises(ValueError, match="has many depths, by the rule 'per_stage'"):
            pj.init_puppet(jax.random.key(1), pj.Puppet(channels=(4, 8)), puppeteer)

    @pytest.mark.parametrize("depth", [0, 1, 7])
    def test_leave_no_other_depth(self, depth):
        with pytest.raises(ValueError, match=rf"the only depth of layers \(1, 3, 2\) is 6, got {depth}"):
            self.PUPPET.convolutions(depth)


def test_the_puppet_fills_in_settings_of_a_puppeteer():
    settings = {"max_channels": None, "kernel_size": None, "seed": 3}
    puppet = pj.Puppet(channels=(4, 8), kernel_size=5)
    assert puppet.puppeteer_settings(settings) == {"max_channels": 8, "kernel_size": 5, "seed": 3}
    assert puppet.puppeteer_settings({"max_channels": 4}) == {"max_channels": 4}


def test_shapes_of_the_papers_puppet():
    shapes = PAPER.kernel_shapes(5)
    assert shapes[0] == (3, 3, 3, 64) and shapes[5] == (3, 3, 64, 128) and shapes[-1] == (3, 3, 512, 512)
    weights = sum(int(np.prod(shape)) for shape in shapes)
    assert len(shapes) == 20 and 14e6 < weights < 17e6
    assert dataclasses.replace(PAPER, classifier="generated").kernel_shapes(5)[-1] == (1, 1, 512, 10)


def test_macs_by_hand():
    puppet = pj.Puppet(channels=(4, 8), num_classes=10)
    # 3->4 and 4->4 at 8x8; 4->8 and 8->8 at 4x4; classifier
    expected = 9 * (3 * 4 + 4 * 4) * 64 + 9 * (4 * 8 + 8 * 8) * 16 + 80
    assert pj.puppet_macs(puppet, 2, (8, 8)) == expected
    puppeteer = jax.eval_shape(lambda: pj.init_puppeteer(jax.random.key(0), 512))
    assert round(pj.generator_macs(puppeteer, 10) / 1e9, 2) == 12.34  # the papers' Puppet-CNN
    assert round(pj.generator_macs(puppeteer, 19) / 1e9, 2) == 23.44  # the papers' Puppet-ResNet


def test_stored_bytes_of_each_option():
    bare = pj.Puppet(classifier="generated")
    linear = pj.Puppet()
    affine = pj.Puppet(classifier="generated", affine=True)

    def stored(puppet):
        def init():
            return pj.init_puppet(jax.random.key(0), puppet, pj.init_puppeteer(jax.random.key(0), 512), 5)

        return pj.num_floats(jax.eval_shape(init))

    assert stored(bare) == 269_824  # the papers' 1.08 MB: nothing but the puppeteer
    assert stored(linear) == 269_824 + 512 * 10 + 10
    assert stored(affine) == 269_824 + 2 * 5 * (64 + 128 + 256 + 512)


def test_gradient_is_of_the_same_class_and_reaches_every_leaf():
    puppet = pj.Puppet(channels=(4, 6), num_classes=5, affine=True)
    params, _ = make(puppet, 2)

    def loss(params):
        kernels = pj.generate_kernels(params.puppeteer, 4.2, puppet.kernel_shapes(2))
        return jnp.square(pj.apply_puppet(puppet, params, None, kernels, images(), 2)[0]).sum()

    grads = jax.jit(jax.grad(loss))(params)
    assert isinstance(grads, pj.PuppetParams) and isinstance(grads.puppeteer, pj.Puppeteer)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        if not name.endswith(IDLE_BIASES):
            assert np.abs(leaf).max() > 0, name


@pytest.mark.parametrize(
    ("rule", "depth", "expected"),
    [
        ("per_stage", 3, (1, 3, 3, 3)),
        ("total", 1, (1, 1, 1, 1)),
        ("total", 8, (1, 2, 2, 3)),
        ("total", 9, (1, 2, 3, 3)),
    ],
)
def test_a_stem_has_one_layer(rule, depth, expected):
    puppet = pj.Puppet(depth_rule=rule, stem=True)
    assert puppet.layers_per_stage(depth) == expected
    stages = [layer.stage for layer in puppet.convolutions(depth)]
    assert stages == [stage for stage, count in enumerate(expected) for _ in range(count)]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": ()}, "channels"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"dropout": -0.1}, "dropout must be in"),
        ({"channels": (4,), "stem": True}, "a stem needs at least one stage behind it"),
        ({"channels": (4, 0)}, "channels"),
        ({"channels": (4, 5), "mirror": True}, "channels must be even with mirror"),
        ({"num_classes": 0}, "num_classes"),
        ({"kernel_size": 2}, "kernel_size"),
        ({"channels": (4, 8), "layers": (1,)}, r"layers must be a positive integer for each of 2 stages, got \(1,\)"),
        ({"channels": (4, 8), "layers": (1, 0)}, "layers must be at least 1, got 0"),
        ({"channels": (4, 8), "layers": (1, 2), "stem": True}, "give either layers or those"),
        ({"channels": (4, 8), "layers": (1, 2), "depth_rule": "total"}, "leave nothing to depth_rule 'total'"),
        ({"depth_rule": "each"}, "depth_rule"),
        ({"classifier": "none"}, "classifier"),
    ],
)
def test_refuses_bad_architectures(arguments, message):
    with pytest.raises(ValueError, match=message):
        pj.Puppet(**arguments)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("with_it", "without", "what"),
    [
        ({"affine": True}, {}, "affine norms"),
        ({}, {"classifier": "generated"}, "weights of a classifier"),
    ],
)
def test_refuses_floats_of_another_puppet(with_it, without, what):
    puppets = [pj.Puppet(channels=(4, 8, 16), **options) for options in (with_it, without)]
    for puppet, other, message in zip(puppets, puppets[::-1], ("must have", "must not have"), strict=True):
        params, _ = make(other, 2)
        _, kernels = make(puppet, 2)
        with pytest.raises(ValueError, match=f"{message} {what}; make them for this puppet"):
            pj.apply_puppet(puppet, params, None, kernels, images(), 2)


@pytest.mark.usefixtures("without_type_checks")
def test_refuses_what_does_not_fit():
    puppet = pj.Puppet(channels=(4, 8, 16))
    params, kernels = make(puppet, 1)
    with pytest.raises(ValueError, match="kernel_size of at least 3 is needed, got 1"):
        pj.init_puppet(jax.random.key(0), puppet, pj.init_puppeteer(jax.random.key(0), 16, kernel_size=1), 1)
    with pytest.raises(ValueError, match=r"\(batch, height, width, 3\)"):
        pj.apply_puppet(puppet, params, None, kernels, images(channels=1), 1)
    with pytest.raises(ValueError, match="too small for 2 poolings"):
        pj.apply_puppet(puppet, params, None, kernels, images(size=3), 1)
    with pytest.raises(ValueError, match="kernel_shapes"):
        pj.apply_puppet(puppet, params, None, kernels[:-1], images(), 1)
    with pytest.raises(ValueError, match="divide the batch"):
        pj.apply_puppet(puppet, params, None, [jnp.stack([k, k]) for k in kernels], images(3), 1)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        puppet.layers_per_stage(0)
