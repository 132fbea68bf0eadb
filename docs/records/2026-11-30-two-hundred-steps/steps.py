"""Trains networks without norms, and their puppets, for 200 steps on scikit-learn's digits: PYTHONPATH=.:tests."""

import sys
import warnings

import jax
import jax.numpy as jnp
import models
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from test_puppetize_start import DQN, Decoder, FreshResNet, Stack

import puppet_jax as pj

STEPS, BATCH, MEASURED = 200, 32, 512
DIGITS = load_digits()
IMAGES, LABELS = (DIGITS.images / 8 - 1).astype(np.float32)[..., None], DIGITS.target
COLOUR, ONE_HOT = np.repeat(IMAGES, 3, -1), np.eye(10, dtype=np.float32)[LABELS]


def classes(logits, labels):
    """Of classification."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def squares(found, wanted):
    """Of regression."""
    return jnp.square(found - wanted).mean()


def noisy(images):
    """What a U-Net is to clean."""
    return images + np.random.default_rng(0).normal(size=images.shape).astype(np.float32) / 2


TASKS = {
    "relu": (lambda rngs: Stack(rngs, nnx.relu), COLOUR, LABELS, classes, (3e-4, 1e-3)),
    "tanh": (lambda rngs: Stack(rngs, jnp.tanh), COLOUR, LABELS, classes, (3e-4, 1e-3, 3e-3)),
    "fresh": (FreshResNet, COLOUR, LABELS, classes, (1e-3, 3e-3, 1e-2)),
    "unet": (models.UNet, noisy(COLOUR), np.repeat(IMAGES, 5, -1), squares, (1e-2, 3e-2, 1e-1)),
    "decoder": (Decoder, ONE_HOT, IMAGES, squares, (1e-3, 3e-3)),
    "dqn": (DQN, COLOUR.repeat(2, 1).repeat(2, 2), ONE_HOT[:, :4], squares, (3e-4, 1e-3, 3e-3)),
}


def run(make, inputs, targets, loss_fn, kernels_from, rate):
    """The loss on the first images after training; of the network itself without `kernels_from`."""
    net = make(nnx.Rngs(0))
    if kernels_from:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of puppeteers that hold more floats than they replace
            net = pj.puppetize(net, jnp.asarray(inputs[:2]), kernels_from=kernels_from, keep_scale=True)
    optimizer = nnx.Optimizer(net, optax.adam(rate), wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer, x, y):
        optimizer.update(net, nnx.grad(lambda net: loss_fn(net(x), y))(net))

    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        chosen = rng.choice(len(inputs), BATCH, replace=False)
        step(net, optimizer, jnp.asarray(inputs[chosen]), jnp.asarray(targets[chosen]))
    found = jax.jit(net)(jnp.asarray(inputs[:MEASURED]))
    return float(loss_fn(found, jnp.asarray(targets[:MEASURED])))


if __name__ == "__main__":
    for name in sys.argv[1:] or TASKS:
        *task, rates = TASKS[name]
        for kind in (None, "velocity", "state"):
            losses = {rate: round(run(*task, kind, rate), 4) for rate in rates}
            print(name, kind, losses, flush=True)
