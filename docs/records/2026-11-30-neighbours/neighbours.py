"""Kernels of one trajectory beside those of frozen patterns of their own: alike | vit|cnn HOW EPOCHS RATE DATA."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import puppet_jax as pj
from experiments.cifar10 import BEST
from experiments.config import Options
from experiments.fields import replace
from experiments.networks.puppet import PuppetNetwork
from experiments.tables.definitions import TRAINED
from experiments.training.run import train
from puppet_jax import generator
from puppet_jax.adaptation import step_size
from puppet_jax.projection import blocks, join, read
from puppet_jax.puppeteer import kernel_field, start

LABEL = "ViT, puppeteer (velocity, taps)"
ORIGINAL = generator.PuppeteerGenerator.generate


def alike(name):
    """Correlation of the kernels of neighbouring steps of a shipped model."""
    puppeteer = pj.load_pretrained(name).params.puppeteer
    c = puppeteer.max_channels
    kernels = pj.generate_kernels(puppeteer, 4.5, [(3, 3, c, c)] * 12)
    pairs = [
        np.corrcoef(np.ravel(one), np.ravel(other))[0, 1] for one, other in zip(kernels, kernels[1:], strict=False)
    ]
    return [round(float(pair), 2) for pair in pairs]


def of_patterns(params, condition, sizes, beside):
    """The field of a frozen pattern for each block, alone or beside the state of a trajectory."""
    c, k = params.max_channels, params.kernel_size
    cut = [blocks(size, c, k) for size in sizes]
    steps = jnp.arange(sum(map(len, cut)))

    def pattern(n):
        return jax.random.normal(jax.random.fold_in(jax.random.key(7), n), (k * k, c, c))

    def step(state, n):
        velocity = kernel_field(params, state / (state.std() + 1e-6) + pattern(n))
        return state + step_size(jnp.asarray(condition, jnp.float32)) * velocity, velocity

    if beside:
        found = jax.lax.scan(jax.checkpoint(step), start(params, jnp.float32(condition)), steps)[1]
    else:
        found = jax.lax.map(jax.checkpoint(lambda n: kernel_field(params, pattern(n))), steps)
    parts = iter(found[n] for n in range(len(steps)))
    return [join([read(next(parts), block) for block in own], size, c, k) for own, size in zip(cut, sizes, strict=True)]


def generate(self, params, condition, shapes, how):
    """What `PuppeteerGenerator.generate` gives, in another way."""
    if how in ("own", "beside"):
        sizes = [self.read_shape(shape, params.kernel_size) for shape in shapes]
        found = of_patterns(params, condition, sizes, how == "beside")
        pairs = zip(found, shapes, strict=True)
        return tuple(x if x.shape == tuple(shape) else generator._unfolded(x, shape) for x, shape in pairs)
    kernels = []
    for n, kernel in enumerate(ORIGINAL(self, params, condition, shapes)):
        rng, (inputs, outputs) = np.random.default_rng(1000 + n), kernel.shape[2:]
        if how == "order":
            kernel = kernel[:, :, rng.permutation(inputs)][:, :, :, rng.permutation(outputs)]
        if how == "signs":
            signs = (jnp.asarray(rng.choice([-1.0, 1.0], size), kernel.dtype) for size in (inputs, outputs))
            kernel = kernel * next(signs)[:, None] * next(signs)
        kernels.append(kernel)
    return tuple(kernels)


def main(what, how, epochs, rate, data):
    """Trains a vision transformer or preset best."""
    if what == "vit":
        (config,) = (row.config for row in TRAINED["transformers"]().rows if row.label == LABEL)
        generator.PuppeteerGenerator.generate = lambda self, *of: generate(self, *of, how)
    else:
        config = BEST
        if how == "own":
            made = lambda params, h, shapes: tuple(of_patterns(params, h, list(map(tuple, shapes)), False))  # noqa: E731
            PuppetNetwork.generate = property(lambda self: made)
    config = replace(config, epochs=int(epochs), learning_rate=float(rate))
    folder = Path(f"runs/neighbours-{what}-{how}-{epochs}-{rate}")
    summary = train("cifar10", config, Options(data_dir=Path(data), workdir=folder, resume=True))
    print(what, how, epochs, rate, summary.validation_top1, summary.top1)


if __name__ == "__main__":
    if sys.argv[1] == "alike":
        print({name: alike(name) for name in ("cifar10-c64-4bit", "cifar10-full-4bit")})
    else:
        main(*sys.argv[1:])
