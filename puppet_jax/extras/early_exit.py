"""Early exit by confidence: saves the deep layers for images that are easy; costs a linear classifier of floats."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, DTypeLike, Float, PRNGKeyArray

from puppet_jax.accounting import puppet_macs
from puppet_jax.architecture import Puppet
from puppet_jax.checks import check_images
from puppet_jax.model_file import load_model
from puppet_jax.model_format import read_puppet
from puppet_jax.predictor import KernelBank
from puppet_jax.pretrained import like_puppet
from puppet_jax.puppet import (
    BatchStats,
    PuppetParams,
    check_inputs,
    classify,
    global_pool,
    init_classifier,
    run_layers,
)
from puppet_jax.routing import Adaptation, check_adaptation, pad_indices, pieces
from puppet_jax.trajectory import generate_kernels

DEEP_SIZES = (1, 4, 16, 32, 64, 96, 128, 192, 256)
"""Numbers of images that go on together: close to each other, since padding is wasted work."""


@no_type_check  # trees of shapes, of booleans or of arrays on hosts are of this class too
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExitHead:
    """A linear classifier behind the first layers of a puppet.

    Attributes:
        kernel: (features, classes).
        bias: (classes,).
    """

    kernel: Float[Array, "features classes"]
    bias: Float[Array, " classes"]


class EarlyExitParams(NamedTuple):
    """All trainable floats of a puppet with an early exit, as its model file names them."""

    puppet: PuppetParams
    exit: ExitHead


def init_exit(key: PRNGKeyArray, puppet: Puppet, exit_layer: int) -> ExitHead:
    """A head behind the first `exit_layer` convolutions, as `init_puppet` makes the classifier.

    Raises:
        ValueError: if the puppet's depth is not fixed by `layers`, or `exit_layer` is none of its layers but the last.
    """
    check_exit(puppet, exit_layer)
    kernel, bias = init_classifier(key, puppet.free_channels(_width(puppet, exit_layer)), puppet.num_classes)
    return ExitHead(kernel=kernel, bias=bias)


def apply_with_exit(
    puppet: Puppet,
    params: PuppetParams,
    head: ExitHead,
    batch_stats: Sequence[BatchStats] | None,
    kernels: Sequence[Array],
    images: ArrayLike,
    exit_layer: int,
    dtype: DTypeLike = jnp.float32,
    key: PRNGKeyArray | None = None,
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch classes"], tuple[BatchStats, ...]]:
    """What `apply_puppet` gives, and before it the logits of the head.

    A stop-gradient stands before the head: its logits have a gradient with respect to the head alone, so that the
    puppet trains as it would without.

    Args:
        puppet: the architecture (static), of given `layers`.
        params: as in `apply_puppet`.
        head: from `init_exit`.
        batch_stats: as in `apply_puppet`, of all layers, or None.
        kernels: as in `apply_puppet`.
        images: as in `apply_puppet`.
        exit_layer: the head reads the activations behind this many convolutions (static).
        dtype: as in `apply_puppet`.
        key: as in `apply_puppet`.

    Returns:
        `(exit_logits, logits, stats)`.

    Raises:
        ValueError: as `apply_puppet` and `init_exit` do.

    Example:
        >>> import jax, numpy as np, puppet_jax as pj
        >>> from puppet_jax import extras
        >>> puppet = pj.Puppet(channels=(4, 8), layers=(1, 2))
        >>> params = pj.init_puppet(jax.random.key(1), puppet, pj.init_puppeteer(jax.random.key(0), max_channels=8))
        >>> head = extras.init_exit(jax.random.key(2), puppet, exit_layer=2)
        >>> kernels = pj.generate_kernels(params.puppeteer, 4.5, puppet.kernel_shapes(3))
        >>> images = np.zeros((2, 8, 8, 3), np.uint8)
        >>> exit_logits, logits, stats = extras.apply_with_exit(puppet, params, head, None, kernels, images, 2)
        >>> exit_logits.shape, logits.shape
        ((2, 10), (2, 10))
    """
    check_exit(puppet, exit_layer)
    depth = puppet.only_depth
    x = check_inputs(puppet, params, kernels, images, depth).astype(dtype)
    trunk, first = run_layers(puppet, params, batch_stats, kernels, x, depth, last=exit_layer, key=key)
    exit_logits = _exit_logits(puppet, head, lax.stop_gradient(trunk))
    x, rest = run_layers(puppet, params, batch_stats, kernels, trunk, depth, first=exit_layer, key=key)
    return exit_logits, classify(puppet, params, kernels, x), first + rest


def confidence(logits: Float[ArrayLike, "*batch classes"]) -> Float[Array, "*batch"]:
    """The difference of a classifier's two largest probabilities, in [0, 1].

    Args:
        logits: (..., classes), at least two classes.

    Raises:
        ValueError: if there is one class alone.

    Example:
        >>> import jax.numpy as jnp
        >>> from puppet_jax import extras
        >>> extras.confidence(jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.8, 0.15, 0.05]]))).round(2).tolist()
        [0.0, 0.6499999761581421]
    """
    if jnp.shape(logits)[-1] < 2:
        raise ValueError(f"logits must be of at least two classes, got shape {jnp.shape(logits)}.")
    first, second = jnp.moveaxis(lax.top_k(jax.nn.softmax(jnp.asarray(logits)), 2)[0], -1, 0)
    return first - second


def exit_threshold(confidences: ArrayLike, fraction: float) -> float:
    """The threshold below which a fraction of the confidences lies: those images are sent on.

    Args:
        confidences: (images,) of held-out images; a network is more confident of its training images.
        fraction: of the images, in (0, 1).

    Raises:
        ValueError: if `fraction` is out of range, or a confidence is NaN.
    """
    values = np.asarray(confidences, np.float64)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be in (0, 1), got {fraction}.")
    if not len(values) or np.isnan(values).any():
        raise ValueError(
            f"confidences must be numbers, at least one, got {values.size} with {np.isnan(values).sum()} NaN."
        )
    return float(np.quantile(values, fraction))


def combine_exits(
    exit_logits: Float[ArrayLike, "batch classes"], logits: Float[ArrayLike, "batch classes"], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """What `EarlyExitPredictor` answers, from the logits of both for all images.

    Returns:
        `(logits, sent_on)`: (batch, classes) float32, those of the whole puppet where the exit is less confident than
        `threshold`, else those of the exit; and (batch,) bool, where that is.
    """
    early, late = np.asarray(exit_logits, np.float32), np.asarray(logits, np.float32)
    sent_on = np.asarray(confidence(early)) < threshold
    return np.where(sent_on[:, None], late, early), sent_on


def exit_macs(puppet: Puppet, exit_layer: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Multiply-accumulates of an image that leaves at the exit, and of one that is sent on.

    Args:
        puppet: the architecture, of given `layers`.
        exit_layer: as in `apply_with_exit`.
        image_size: (height, width) of the image.
    """
    check_exit(puppet, exit_layer)
    whole, rest = (puppet_macs(puppet, puppet.only_depth, image_size, first) for first in (0, exit_layer))
    head = _width(puppet, exit_layer) * puppet.num_classes
    return whole - rest + head, whole + head


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

    Raises:
        ValueError: if the exit or the statistics do not fit the puppet.

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
    ):
        check_exit(puppet, exit_layer)
        check_adaptation(adaptation)
        if len(batch_stats) != puppet.only_depth:
            raise ValueError(
                f"batch_stats must be of the {puppet.only_depth} layers of the puppet, got {len(batch_stats)}."
            )
        self.puppet = puppet
        self.params = params
        self.head = head
        self.batch_stats = tuple(batch_stats)
        self.exit_layer = exit_layer
        self.h = h
        self.threshold = 0.0 if threshold is None else threshold
        self.adaptation = adaptation
        self.dtype = dtype
        self.generate = generate
        self._bank = KernelBank(puppet, params.puppeteer, 1, generate)

    @property
    def depths(self) -> tuple[int, int]:
        """Layers of an image that leaves at the exit, and of one that is sent on."""
        return self.exit_layer, self.puppet.only_depth

    @property
    def kernels(self) -> tuple[Array, ...]:
        """The kernels of the puppet."""
        depth = self.puppet.only_depth
        if self.adaptation == "sample":
            return self.generate(self.params.puppeteer, self.h, self.puppet.kernel_shapes(depth))
        return self._bank(depth, self.h)

    def __call__(self, images: ArrayLike, h: ArrayLike | None = None) -> np.ndarray:
        """Logits (batch, num_classes) float32 of images (batch, height, width, channels); `h` is not looked at."""
        return self.route(images, h)[0]

    def route(self, images: ArrayLike, h: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Logits, and for each image one of `depths`, (batch,)."""
        images = np.asarray(check_images(images))
        fixed = (self.puppet, self.params, self.batch_stats, self.kernels)
        early, late = self.depths
        results, depths, waiting = [], np.full(len(images), early), []
        for places, (logits, confidences, trunk) in _one_ahead(
            images, lambda x: _start(*fixed, self.head, x, exit_layer=early, dtype=self.dtype)
        ):
            unsure = np.flatnonzero(np.asarray(confidences)[: len(places)] < self.threshold)
            results.append(np.asarray(logits)[: len(places)])  # cut on the host, where no size is a program of its own
            if len(unsure):
                answer = _go_on(*fixed, trunk, pad_indices(unsure, DEEP_SIZES), exit_layer=early)
                waiting.append((places[unsure], answer))
        result = np.concatenate(results)
        for indices, answer in waiting:
            result[indices] = np.asarray(answer)[: len(indices)]
            depths[indices] = late
        return result, depths

    def exits(self, images: ArrayLike) -> np.ndarray:
        """Logits (2, batch, num_classes) float32 of the exit and of the whole puppet, for all images."""
        fixed = (self.puppet, self.params, self.head, self.batch_stats, self.kernels)
        run = lambda x: _both(*fixed, x, exit_layer=self.exit_layer, dtype=self.dtype)  # noqa: E731
        parts = _one_ahead(np.asarray(check_images(images)), run)
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
    trained: dict[str, Any] = {
        "exit_layer": network["exit_layer"],
        "h": description["complexity"]["offset"],
        "threshold": description["threshold"],
        "adaptation": description["adaptation"],
    }
    stats = batch_stats[puppet.only_depth]
    return EarlyExitPredictor(puppet, params.puppet, params.exit, stats, **trained | settings)


def check_exit(puppet: Puppet, exit_layer: int) -> None:
    """Raises a ValueError unless the puppet has one depth, and layers both before and behind the exit."""
    if not 1 <= exit_layer < puppet.only_depth:
        raise ValueError(f"exit_layer must be at least 1 and less than {puppet.only_depth}, got {exit_layer}.")


def _expected(description: dict[str, Any]) -> Any:
    network = description["network"]
    if network["kind"] != "early_exit":
        raise ValueError(f"an early exit is expected, got the kind {network['kind']!r}; load_pretrained reads puppets.")
    puppet = read_puppet(network)
    params, stats = like_puppet(description)
    head = jax.eval_shape(lambda: init_exit(jax.random.key(0), puppet, network["exit_layer"]))
    return EarlyExitParams(params, head), stats


def _width(puppet: Puppet, exit_layer: int) -> int:
    return puppet.convolutions(puppet.only_depth)[exit_layer - 1].channels


def _exit_logits(
    puppet: Puppet, head: ExitHead, x: Float[Array, "batch height width channels"]
) -> Float[Array, "batch classes"]:
    return jnp.dot(global_pool(x, puppet.mirror), head.kernel, precision=lax.Precision.HIGHEST) + head.bias[None]


@functools.partial(jax.jit, static_argnames=("puppet", "exit_layer", "dtype"))
def _both(puppet, params, head, batch_stats, kernels, images, *, exit_layer, dtype):
    exit_logits, logits, _ = apply_with_exit(puppet, params, head, batch_stats, kernels, images, exit_layer, dtype)
    return jnp.stack([exit_logits, logits])


@functools.partial(jax.jit, static_argnames=("puppet", "exit_layer", "dtype"))
def _start(puppet, params, batch_stats, kernels, head, images, *, exit_layer, dtype):
    """The exit: logits, confidences, and the activations from which the other layers go on."""
    x = check_inputs(puppet, params, kernels, images, puppet.only_depth).astype(dtype)
    trunk, _ = run_layers(puppet, params, batch_stats, kernels, x, puppet.only_depth, last=exit_layer)
    logits = _exit_logits(puppet, head, trunk)
    return logits, confidence(logits), trunk


@functools.partial(jax.jit, static_argnames=("puppet", "exit_layer"))
def _go_on(puppet, params, batch_stats, kernels, trunk, indices, *, exit_layer):
    """The whole puppet's logits of some of the images."""
    x, _ = run_layers(puppet, params, batch_stats, kernels, trunk[indices], puppet.only_depth, first=exit_layer)
    return classify(puppet, params, kernels, x)


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
