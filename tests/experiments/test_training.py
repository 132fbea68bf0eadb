"""One training step, augmentation, batch-norm statistics, the optimiser."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import puppet_jax as pj
from experiments import training
from experiments.config import Config
from experiments.evaluation import accuracy
from experiments.networks import make_network
from experiments.training import (
    GREY,
    Data,
    cut_out,
    init_state,
    make_optimizer,
    make_stats_estimator,
    make_train_step,
    shift,
)

N = 16
CONFIG = Config(channels=(8,), num_levels=1, batch_size=N, learning_rate=1e-2, weight_decay=0.01, affine=True)


def setup(config, num_steps=20):
    network = make_network(config, 10, (8, 8, 1))
    tx = make_optimizer(config, network, num_steps)
    return network, tx, init_state(config, network, (1,), tx)


@pytest.fixture(scope="module")
def data():
    """Sixteen images of depth 1, in order of complexity."""
    rng = np.random.Generator(np.random.PCG64(0))
    images = rng.integers(0, 256, (N, 8, 8, 1), np.uint8)
    labels = rng.integers(0, 10, N).astype(np.int32)
    return Data(jnp.asarray(images), jnp.asarray(labels), jnp.linspace(0.8, 1.6, N))


@pytest.fixture(scope="module")
def trained(data):
    """Losses of ten steps on the same images, and the state after them."""
    network, tx, state = setup(CONFIG)
    train_step = make_train_step(CONFIG, network, tx)
    losses = []
    for _ in range(10):
        state, metrics = train_step(state, data, np.arange(N, dtype=np.int32), depth=1)
        assert set(metrics) == {"loss", "correct"}
        losses.append(float(metrics["loss"]))
    return network, state, losses


@pytest.fixture(scope="module")
def estimate(trained):
    return make_stats_estimator(CONFIG, trained[0])


@functools.partial(jax.jit, static_argnames="network")
def forward(network, params, images, h):
    """Logits and batch statistics in training mode, all images with the kernels of `h`."""
    kernels = pj.generate_kernels(params.puppeteer, h, network.puppet.kernel_shapes(1))
    return pj.apply_puppet(network.puppet, params, None, kernels, images, 1)


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


class TestTrainStep:
    def test_ten_steps_decrease_the_loss(self, trained):
        _, state, losses = trained
        assert int(state.step) == 10
        assert abs(losses[0] - np.log(10)) < 1  # nothing is known yet
        assert losses[-1] < losses[0] - 0.1
        assert min(losses) == losses[-1]

    def test_every_parameter_moves(self, trained):
        _, state, _ = trained
        before = setup(CONFIG)[2]
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(state.params), strict=True
        ):
            assert np.abs(np.asarray(new) - np.asarray(old)).max() > 0, jax.tree_util.keystr(path)

    def test_first_loss_is_that_of_the_puppet(self, data, trained):
        """The loss before the first update is the cross-entropy of the puppet of the initial parameters."""
        network, _, losses = trained
        params = setup(CONFIG)[2].params
        logits, _ = forward(network, params, data.images, data.h.mean())
        assert losses[0] == pytest.approx(accuracy(np.asarray(logits), np.asarray(data.labels))["loss"], rel=1e-5)

    def test_bfloat16_is_of_activations_only(self, data, trained):
        config = dataclasses.replace(CONFIG, dtype="bfloat16")
        network, tx, state = setup(config)
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, state)
        state, metrics = make_train_step(config, network, tx)(state, data, np.arange(N, dtype=np.int32), depth=1)
        assert jax.tree.map(lambda leaf: leaf.dtype, state) == dtypes
        assert {leaf.dtype for leaf in floats(state)} == {jnp.dtype("float32")}
        assert all(np.isfinite(leaf).all() for leaf in floats(state))
        assert metrics["loss"].dtype == jnp.float32
        loss = float(metrics["loss"])
        assert loss != trained[2][0]  # it did compute otherwise
        assert loss == pytest.approx(trained[2][0], abs=0.1)

    def test_runs_of_all_seeds_share_a_program(self, data):
        """Shifts and dropout are drawn with the seed, which is an argument: no seed is compiled for."""
        config = dataclasses.replace(CONFIG, channels=(4, 8), dropout=0.5, augment="crop")
        network, tx, state = setup(config)
        programs, losses = set(), set()
        for seed in (0, 1):
            train_step = make_train_step(dataclasses.replace(config, seed=seed), network, tx)
            args, depth = (jax.tree.map(jnp.copy, state), data, np.arange(N, dtype=np.int32)), {"depth": 1}
            programs.add(train_step.func.lower(*args, **depth, **train_step.keywords).as_text())
            losses.add(float(train_step(*args, **depth)[1]["loss"]))
        assert len(programs) == 1
        assert len(losses) == 2


class TestInitState:
    def test_is_a_function_of_the_configuration(self):
        first, second = setup(CONFIG)[2], setup(CONFIG)[2]
        jax.tree.map(np.testing.assert_array_equal, first, second)
        other = setup(dataclasses.replace(CONFIG, seed=1))[2]
        assert (other.params.puppeteer.pointwise_kernel != first.params.puppeteer.pointwise_kernel).any()

    def test_the_state_holds_the_widest_layer_or_what_was_asked_for(self):
        for asked, expected in ((None, 8), (12, 12), (4, 4)):
            config = dataclasses.replace(CONFIG, max_channels=asked)
            state = jax.eval_shape(lambda config=config: setup(config)[2])
            assert state.params.puppeteer.max_channels == expected

    def test_affine_norms_suffice_for_the_deepest_bucket(self):
        network = make_network(CONFIG, 10, (8, 8, 1))
        tx = make_optimizer(CONFIG, network, 10)
        state = jax.eval_shape(lambda: init_state(CONFIG, network, (1, 3), tx))
        assert [leaf.shape for leaf in state.params.norm_scale] == [(3, 8)]


class TestOptimizer:
    def updates(self, config):
        """Of parameters that are one where the gradient is zero."""
        tx = make_optimizer(config, make_network(config, 10, (8, 8, 1)), 10)
        params = jax.tree.map(
            lambda leaf: np.ones(leaf.shape, leaf.dtype), jax.eval_shape(lambda: setup(config)[2].params)
        )
        zeros = jax.tree.map(np.zeros_like, params)
        return jax.jit(lambda: tx.update(zeros, tx.init(params), params)[0])()

    def test_weight_decay_touches_matrices_only(self):
        """With no gradient a matrix moves by -learning rate x decay x itself; norms and biases stay."""
        config = dataclasses.replace(CONFIG, weight_decay=0.5)
        updates = self.updates(config)
        matrices = {"puppeteer.depthwise_kernel", "puppeteer.pointwise_kernel", "classifier_kernel"}
        for path, update in jax.tree_util.tree_leaves_with_path(updates):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            expected = -1e-2 * 0.5 if name in matrices else 0.0
            np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)
            matrices.discard(name)
        assert not matrices

    def test_none_is_adam(self):
        config = dataclasses.replace(CONFIG, weight_decay=0.0)
        assert all((np.asarray(update) == 0).all() for update in jax.tree.leaves(self.updates(config)))

    def test_muon_turns_all_directions_of_a_matrix_by_as_much(self):
        """Nearly orthogonal updates of the learning rate's root mean square, whatever the gradient; Adam elsewhere."""
        config = dataclasses.replace(CONFIG, channels=(32,), optimizer="muon", weight_decay=0.0)
        tx = make_optimizer(config, make_network(config, 10, (8, 8, 1)), 10)
        shapes = jax.eval_shape(lambda: setup(config)[2].params)
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
        grads = jax.tree.map(lambda leaf: (10 ** rng.uniform(-3, 1) * leaf).astype(np.float32), params)
        updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        for update in (updates.puppeteer.pointwise_kernel, updates.classifier_kernel):
            values = np.linalg.svd(update, compute_uv=False)
            assert values.max() < 4 * values.min()
            assert np.sqrt(np.square(update).mean()) == pytest.approx(config.learning_rate, rel=0.3)
        for update in (updates.puppeteer.depthwise_kernel, updates.puppeteer.norm1_scale, updates.classifier_bias):
            np.testing.assert_allclose(np.abs(update), np.abs(update).max(), rtol=0.01)  # Adam's first is a sign

    def test_muon_of_a_backbone_takes_kernels_for_matrices(self):
        config = Config(network="resnet20", num_layers=8, max_channels=16, kernels="stored", optimizer="muon")
        network = make_network(config, 10, (8, 8, 3))
        tx = make_optimizer(config, network, 10)
        rng = np.random.default_rng(0)
        shapes = jax.eval_shape(lambda: network.init(0, (7,)))
        params = {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in shapes.items()}
        updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
        kernels = {name: update for name, update in updates.items() if update.ndim == 4}
        assert len(kernels) == 7
        for update in kernels.values():
            values = np.linalg.svd(np.asarray(update).reshape(-1, update.shape[-1]), compute_uv=False)
            assert values.max() < 4 * values.min()

    @pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0), (10, 0), (1000, 50), (100_000, 500)])
    def test_schedule_warms_up_and_decays_to_zero(self, num_steps, warmup):
        tx = make_optimizer(
            dataclasses.replace(CONFIG, weight_decay=0.0), make_network(CONFIG, 10, (8, 8, 1)), num_steps
        )
        params = pj.PuppetParams(puppeteer=jnp.ones(1))
        initial = tx.init(params)

        def rate(step):
            """From the update that fresh moments and a gradient of one give at this place of the schedule."""
            state = jax.tree.map(lambda leaf: jnp.full_like(leaf, step) if leaf.dtype == jnp.int32 else leaf, initial)
            update, _ = tx.update(params, state, params)
            count = step + 1
            return -float(update.puppeteer[0]) * np.sqrt(0.001 / (1 - 0.999**count)) / (0.1 / (1 - 0.9**count))

        assert rate(warmup) == pytest.approx(1e-2, rel=1e-2)
        if warmup:
            assert rate(0) == 0
            assert rate(warmup // 2) == pytest.approx(5e-3, rel=1e-2)
        assert rate(num_steps) == pytest.approx(0, abs=1e-6)
        if num_steps > 1:
            assert rate(warmup + (num_steps - warmup) // 2) == pytest.approx(5e-3, rel=1e-2)


class TestStatistics:
    def test_evaluation_equals_training_on_the_batch_they_are_of(self, data, trained, estimate):
        """Precise: with one batch that is all data, evaluation mode gives the logits of training mode."""
        network, state, _ = trained
        same = data._replace(h=jnp.full(N, 1.25))  # so that a sample's own kernels are those of the batch's mean
        stats = estimate(state.params, same, [(1, np.arange(N, dtype=np.int32))])
        assert list(stats) == [1]
        expected, _ = forward(network, state.params, data.images, jnp.float32(1.25))
        predictor = pj.Predictor(network.puppet, state.params, stats, adaptation="sample")
        logits = predictor(np.asarray(same.images), np.asarray(same.h))
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
        assert accuracy(logits, np.asarray(data.labels))["loss"] < np.log(10)

    def test_a_kernel_set_for_each_image_is_adaptation_by_sample(self, data, trained):
        network, state, _ = trained
        batches = [(1, np.arange(N, dtype=np.int32))]
        config = dataclasses.replace(CONFIG, adaptation="level", num_levels=N)
        level = make_stats_estimator(config, network)(state.params, data, batches)
        config = dataclasses.replace(CONFIG, adaptation="sample")
        sample = make_stats_estimator(config, network)(state.params, data, batches)
        jax.tree.map(np.testing.assert_array_equal, level, sample)
        _, shared = forward(network, state.params, data.images, data.h.mean())
        assert np.abs(np.asarray(shared[0].mean - sample[1][0].mean)).max() > 1e-5

    def test_are_pooled_over_batches(self, data, trained, estimate):
        """Mean and variance of the first layer over two batches of eight are those over all sixteen images."""
        network, state, _ = trained
        same = data._replace(h=jnp.full(N, 1.25))
        halves = [(1, np.arange(8, dtype=np.int32)), (1, np.arange(8, N, dtype=np.int32))]
        pooled = estimate(state.params, same, halves)[1][0]
        _, whole = forward(network, state.params, data.images, jnp.float32(1.25))
        np.testing.assert_allclose(pooled.mean, whole[0].mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(pooled.variance, whole[0].variance, rtol=1e-4)

    @pytest.fixture
    def given(self, monkeypatch, data):
        """Estimates with a forward pass whose batch statistics are given; `h` of a batch holds its indices."""

        def estimate(batches, mean, variance):
            def forward(config, network, params, batch, depth):
                return {depth: (None, (pj.BatchStats(mean(batch), jnp.full(1, variance)),))}

            monkeypatch.setattr(training, "_forward", forward)
            indices = Data(data.images, jnp.arange(N), jnp.arange(N, dtype=jnp.float32))
            return make_stats_estimator(CONFIG, None)(None, indices, batches)

        return estimate

    def test_variance_of_a_channel_far_from_zero(self, given):
        """A channel of mean 100 and variance 1e-4: the difference of two squares of 1e4 would be noise."""
        batches = [(1, np.full(N, i, np.int32)) for i in range(3)]
        stats = given(batches, lambda _: jnp.full(1, 100.0), 1e-4)[1][0]
        np.testing.assert_allclose(stats.mean, 100, rtol=1e-6)
        np.testing.assert_allclose(stats.variance, 1e-4, rtol=1e-2)

    def test_are_those_of_a_few_batches_of_each_depth(self, given, monkeypatch):
        monkeypatch.setattr(training, "STATS_BATCHES", 2)
        batches = [(depth, np.full(N, i, np.int32)) for depth, i in ((1, 2), (3, 7), (1, 4), (1, 9))]
        stats = given(batches, lambda batch: batch.h[:1], 1.0)
        assert sorted(stats) == [1, 3]
        np.testing.assert_allclose(stats[1][0].mean, 3)
        np.testing.assert_allclose(stats[1][0].variance, 1 + 1, rtol=1e-6)  # within and between batches
        np.testing.assert_allclose(stats[3][0].mean, 7)
        np.testing.assert_allclose(stats[3][0].variance, 1, rtol=1e-6)


SHIFT = jax.jit(shift, static_argnames="flip")


class TestShift:
    IMAGES = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (6, 8, 8, 3), np.uint8)

    def variants(self, image):
        """Where each of the 9 shifts, and each mirrored one, would end up."""
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect")
        crops = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
        return [crop.tobytes() for crop in crops], [crop[:, ::-1].tobytes() for crop in crops]

    def moved(self, seed, flip):
        return np.asarray(SHIFT(jax.random.key(seed), self.IMAGES, flip=flip))

    @pytest.mark.parametrize("flip", [False, True])
    def test_gives_each_image_moved_or_mirrored(self, flip):
        seen, mirrored = set(), 0
        for seed in range(30):
            result = self.moved(seed, flip)
            assert result.dtype == np.uint8
            for image, out in zip(self.IMAGES, result, strict=True):
                plain, mirror = self.variants(image)
                out = out.tobytes()
                assert out in plain or (flip and out in mirror)
                seen.add(plain.index(out) if out in plain else 9 + mirror.index(out))
                mirrored += out in mirror
        assert seen == set(range(18 if flip else 9))
        assert not flip or 60 < mirrored < 120  # of 180

    def test_is_a_function_of_the_key(self):
        np.testing.assert_array_equal(self.moved(3, True), self.moved(3, True))
        assert (self.moved(3, True) != self.moved(4, True)).any()


class TestCutOut:
    IMAGES = np.full((200, 8, 6, 3), 7, np.uint8)

    def blanked(self, seed, size=3):
        """Where images have become grey; nothing else has changed."""
        result = np.asarray(cut_out(jax.random.key(seed), self.IMAGES, size))
        assert result.dtype == np.uint8
        grey = result == GREY
        np.testing.assert_array_equal(result[~grey], 7)
        np.testing.assert_array_equal(grey, grey.any(axis=-1, keepdims=True).repeat(3, axis=-1))
        return grey[..., 0]

    def test_blanks_a_square_anywhere(self):
        """Every place of a 3 x 3 square whose centre is a pixel occurs, also those that the border cuts."""
        expected = set()
        for row in range(8):
            for column in range(6):
                square = np.zeros((8, 6), bool)
                square[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
                expected.add(square.tobytes())
        seen = {square.tobytes() for seed in range(3) for square in self.blanked(seed)}
        assert seen == expected

    def test_an_even_size(self):
        sizes = self.blanked(0, 2).sum(axis=(1, 2))
        assert sizes.max() == 4 and set(sizes) <= {1, 2, 4}

    def test_blanks_images_in_training_alone(self, data):
        """A square of twice the image leaves nothing: one loss. Statistics for evaluation are those of whole images."""
        config = dataclasses.replace(CONFIG, cutout=16)
        network, tx, state = setup(config)
        batch = np.arange(N, dtype=np.int32)
        logits, _ = forward(network, state.params, jnp.full_like(data.images, GREY), data.h.mean())
        expected = make_stats_estimator(CONFIG, network)(state.params, data, [(1, batch)])
        stats = make_stats_estimator(config, network)(state.params, data, [(1, batch)])
        jax.tree.map(np.testing.assert_array_equal, stats, expected)
        loss = float(make_train_step(config, network, tx)(state, data, batch, depth=1)[1]["loss"])
        assert loss == pytest.approx(accuracy(np.asarray(logits), np.asarray(data.labels))["loss"], rel=1e-5)

    def test_squares_differ_between_steps(self, data):
        config = dataclasses.replace(CONFIG, cutout=4, learning_rate=1e-30)
        network, tx, state = setup(config)
        train_step, losses = make_train_step(config, network, tx), []
        for _ in range(2):
            state, metrics = train_step(state, data, np.arange(N, dtype=np.int32), depth=1)
            losses.append(float(metrics["loss"]))
        assert losses[0] != losses[1]
