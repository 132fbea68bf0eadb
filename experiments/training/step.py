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
from experiments.config import Adaptive, Config
from experiments.model import bits_of
from experiments.networks import Network
from experiments.training.augment import cut_out, shift
from experiments.training.distillation import Teacher, mean_probabilities
from experiments.training.parallel import Layout, put
from puppet_jax import extras
from puppet_jax.routing import level_centre


class Data(NamedTuple):
    """A training set on the device, and who teaches it.

    Attributes:
        images: (N, H, W, C) uint8.
        labels: (N,) int32.
        h: (N,) float32, nats.
        answers: (N, classes) float32, the teachers' mean probabilities, or None.
        teachers: those that answer to the images of a step as they are augmented.
    """

    images: Array | np.ndarray
    labels: Array | np.ndarray
    h: Array | np.ndarray
    answers: Array | np.ndarray | None = None
    teachers: tuple[Teacher, ...] = ()


class TrainState(NamedTuple):
    """Everything that evolves in training, and all that a checkpoint holds.

    `step` counts updates; all randomness follows from it and the seed. Batch statistics do not evolve: they are
    estimated where they are needed, see `experiments.training.statistics`.
    """

    params: Any
    opt_state: optax.OptState
    step: Array


def init_state(
    config: Config, network: Network, depths: tuple[int, ...], tx: optax.GradientTransformation, start: Any = None
) -> TrainState:
    """The state before the first step: of the parameters `start`, else of those of the seed at the depths in use."""
    params = network.init(config.seed, depths) if start is None else jax.tree.map(jnp.asarray, start)
    return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))


def make_train_step(
    config: Config, network: Network, tx: optax.GradientTransformation, layout: Layout | None = None
) -> Callable:
    """Returns a compiled `(state, data, indices, *, depth) -> (state, metrics)`, of which all seeds share the program.

    `indices` (batch,) int32 pick a batch of one depth bucket, in order of complexity; metrics are scalars on the
    device: `loss` (nats), `correct` (fraction). With a layout each device takes a part of the batch; state and data
    must lie whole on each.
    """

    def loss_fn(params, batch: Data, depth, key):
        outputs, _ = apply_batch(config, network, params, batch, depth, key)
        loss, logits = network.loss(outputs, targets_of(config, batch, network.num_classes))
        return loss, (logits.argmax(-1) == batch.labels).mean()

    whole = None if layout is None else layout.whole

    @functools.partial(jax.jit, static_argnames="depth", donate_argnames="state", out_shardings=whole)
    def train_step(state: TrainState, data: Data, indices: Array, *, seed: Array, depth: int):
        batch = pick(config, data, indices, seed, state.step)
        if config.data.cutout:  # not in `pick`: statistics for evaluation are of whole images
            cutout_key = jax.random.fold_in(jax.random.key(seed + 3), state.step)
            batch = batch._replace(images=cut_out(cutout_key, jnp.asarray(batch.images), config.data.cutout))
        if data.teachers:
            logits = [teacher(jnp.asarray(batch.images)) for teacher in data.teachers]
            batch = batch._replace(answers=mean_probabilities(logits, config.distillation.teacher_temperature))
        key = jax.random.fold_in(jax.random.key(seed + 2), state.step)
        (loss, correct), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, depth, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1), {"loss": loss, "correct": correct}

    if layout is None:
        return functools.partial(train_step, seed=seed_of(config))

    def split_step(state: TrainState, data: Data, indices: Array, *, depth: int):
        return train_step(state, data, put(indices, layout.split), seed=seed_of(config), depth=depth)

    return split_step


def targets_of(config: Config, batch: Data, num_classes: int) -> Array:
    """What a batch is trained towards, (batch, classes): its labels, smoothed, and the teachers' answers."""
    targets = optax.smooth_labels(jax.nn.one_hot(batch.labels, num_classes), config.optim.label_smoothing)
    if batch.answers is None:
        return targets
    return targets + config.distillation.teacher_weight * (batch.answers - targets)


def apply_batch(config: Config, network: Network, params: Any, batch: Data, depth: int, key: Array | None = None):
    """What a batch of one depth bucket, in order of complexity, gives in training: outputs and statistics."""
    params = rounded(config, network, params)
    levels = kernel_levels(config, network, jnp.asarray(batch.h), depth)
    return network.apply(params, None, jnp.asarray(batch.images), levels, depth, key)


def kernel_levels(config: Config, network: Network, h: Array, depth: int) -> Array:
    """The complexities (sets,) that the kernels of a batch of complexities `h` (batch,) are generated at, nats.

    Neighbours share kernels, generated at their mean. Batch norms see the whole batch, a sample of the whole bucket.
    """
    kernels = getattr(config.network, "kernels", None)
    if network.depth is None:
        if not isinstance(kernels, Adaptive):
            centre = level_centre(np.array([pj.depth_interval(depth)[0]]), depth, 1)
            return jnp.asarray(centre, jnp.float32)
        h = jnp.clip(h, *pj.depth_interval(depth))  # borrowed images count as the bucket's nearest
    sets = 1
    if isinstance(kernels, Adaptive):
        sets = kernels.levels_per_batch if kernels.sharing == "level" else len(h)
    return h.reshape(sets, -1).mean(axis=1)


def pick(config: Config, data: Data, indices: Array, seed: Array, step: Array) -> Data:
    """The batch at `indices`, augmented if the configuration says so; randomness follows from seed and step."""
    images, labels, h = (array[indices] for array in data[:3])
    if config.data.augment != "none":
        key = jax.random.fold_in(jax.random.key(seed + 1), step)
        images = shift(key, images, flip=config.data.augment == "crop_flip")
    return Data(images, labels, h, None if data.answers is None else data.answers[indices])


def rounded(config: Config, network: Network, params: Any) -> Any:
    """The trainable floats with the values that they will have once stored."""
    if config.bits == 32:
        return params
    return extras.fake_quantize(params, bits_of(network, params, config.bits))


def seed_of(config: Config) -> np.uint32:
    """The seed as an argument of a compiled program, which then serves runs of every seed."""
    return np.uint32(config.seed)
