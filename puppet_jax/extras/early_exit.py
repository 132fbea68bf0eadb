"""Early exit by confidence: saves the deep layers for images that are easy; costs a linear classifier of floats."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, DTypeLike, Float, PRNGKeyArray

from puppet_jax.accounting import puppet_macs
from puppet_jax.architecture import Puppet
from puppet_jax.checks import as_floats, as_integer, check_number, check_threshold
from puppet_jax.consistency import check_linear
from puppet_jax.puppet import (
    BatchStats,
    PuppetParams,
    check_inputs,
    classify,
    global_pool,
    init_classifier,
    run_layers,
)


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
        TypeError, ValueError: as `apply_puppet` and `init_exit` do.

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
    check_head(puppet, head, exit_layer)
    depth = puppet.only_depth
    x = check_inputs(puppet, params, batch_stats, kernels, images, depth, dtype)
    trunk, first = run_layers(puppet, params, batch_stats, kernels, x, depth, last=exit_layer, key=key)
    exit_logits = classify_early(puppet, head, lax.stop_gradient(trunk))
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
    if not jnp.ndim(logits) or jnp.shape(logits)[-1] < 2:
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
    values = as_floats("confidences", confidences, np.float64)
    check_number("fraction", fraction)
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
        `threshold`, or NaN, else those of the exit; and (batch,) bool, where that is.

    Raises:
        ValueError: if the threshold is NaN, or the logits have not one shape.
    """
    check_threshold(threshold)
    early, late = as_floats("exit_logits", exit_logits, np.float32), as_floats("logits", logits, np.float32)
    if early.shape != late.shape:
        raise ValueError(f"exit_logits and logits must have one shape, got {early.shape} and {late.shape}.")
    sent_on = ~(np.asarray(confidence(early)) >= threshold)  # NaN is never sure
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
    head = puppet.free_channels(_width(puppet, exit_layer)) * puppet.num_classes
    return whole - rest + head, whole + head


def check_exit(puppet: Puppet, exit_layer: int) -> None:
    """Raises a ValueError unless the puppet has one depth, and layers both before and behind the exit."""
    if not 1 <= as_integer("exit_layer", exit_layer, least=-(2**31)) < puppet.only_depth:
        raise ValueError(f"exit_layer must be at least 1 and less than {puppet.only_depth}, got {exit_layer}.")


def check_head(puppet: Puppet, head: ExitHead, exit_layer: int) -> None:
    """Raises a ValueError unless the head is one of an exit that the puppet has."""
    check_exit(puppet, exit_layer)
    features = puppet.free_channels(_width(puppet, exit_layer))
    check_linear("the exit head", head.kernel, head.bias, (features, puppet.num_classes))


def _width(puppet: Puppet, exit_layer: int) -> int:
    return puppet.convolutions(puppet.only_depth)[exit_layer - 1].channels


def classify_early(
    puppet: Puppet, head: ExitHead, x: Float[Array, "batch height width channels"]
) -> Float[Array, "batch classes"]:
    """The head's logits of the activations that it reads."""
    return jnp.dot(global_pool(x, puppet.mirror), head.kernel, precision=lax.Precision.HIGHEST) + head.bias[None]
