"""One training step, augmentation, batch-norm statistics, the optimiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_network import Toy

import puppet_jax as pj
from experiments.config import Adaptive, ByComplexity, Config, DeepBackbone, Optim, PuppetCNN
from experiments.evaluation.accuracy import accuracy
from experiments.fields import replace
from experiments.training import statistics
from experiments.training.augment import GREY, cut_out, shift
from experiments.training.optimizer import make_optimizer
from experiments.training.statistics import make_stats_estimator
from experiments.training.step import Data, apply_batch, init_state, kernel_levels, make_train_step, seed_of
from puppet_jax.puppeteer import IDLE_BIASES

N = 16
CONFIG = Config(
    network=PuppetCNN(channels=(8,), depth=ByComplexity(), kernels=Adaptive(levels_per_batch=1), affine=True),
    optim=Optim(batch_size=N, learning_rate=1e-2, weight_decay=0.01),
)
TOY = replace(CONFIG, network=Toy())  # compiles at once


def setup(config, num_steps=20):
    network = config.network.make(10, (8, 8, 1))
    tx = make_optimizer(config.optim, network, num_steps)
    return network, tx, init_state(config, network, (1,), tx)


def shapes_of(config):
    """Parameters of a network, as shapes."""
    return jax.eval_shape(lambda: config.network.make(10, (8, 8, 1)).init(0, (1,)))


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

    def test_every_parameter_moves_but_biases_before_a_norm(self, trained):
        _, state, _ = trained
        before = setup(CONFIG)[2]
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(state.params), strict=True
        ):
            name = jax.tree_util.keystr(path)
            stays = name.endswith(IDLE_BIASES)
            assert (np.abs(np.asarray(new) - np.asarray(old)).max() > 0) != stays, name

    def test_first_loss_is_that_of_the_puppet(self, data, trained):
        """The loss before the first update is the cross-entropy of the puppet of the initial parameters."""
        network, _, losses = trained
        params = setup(CONFIG)[2].params
        logits, _ = forward(network, params, data.images, data.h.mean())
        assert losses[0] == pytest.approx(accuracy(np.asarray(logits), np.asarray(data.labels))["loss"], rel=1e-5)

    def test_bfloat16_is_of_activations_only(self, data, trained):
        config = replace(CONFIG, dtype="bfloat16")
        network, tx, state = setup(config)
        train_step, batch = make_train_step(config, network, tx), np.arange(N, dtype=np.int32)
        after, metrics = jax.eval_shape(functools.partial(train_step, depth=1), state, data, batch)
        assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
        assert {leaf.dtype for leaf in floats(after)} == {jnp.dtype("float32")}
        assert metrics["loss"].dtype == jnp.float32
        logits, _ = jax.jit(lambda params: apply_batch(config, network, params, data, 1))(state.params)
        assert logits.dtype == jnp.float32
        loss = accuracy(np.asarray(logits), np.asarray(data.labels))["loss"]
        assert loss != pytest.approx(trained[2][0], rel=1e-6)  # it did compute otherwise
        assert loss == pytest.approx(trained[2][0], abs=0.1)

    @pytest.mark.slow
    def test_a_step_in_bfloat16_is_finite(self, data):
        config = replace(CONFIG, dtype="bfloat16")
        network, tx, state = setup(config)
        state, metrics = make_train_step(config, network, tx)(state, data, np.arange(N, dtype=np.int32), depth=1)
        assert all(np.isfinite(leaf).all() for leaf in floats((state, metrics)))

    def test_runs_of_all_seeds_share_a_program(self, data):
        """Shifts and dropout are drawn with the seed, which is an argument: no seed is compiled for."""
        config = replace(TOY, augment="crop")
        network, tx, state = setup(config)
        programs, losses = set(), set()
        compiled = make_train_step(config, network, tx).func
        for seed in (0, 1):
            train_step = make_train_step(replace(config, seed=seed), network, tx)
            args, depth = (jax.tree.map(jnp.copy, state), data, np.arange(N, dtype=np.int32)), {"depth": 1}
            programs.add(train_step.func.lower(*args, **depth, **train_step.keywords).as_text())
            losses.add(float(compiled(*args, **depth, **train_step.keywords)[1]["loss"]))
        assert len(programs) == 1
        assert len(losses) == 2

    def test_a_program_of_a_puppet_has_no_seed(self, data):
        config = replace(CONFIG, dropout=0.5, augment="crop")
        network, tx, state = setup(config)
        programs = {
            make_train_step(replace(config, seed=seed), network, tx)
            .func.lower(state, data, np.arange(N, dtype=np.int32), depth=1, seed=np.uint32(seed))
            .as_text()
            for seed in (0, 1)
        }
        assert len(programs) == 1
        assert seed_of(replace(config, seed=7)) == np.uint32(7)


class TestInitState:
    def test_is_a_function_of_the_configuration(self):
        first, second = setup(CONFIG)[2], setup(CONFIG)[2]
        jax.tree.map(np.testing.assert_array_equal, first, second)
        other = setup(replace(CONFIG, seed=1))[2]
        assert (other.params.puppeteer.pointwise_kernel != first.params.puppeteer.pointwise_kernel).any()

    def test_the_state_holds_the_widest_layer_or_what_was_asked_for(self):
        for asked, expected in ((None, 8), (12, 12), (4, 4)):
            config = replace(CONFIG, max_channels=asked)
            state = jax.eval_shape(lambda config=config: setup(config)[2])
            assert state.params.puppeteer.max_channels == expected

    def test_affine_norms_suffice_for_the_deepest_bucket(self):
        network = CONFIG.network.make(10, (8, 8, 1))
        tx = make_optimizer(CONFIG.optim, network, 10)
        state = jax.eval_shape(lambda: init_state(CONFIG, network, (1, 3), tx))
        assert [leaf.shape for leaf in state.params.norm_scale] == [(3, 8)]


class TestOptimizer:
    def updates(self, config):
        """Of parameters that are one where the gradient is zero."""
        tx = make_optimizer(config.optim, config.network.make(10, (8, 8, 1)), 10)
        params = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes_of(config))
        zeros = jax.tree.map(np.zeros_like, params)
        return jax.jit(lambda: tx.update(zeros, tx.init(params), params)[0])()

    def test_weight_decay_touches_matrices_only(self):
        """With no gradient a matrix moves by -learning rate x decay x itself; norms and biases stay."""
        config = replace(CONFIG, weight_decay=0.5)
        updates = self.updates(config)
        matrices = {"puppeteer.depthwise_kernel", "puppeteer.pointwise_kernel", "classifier_kernel"}
        for path, update in jax.tree_util.tree_leaves_with_path(updates):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            expected = -1e-2 * 0.5 if name in matrices else 0.0
            np.testing.assert_allclose(update, expected, rtol=1e-6, err_msg=name)
            matrices.discard(name)
        assert not matrices

    def test_none_is_adam(self):
        config = replace(CONFIG, weight_decay=0.0)
        assert all((np.asarray(update) == 0).all() for update in jax.tree.leaves(self.updates(config)))

    def test_muon_turns_all_directions_of_a_matrix_by_as_much(self):
        """Nearly orthogonal updates of the learning rate's root mean square, whatever the gradient; Adam elsewhere."""
        config = replace(CONFIG, channels=(32,), optimizer="muon", weight_decay=0.0)
        tx = make_optimizer(config.optim, config.network.make(10, (8, 8, 1)), 10)
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes_of(config))
        grads = jax.tree.map(lambda leaf: (10 ** rng.uniform(-3, 1) * leaf).astype(np.float32), params)
        updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
        for update in (updates.puppeteer.pointwise_kernel, updates.classifier_kernel):
            values = np.linalg.svd(update, compute_uv=False)
            assert values.max() < 4 * values.min()
            assert np.sqrt(np.square(update).mean()) == pytest.approx(config.optim.learning_rate, rel=0.3)
        for update in (updates.puppeteer.depthwise_kernel, updates.puppeteer.norm1_scale, updates.classifier_bias):
            np.testing.assert_allclose(np.abs(update), np.abs(update).max(), rtol=0.01)  # Adam's first is a sign

    def test_muon_of_a_backbone_takes_kernels_for_matrices(self):
        network = DeepBackbone(name="resnet20", num_layers=8, width=16).make(10, (8, 8, 3))
        tx = make_optimizer(Optim(optimizer="muon"), network, 10)
        shapes = jax.eval_shape(lambda: network.init(0, (7,)))
        kernels = {name for name, leaf in shapes.items() if leaf.ndim == 4}
        assert len(kernels) == 7
        assert kernels < {name for name, matrix in network.matrices(shapes).items() if matrix}
        few = {"stem.conv.kernel", "stem.norm.scale", "blocks.2.first.conv.kernel", "head.classifier.kernel"}
        rng = np.random.default_rng(0)
        params = {name: rng.normal(size=shapes[name].shape).astype(np.float32) for name in few}
        updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
        for name in few & kernels:
            update = np.asarray(updates[name])
            values = np.linalg.svd(update.reshape(-1, update.shape[-1]), compute_uv=False)
            assert values.max() < 4 * values.min()

    @pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0), (10, 0), (1000, 50), (100_000, 500)])
    def test_schedule_warms_up_and_decays_to_zero(self, num_steps, warmup):
        tx = make_optimizer(replace(CONFIG.optim, weight_decay=0.0), CONFIG.network.make(10, (8, 8, 1)), num_steps)
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
        level, sample = replace(CONFIG, levels_per_batch=N), replace(CONFIG, sharing="sample")
        np.testing.assert_array_equal(*(kernel_levels(one, network, data.h, 1) for one in (level, sample)))
        sample = make_stats_estimator(sample, network)(state.params, data, [(1, np.arange(N, dtype=np.int32))])
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
            def apply_batch(config, network, params, batch, depth):
                return None, (pj.BatchStats(mean(batch), jnp.full(1, variance)),)

            monkeypatch.setattr(statistics, "apply_batch", apply_batch)
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
        monkeypatch.setattr(statistics, "STATS_BATCHES", 2)
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
        config = replace(TOY, cutout=16)
        network, tx, state = setup(config)
        batch = np.arange(N, dtype=np.int32)
        logits, _ = network.apply(state.params, None, jnp.full_like(data.images, GREY), data.h, 1)
        stats, expected = (
            make_stats_estimator(one, network)(state.params, data, [(1, batch)]) for one in (config, TOY)
        )
        jax.tree.map(np.testing.assert_array_equal, stats, expected)
        loss = float(make_train_step(config, network, tx)(state, data, batch, depth=1)[1]["loss"])
        assert loss == pytest.approx(accuracy(np.asarray(logits), np.asarray(data.labels))["loss"], rel=1e-5)

    def test_squares_differ_between_steps(self, data):
        config = replace(TOY, cutout=4, learning_rate=1e-30)
        network, tx, state = setup(config)
        train_step, losses = make_train_step(config, network, tx), []
        for _ in range(2):
            state, metrics = train_step(state, data, np.arange(N, dtype=np.int32), depth=1)
            losses.append(float(metrics["loss"]))
        assert losses[0] != losses[1]
