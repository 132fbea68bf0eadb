"""Trains a residual network as a puppet, with and without `keep_scale`: python scale.py DIR, of CIFAR-10."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import puppet_jax as pj
from experiments.data import load_dataset, split_indices

EPOCHS, IMAGES, BATCH, C = 6, 8_000, 64, 64


class Block(nnx.Module):
    """Two convolutions, and what they add to."""

    def __init__(self, c_in, c_out, stride, rngs):
        self.first = nnx.Conv(c_in, c_out, (3, 3), strides=stride, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(c_out, rngs=rngs)
        self.second = nnx.Conv(c_out, c_out, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(c_out, rngs=rngs)
        wide = {"strides": stride, "use_bias": False, "rngs": rngs}
        self.short = None if c_in == c_out else nnx.Conv(c_in, c_out, (1, 1), **wide)

    def __call__(self, x):
        """Of images (batch, height, width, c_in)."""
        y = self.norm2(self.second(nnx.relu(self.norm1(self.first(x)))))
        return nnx.relu(y + (x if self.short is None else self.short(x)))


class ResNet(nnx.Module):
    """Nine convolutions, 16 to 64 channels."""

    def __init__(self, rngs):
        self.stem, self.norm = nnx.Conv(3, 16, (3, 3), use_bias=False, rngs=rngs), nnx.BatchNorm(16, rngs=rngs)
        self.blocks = nnx.List([Block(16, 16, 1, rngs), Block(16, 32, 2, rngs), Block(32, 64, 2, rngs)])
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        """Logits of images."""
        x = nnx.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


def floats(images):
    """8-bit images around 0."""
    return jnp.asarray(images.astype(np.float32) / 64 - 2)


def run(dataset, keep_scale, kernels_from, rate, seed):
    """Accuracy on validation and test images."""
    train, validation = split_indices(len(dataset.train_labels), IMAGES, 2_000, seed)
    images, labels = floats(dataset.train_images[train]), jnp.asarray(dataset.train_labels[train])
    settings = {"max_channels": C, "kernels_from": kernels_from, "keep_scale": keep_scale}
    puppet = pj.puppetize(ResNet(nnx.Rngs(seed)), images[:2], key=jax.random.key(seed), **settings)
    steps = EPOCHS * (IMAGES // BATCH)
    schedule = optax.warmup_cosine_decay_schedule(0, rate, steps // 20, steps)
    optimizer = nnx.Optimizer(puppet, optax.adam(schedule), wrt=nnx.Param)

    @nnx.jit
    def step(puppet, optimizer, chosen):
        def loss_fn(puppet):
            return optax.softmax_cross_entropy_with_integer_labels(puppet(images[chosen]), labels[chosen]).mean()

        optimizer.update(puppet, nnx.grad(loss_fn)(puppet))

    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        for chosen in rng.permutation(IMAGES).reshape(-1, BATCH):
            step(puppet, optimizer, jnp.asarray(chosen))
    puppet.eval()
    network, forward = puppet.instantiate(), nnx.jit(lambda network, x: network(x))

    def top1(images, labels):
        parts = [forward(network, floats(images[n : n + 500])).argmax(-1) for n in range(0, len(images), 500)]
        return float((np.concatenate(parts) == labels).mean())

    return {
        "validation": top1(dataset.train_images[validation], dataset.train_labels[validation]),
        "test": top1(dataset.test_images, dataset.test_labels),
    }


if __name__ == "__main__":
    cifar = load_dataset("cifar10", Path(sys.argv[1]))
    for kernels_from in ("state", "velocity"):
        for keep_scale in (False, True):
            found = {rate: run(cifar, keep_scale, kernels_from, rate, 0) for rate in (1e-3, 3e-3)}
            best = max(found, key=lambda rate: found[rate]["validation"])
            found |= {seed: run(cifar, keep_scale, kernels_from, best, seed) for seed in (1, 2)}
            print(json.dumps({"kernels_from": kernels_from, "keep_scale": keep_scale, "found": found}), flush=True)
