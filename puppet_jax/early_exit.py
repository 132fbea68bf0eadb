"""Depth by doubt: a shallow puppet answers where it is sure; where it is not, a deep one goes on from its work."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from puppet_jax._checks import check_images
from puppet_jax.kernel_bank import KernelBank
from puppet_jax.puppet import (
    BatchStats,
    Puppet,
    PuppetParams,
    apply_exits,
    check_inputs,
    classify,
    run_layers,
)
from puppet_jax.routing import Adaptation, check_adaptation, pad_indices, pieces
from puppet_jax.trajectory import generate_kernels

DEEP_SIZES = (1, 4, 16, 32, 64, 96, 128, 192, 256)
"""Numbers of images that the deep puppet goes on with together: close to each other, since padding is wasted work."""


def doubt(logits: Float[ArrayLike, "*batch classes"]) -> Float[Array, "*batch"]:
    """How unsure a classifier is: 1 less the difference of its two largest probabilities, in [0, 1].

    A complexity that knows the task: an image is as complex as it is hard to decide for a shallow puppet.

    Args:
        logits: (..., classes), at least two classes.

    Raises:
        ValueError: if there is one class alone.

    Example:
        >>> import jax.numpy as jnp, puppet_jax as pj
        >>> pj.doubt(jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.8, 0.15, 0.05]]))).round(2).tolist()
        [1.0, 0.3499999940395355]
    """
    if jnp.shape(logits)[-1] < 2:
        raise ValueError(f"logits must be of at least two classes, got shape {jnp.shape(logits)}.")
    first, second = jnp.moveaxis(jax.lax.top_k(jax.nn.softmax(jnp.asarray(logits)), 2)[0], -1, 0)
    return 1 - (first - second)


def exit_threshold(doubts: ArrayLike, share: float) -> float:
    """The doubt that a share of images exceeds: those go on to the deep puppet.

    Args:
        doubts: (images,) of held-out images; on its training images a puppet is too sure.
        share: of the images, in (0, 1).

    Raises:
        ValueError: if `share` is out of range, or a doubt is NaN.
    """
    doubts = np.asarray(doubts, np.float64)
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}.")
    if not len(doubts) or np.isnan(doubts).any():
        raise ValueError(f"doubts must be numbers, at least one, got {doubts.size} with {np.isnan(doubts).sum()} NaN.")
    return float(np.quantile(doubts, 1 - share))


def combine_exits(
    shallow: Float[ArrayLike, "batch classes"], deep: Float[ArrayLike, "batch classes"], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """What `EarlyExitPredictor` answers, from the logits that both puppets give to all images.

    Returns:
        `(logits, unsure)`: (batch, classes) float32, the deep puppet's where the doubt of the shallow one exceeds
        `threshold`, else the shallow one's; and (batch,) bool, where that is.
    """
    shallow, deep = np.asarray(shallow, np.float32), np.asarray(deep, np.float32)
    unsure = np.asarray(doubt(shallow)) > threshold
    return np.where(unsure[:, None], deep, shallow), unsure


@functools.partial(jax.jit, static_argnames=("puppet", "depths", "dtype"))
def _exits(puppet, params, batch_stats, kernels, images, *, depths, dtype):
    found = apply_exits(puppet, params, batch_stats, kernels, images, depths, dtype)
    return jnp.stack([found[depth][0] for depth in depths])


@functools.partial(jax.jit, static_argnames=("puppet", "depths", "dtype"))
def _start(puppet, params, batch_stats, kernels, images, *, depths, dtype):
    """The shallow puppet: logits, doubts, and the activations from which the deep one goes on."""
    shallow, deep = depths
    shared = puppet.shared_layers(shallow, deep)
    run = functools.partial(run_layers, puppet, params, batch_stats[shallow], kernels)
    trunk, _ = run(check_inputs(puppet, params, kernels, images, deep).astype(dtype), shallow, 0, shared)
    x, _ = run(trunk, shallow, shared)
    logits = classify(puppet, params, kernels, x, shallow)
    return logits, doubt(logits), trunk


@functools.partial(jax.jit, static_argnames=("puppet", "depths"))
def _go_on(puppet, params, batch_stats, kernels, trunk, indices, *, depths):
    """The deep puppet's logits of some of the images."""
    shallow, deep = depths
    shared = puppet.shared_layers(shallow, deep)
    x, _ = run_layers(puppet, params, batch_stats[deep], kernels, trunk[indices], deep, shared)
    return classify(puppet, params, kernels, x, deep)


class EarlyExitPredictor:
    """Logits of images from nested puppets of two depths, the deep one for those images that need it.

    All images run through the shallow puppet. Where its doubt exceeds the threshold, the deep one goes on from the
    layers that both share, and answers instead. One set of kernels serves both. An image's logits do not depend on the
    other images of its batch.

    Args:
        puppet: the architecture, with `max_depth`.
        params: its trainable floats.
        batch_stats: running statistics of the two depths.
        h: the complexity (nats) at which the kernels are generated.
        threshold: the doubt in [0, 1] that sends an image on, see `exit_threshold`; None sends none.
        adaptation: "level": kernels are generated once. "sample": anew in every call, as the papers do.
        dtype: of activations and convolutions.
        generate: from (params.puppeteer, h, shapes) to kernels.

    Raises:
        ValueError: if the puppets are not nested, or there are not two depths.

    Example:
        >>> import jax, numpy as np, puppet_jax as pj
        >>> puppet = pj.Puppet(channels=(4, 8), max_depth=3)
        >>> puppeteer = pj.init_puppeteer(jax.random.key(0), max_channels=8)
        >>> params = pj.init_puppet(jax.random.key(1), puppet, puppeteer, max_depth=3)
        >>> stats = {depth: pj.init_batch_stats(puppet, depth) for depth in (1, 3)}
        >>> predictor = pj.EarlyExitPredictor(puppet, params, stats, h=4.5)
        >>> images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
        >>> shallow, deep = predictor.exits(images)
        >>> predictor.threshold = pj.exit_threshold(pj.doubt(shallow), share=0.25)
        >>> logits, depths = predictor.route(images)
        >>> sorted(depths.tolist())
        [1, 1, 1, 1, 1, 1, 3, 3]

    References:
        Teerapittayanon et al., BranchyNet: fast inference via early exiting from deep neural networks, 2016.
    """

    def __init__(
        self,
        puppet: Puppet,
        params: PuppetParams,
        batch_stats: Mapping[int, Sequence[BatchStats]],
        *,
        h: float,
        threshold: float | None = None,
        adaptation: Adaptation = "level",
        dtype: jnp.dtype = jnp.float32,
        generate: Callable[..., tuple[jax.Array, ...]] = generate_kernels,
    ):
        if puppet.max_depth is None:
            raise ValueError("puppets must be nested for early exits: give max_depth, got None.")
        if len(batch_stats) != 2:
            raise ValueError(f"batch_stats must be of two depths, got {sorted(batch_stats)}.")
        check_adaptation(adaptation)
        self.puppet = puppet
        self.params = params
        self.batch_stats = {int(depth): tuple(stats) for depth, stats in batch_stats.items()}
        self.h = h
        self.threshold = 1.0 if threshold is None else threshold
        self.adaptation = adaptation
        self.dtype = dtype
        self.generate = generate
        self._bank = KernelBank(puppet, params.puppeteer, 1, generate)

    @property
    def depths(self) -> tuple[int, int]:
        """The shallow depth and the deep one."""
        shallow, deep = sorted(self.batch_stats)
        return shallow, deep

    @property
    def kernels(self) -> tuple[jax.Array, ...]:
        """The kernels of the nested puppets."""
        deep = self.depths[1]
        if self.adaptation == "sample":
            return self.generate(self.params.puppeteer, self.h, self.puppet.kernel_shapes(deep))
        return self._bank(deep, self.h)

    def __call__(self, images: ArrayLike, h: ArrayLike | None = None) -> np.ndarray:
        """Logits (batch, num_classes) float32 of images (batch, height, width, channels); `h` is not looked at."""
        return self.route(images, h)[0]

    def route(self, images: ArrayLike, h: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and the depth (batch,) that each image was taken to: the deep one if it had to go on."""
        images = np.asarray(check_images(images))
        kernels, (shallow, deep) = self.kernels, self.depths
        fixed = (self.puppet, self.params, self.batch_stats, kernels)
        results, depths, waiting = [], np.full(len(images), shallow), []
        for places, (logits, doubts, trunk) in _one_ahead(images, lambda x: _start(*fixed, x, **self._static)):
            unsure = np.flatnonzero(np.asarray(doubts)[: len(places)] > self.threshold)
            results.append(np.asarray(logits)[: len(places)])  # cut on the host, where no size is a program of its own
            if len(unsure):
                answer = _go_on(*fixed, trunk, pad_indices(unsure, DEEP_SIZES), depths=self.depths)
                waiting.append((places[unsure], answer))
        result = np.concatenate(results)
        for indices, answer in waiting:
            result[indices] = np.asarray(answer)[: len(indices)]
            depths[indices] = deep
        return result, depths

    def exits(self, images: ArrayLike) -> np.ndarray:
        """Logits (2, batch, num_classes) float32 of the shallow puppet and of the deep one, for all images."""
        fixed = (self.puppet, self.params, self.batch_stats, self.kernels)
        parts = _one_ahead(np.asarray(check_images(images)), lambda x: _exits(*fixed, x, **self._static))
        return np.concatenate([np.asarray(logits)[:, : len(places)] for places, logits in parts], axis=1)

    @property
    def _static(self) -> dict:
        return {"depths": self.depths, "dtype": self.dtype}


def _one_ahead(images: np.ndarray, run: Callable) -> Iterator[tuple[np.ndarray, Any]]:
    """Pieces of a batch: the places of their images, and what `run` gives for them, padded to few sizes.

    The next piece is dispatched before a piece is handed out, so that the device does not wait.
    """
    ahead = None
    for places, padded in pieces(len(images)):
        now, ahead = ahead, (places, run(images[padded]))
        if now is not None:
            yield now
    if ahead is not None:
        yield ahead
