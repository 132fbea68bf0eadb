"""Predictions with an early exit: the deep layers see those images that the exit is unsure of."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, DTypeLike

from puppet_jax.architecture import Puppet
from puppet_jax.checks import check_floating, check_image_size, check_images, check_threshold
from puppet_jax.complexity import CalibratedComplexity
from puppet_jax.consistency import check_params
from puppet_jax.extras.early_exit import (
    EarlyExitParams,
    ExitHead,
    check_head,
    classify_early,
    confidence,
    init_exit,
)
from puppet_jax.folded import FoldedPuppet, classify_folded, run_folded
from puppet_jax.model_file import load_model
from puppet_jax.model_format import read_puppet
from puppet_jax.predictor import KernelBank, folding
from puppet_jax.pretrained import like_puppet
from puppet_jax.puppet import BatchStats, PuppetParams, centred
from puppet_jax.routing import Adaptation, check_adaptation, pad_indices, pieces
from puppet_jax.trajectory import check_scalar, generate_kernels

DEEP_SIZES = (1, 4, 16, 32, 64, 96, 128, 192, 256)
"""Numbers of images that go on together: close to each other, since padding is wasted work."""


class EarlyExitPredictor:
    """Logits of images from a puppet with an early exit: the deep layers see those images that the exit is unsure of.

    All images run through the first layers. Where the head is less confident than the threshold, the image is sent on
    and the whole puppet answers. An image's logits do not depend on the other images of its batch.

    Args:
        puppet: the architecture, of given `layers`.
        params: its trainable floats.
        head: the exit's.
        batch_stats: running statistics of the puppet, one a layer.
        exit_layer: the head reads the activations behind this many convolutions.
        h: the complexity (nats) at which the kernels are generated.
        threshold: the confidence below which images are sent on, see `exit_threshold`; None sends none.
        adaptation: "level": kernels are generated once. "sample": anew in every call, as the papers do.
        dtype: of activations and convolutions.
        generate: from (params.puppeteer, h, shapes) to kernels.
        image_size: (height, width) of the images that the puppet was trained on, and no others are taken; None takes
            any size.

    Raises:
        ValueError: if the exit, the floats or the statistics do not fit the puppet.

    Example:
        >>> import jax, numpy as np, puppet_jax as pj
        >>> from puppet_jax import extras
        >>> puppet = pj.Puppet(channels=(4, 8), layers=(1, 2))
        >>> params = pj.init_puppet(jax.random.key(1), puppet, pj.init_puppeteer(jax.random.key(0), max_channels=8))
        >>> head, stats = extras.init_exit(jax.random.key(2), puppet, 2), pj.init_batch_stats(puppet, 3)
        >>> predictor = extras.EarlyExitPredictor(puppet, params, head, stats, exit_layer=2, h=4.5)
        >>> images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
        >>> exit_logits, logits = predictor.exits(images)
        >>> predictor.threshold = extras.exit_threshold(extras.confidence(exit_logits), fraction=0.25)
        >>> logits, depths = predictor.route(images)
        >>> sorted(depths.tolist())
        [2, 2, 2, 2, 2, 2, 3, 3]

    References:
        Teerapittayanon et al., BranchyNet: fast inference via early exiting from deep neural networks, 2016.
    """

    def __init__(
        self,
        puppet: Puppet,
        params: PuppetParams,
        head: ExitHead,
        batch_stats: Sequence[BatchStats],
        *,
        exit_layer: int,
        h: float,
        threshold: float | None = None,
        adaptation: Adaptation = "level",
        dtype: DTypeLike = jnp.float32,
        generate: Callable[..., tuple[Array, ...]] = generate_kernels,
        image_size: tuple[int, int] | None = None,
    ):
        check_head(puppet, head, exit_layer)
        check_adaptation(adaptation)
        check_floating("dtype", dtype)
        check_scalar(h)
        check_params(puppet, params, puppet.only_depth, batch_stats)
        self.puppet = puppet
        self.params = params
        self.head = head
        self.batch_stats = tuple(batch_stats)
        self.exit_layer = exit_layer
        self.h = h
        self.threshold = 0.0 if threshold is None else threshold
        check_threshold(self.threshold)
        self.adaptation = adaptation
        self.dtype = dtype
        self.generate = generate
        self.image_size = image_size
        self._fold = folding(puppet, params, {puppet.only_depth: self.batch_stats}, dtype)
        self._bank = KernelBank(puppet, params.puppeteer, 1, generate, self._fold)

    @property
    def depths(self) -> tuple[int, int]:
        """Layers of an image that leaves at the exit, and of one that is sent on."""
        return self.exit_layer, self.puppet.only_depth

    def _folded(self) -> FoldedPuppet:
        """The puppet with its kernels, made anew or kept."""
        depth = self.puppet.only_depth
        if self.adaptation == "sample":
            return self._fold(depth, self.generate(self.params.puppeteer, self.h, self.puppet.kernel_shapes(depth)))
        return self._bank(depth, self.h)

    def __call__(self, images: ArrayLike, h: ArrayLike | None = None) -> np.ndarray:
        """Logits (batch, num_classes) float32 of images (batch, height, width, channels); `h` is not looked at."""
        return self.route(images, h)[0]

    def route(self, images: ArrayLike, h: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and for each image one of `depths`, (batch,)."""
        images = np.asarray(check_images(images))
        check_image_size(images, self.image_size)
        check_threshold(self.threshold)
        folded, static = self._folded(), {"puppet": self.puppet, "exit_layer": self.exit_layer}
        early, late = self.depths
        results, depths, waiting = [], np.full(len(images), early), []
        for places, (logits, confidences, trunk) in _one_ahead(
            images, lambda x: _start(folded, self.head, x, **static, dtype=self.dtype)
        ):
            unsure = np.flatnonzero(~(np.asarray(confidences)[: len(places)] >= self.threshold))  # NaN is never sure
            results.append(np.asarray(logits)[: len(places)])  # cut on the host, where no size is a program of its own
            if len(unsure):
                answer = _go_on(folded, trunk, pad_indices(unsure, DEEP_SIZES), exit_layer=early)
                waiting.append((places[unsure], answer))
        result = np.concatenate(results)
        for indices, answer in waiting:
            result[indices] = np.asarray(answer)[: len(indices)]
            depths[indices] = late
        return result, depths

    def exits(self, images: ArrayLike) -> np.ndarray:
        """Logits (2, batch, num_classes) float32 of the exit and of the whole puppet, for all images."""
        folded, static = self._folded(), {"puppet": self.puppet, "exit_layer": self.exit_layer}
        run = lambda x: _both(folded, self.head, x, **static, dtype=self.dtype)  # noqa: E731
        images = np.asarray(check_images(images))
        check_image_size(images, self.image_size)
        parts = _one_ahead(images, run)
        return np.concatenate([np.asarray(logits)[:, : len(places)] for places, logits in parts], axis=1)


def load_early_exit(path: str | Path, **settings: Any) -> EarlyExitPredictor:
    """Reads a model file of the kind "early_exit".

    Args:
        path: of the file.
        **settings: override those of `EarlyExitPredictor` that the file says, such as `threshold`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, of another version, or another kind of model.
    """
    (params, batch_stats), description = load_model(path, _expected)
    network, puppet = description["network"], read_puppet(description["network"])
    measure = CalibratedComplexity(**description["complexity"])
    if measure.constant is None and "h" not in settings:
        raise ValueError(
            f"{path}: complexity.scale must be 0, since all images share the kernels of one complexity, got "
            f"{measure.scale}; give h=, the complexity of these kernels."
        )
    trained: dict[str, Any] = {
        "exit_layer": network["exit_layer"],
        "h": measure.constant,
        "threshold": description["threshold"],
        "adaptation": description["adaptation"],
        "image_size": tuple(network["image_size"]),
    }
    stats = batch_stats[puppet.only_depth]
    return EarlyExitPredictor(puppet, params.puppet, params.exit, stats, **trained | settings)


def _expected(description: dict[str, Any]) -> Any:
    network = description["network"]
    if network["kind"] != "early_exit":
        raise ValueError(f"an early exit is expected, got the kind {network['kind']!r}; load_pretrained reads puppets.")
    puppet = read_puppet(network)
    params, stats = like_puppet(description)
    head = jax.eval_shape(lambda: init_exit(jax.random.key(0), puppet, network["exit_layer"]))
    return EarlyExitParams(params, head), stats


@functools.partial(jax.jit, static_argnames=("puppet", "exit_layer", "dtype"))
def _both(folded, head, images, *, puppet, exit_layer, dtype):
    exit_logits, trunk = _exit(folded, head, images, puppet, exit_layer, dtype)
    return jnp.stack([exit_logits, _rest(folded, trunk, exit_layer)])


@functools.partial(jax.jit, static_argnames=("puppet", "exit_layer", "dtype"))
def _start(folded, head, images, *, puppet, exit_layer, dtype):
    """The exit: logits, confidences, and the activations from which the other layers go on."""
    logits, trunk = _exit(folded, head, images, puppet, exit_layer, dtype)
    return logits, confidence(logits), trunk


@functools.partial(jax.jit, static_argnames="exit_layer")
def _go_on(folded, trunk, indices, *, exit_layer):
    """The whole puppet's logits of some of the images."""
    return _rest(folded, trunk[indices], exit_layer)


def _exit(
    folded: FoldedPuppet, head: ExitHead, images: ArrayLike, puppet: Puppet, exit_layer: int, dtype: Any
) -> tuple[Array, Array]:
    """Logits of the exit, and the activations that it reads."""
    puppet.check_shapes(jnp.shape(images), puppet.kernel_shapes(puppet.only_depth), puppet.only_depth)
    trunk = run_folded(folded, centred(images).astype(dtype), last=exit_layer)
    return classify_early(puppet, head, trunk), trunk


def _rest(folded: FoldedPuppet, trunk: Array, exit_layer: int) -> Array:
    return classify_folded(folded, run_folded(folded, trunk, first=exit_layer))


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
