"""One training step of a network: what evolves, how it evolves."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import puppet_jax as pj
from experiments.config import Config
from experiments.networks import Network

STATS_BATCHES = 8
"""Batches of a depth bucket whose statistics are averaged for evaluation."""
GREY = 128
"""What `cut_out` leaves of a pixel: about the mean of photographs."""
MATRICES = {
    2: optax.contrib.MuonDimensionNumbers(),
    4: optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3),
}
"""What Muon takes for a matrix, by number of axes: matrices, and HWIO kernels from window and input to output."""


class Data(NamedTuple):
    """A training set on the device: images (N, H, W, C) uint8, labels (N,) int32, h (N,) float32 nats."""

    images: Array | np.ndarray
    labels: Array | np.ndarray
    h: Array | np.ndarray


class TrainState(NamedTuple):
    """Everything that evolves in training, and all that a checkpoint holds.

    `step` counts updates; all randomness follows from it and the seed. Batch statistics do not evolve: they are
    estimated where they are needed, see `make_stats_estimator`.
    """

    params: Any
    opt_state: optax.OptState
    step: Array


def make_optimizer(config: Config, network: Network, num_steps: int) -> optax.GradientTransformation:
    """Adam or Muon with a warm-up and a cosine decay to zero over `num_steps`, and decoupled weight decay.

    Muon's updates are scaled to unit root mean square, about that of Adam's, so that both take the same learning rates
    at every size of a matrix.

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019. Jordan et al., Muon: an optimizer for hidden
        layers in neural networks, 2024; its scale: Liu et al., Muon is scalable for LLM training, 2025.
    """
    warmup = min(num_steps // 20, 500)
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(num_steps, warmup + 1))
    if config.optimizer == "adam":
        return optax.adamw(schedule, weight_decay=config.weight_decay, mask=network.decays)

    def dimensions(params: Any) -> Any:
        return jax.tree.map(
            lambda leaf, decays: MATRICES.get(leaf.ndim) if decays else None, params, network.decays(params)
        )

    return optax.contrib.muon(
        schedule,
        weight_decay=config.weight_decay,
        adam_learning_rate=schedule,
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=1.0,
    )


def init_state(
    config: Config, network: Network, depths: tuple[int, ...], tx: optax.GradientTransformation, start: Any = None
) -> TrainState:
    """The state before the first step: of the parameters `start`, else of those of the seed at the depths in use."""
    params = network.init(config.seed, depths) if start is None else jax.tree.map(jnp.asarray, start)
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))


def _pick(config: Config, data: Data, indices: Array, seed: Array, step: Array) -> Data:
    """The batch at `indices`, augmented if the configuration says so; randomness follows from seed and step."""
    images, labels, h = (array[indices] for array in data)
    if config.augment != "none":
        key = jax.random.fold_in(jax.random.key(seed + 1), step)
        images = shift(key, images, flip=config.augment == "crop_flip")
    return Data(images, labels, h)


def rounded(config: Config, network: Network, params: Any) -> Any:
    """The trainable floats with the values that they will have once stored."""
    if config.bits == 32:
        return params
    return pj.fake_quantize(params, network.bits(params, config.bits))


def _forward(config: Config, network: Network, params: Any, batch: Data, depth: int, key: Array | None = None):
    """Logits and statistics of a batch of one depth bucket that is in order of complexity, by depth.

    There is one depth, or, of a network with exits, the two that are trained together.
    """
    params = rounded(config, network, params)
    h = jnp.clip(batch.h, *network.interval(depth))  # borrowed images count as the bucket's nearest
    # Neighbours share kernels, generated at their mean; batch norms see the whole batch, a sample of the whole bucket.
    num_sets = config.num_levels if config.adaptation == "level" else len(h)
    if config.one_set_a_depth:
        num_sets = 1
    levels = h.reshape(num_sets, -1).mean(axis=1)
    if config.adapts == "depth":  # borrowed images too, as at evaluation
        centre = pj.slice_centre(np.array([network.interval(depth)[0]]), depth, 1)
        levels = jnp.asarray(centre, jnp.float32)
    images, dtype = jnp.asarray(batch.images), jnp.dtype(config.dtype)
    return network.forward_together(params, images, levels, depth, dtype, key, config.detach_exit)


def make_train_step(config: Config, network: Network, tx: optax.GradientTransformation) -> Callable:
    """Returns a compiled `(state, data, indices, *, depth) -> (state, metrics)`, of which all seeds share the program.

    `indices` (batch,) int32 pick a batch of one depth bucket, in order of complexity; metrics are scalars on the
    device: `loss` (nats), `correct` (fraction).
    """

    def loss_fn(params, batch: Data, depth, key):
        exits = _forward(config, network, params, batch, depth, key)
        targets = optax.smooth_labels(jax.nn.one_hot(batch.labels, network.num_classes), config.label_smoothing)
        weights = {at: 1.0 if at == depth else config.shallow_weight for at in exits}
        losses = {at: optax.softmax_cross_entropy(logits, targets).mean() for at, (logits, _) in exits.items()}
        loss = sum(weights[at] * losses[at] for at in exits) / sum(weights.values())
        return loss, (exits[depth][0].argmax(-1) == batch.labels).mean()

    @functools.partial(jax.jit, static_argnames="depth", donate_argnames="state")
    def train_step(state: TrainState, data: Data, indices: Array, *, seed: Array, depth: int):
        batch = _pick(config, data, indices, seed, state.step)
        if config.cutout:  # not in `_pick`: statistics for evaluation are of whole images
            cutout_key = jax.random.fold_in(jax.random.key(seed + 3), state.step)
            batch = batch._replace(images=cut_out(cutout_key, jnp.asarray(batch.images), config.cutout))
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        key = jax.random.fold_in(jax.random.key(seed + 2), state.step)
        (loss, correct), grads = grad_fn(state.params, batch, depth, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1), {"loss": loss, "correct": correct}

    return functools.partial(train_step, seed=_seed(config))


def make_stats_estimator(config: Config, network: Network) -> Callable:
    """Returns `(params, data, batches) -> {depth: statistics of the network}` for evaluation.

    Each depth's statistics are those of up to `STATS_BATCHES` of its training batches under the parameters as they
    are now (precise batch norm). A running average would describe kernels that are gone: a step of the puppeteer
    moves every kernel of the puppet, and a rare depth has one step an epoch.

    References:
        Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021.
    """

    @functools.partial(jax.jit, static_argnames="depth")
    def batch_moments(params, data: Data, indices, seed, step, *, depth):
        exits = _forward(config, network, params, _pick(config, data, indices, seed, step), depth)
        return {depth: stats for depth, (_, stats) in exits.items()}

    def estimate(params, data: Data, batches):
        collected: dict[int, list] = {}
        for step, (depth, indices) in enumerate(batches):
            moments = collected.setdefault(depth, [])
            if len(moments) < STATS_BATCHES:
                moments.append(batch_moments(params, data, indices, _seed(config), step, depth=depth))
        stats = {}
        for moments in collected.values():
            stats.update(jax.tree.map(lambda *batches: _pool(batches), *moments, is_leaf=_is_stats))
        return stats

    return estimate


def _seed(config: Config) -> np.uint32:
    """The seed as an argument of a compiled program, which then serves runs of every seed."""
    return np.uint32(config.seed)


def _is_stats(node: Any) -> bool:
    return isinstance(node, pj.BatchStats)


def _pool(batches: tuple[pj.BatchStats, ...]) -> pj.BatchStats:
    """Mean and variance over equal batches: within them and between them, never a difference of squares."""
    means, variances = (jnp.stack(leaves) for leaves in zip(*batches, strict=True))
    return pj.BatchStats(means.mean(axis=0), variances.mean(axis=0) + means.var(axis=0))


def shift(key: Array, images: Array, *, flip: bool) -> Array:
    """Each image moved by up to an eighth of its height either way (reflected border), mirrored half of the time."""
    batch, height, width, channels = images.shape
    padding = height // 8
    shift_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(shift_key, (batch, 2), 0, 2 * padding + 1)
    mirrored = jax.random.bernoulli(flip_key, shape=(batch,)) & flip
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")

    def one(image, corner, mirror):
        crop = jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))
        return jnp.where(mirror, crop[:, ::-1], crop)

    return jax.vmap(one)(padded, corners, mirrored)


def cut_out(key: Array, images: Array, size: int) -> Array:
    """A grey square of `size` pixels in each image, its centre anywhere, so that a part of it may lie outside.

    References:
        DeVries and Taylor, Improved regularization of convolutional neural networks with cutout, 2017.
    """
    batch, height, width, _ = images.shape
    centre = jax.random.randint(key, (batch, 2), 0, jnp.array([height, width]))
    first = centre - size // 2

    def inside(axis: int, length: int) -> Array:
        place = jnp.arange(length) - first[:, axis, None]
        return (place >= 0) & (place < size)

    square = inside(0, height)[:, :, None, None] & inside(1, width)[:, None, :, None]
    return jnp.where(square, jnp.asarray(GREY, images.dtype), images)
