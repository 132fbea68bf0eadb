"""Ensembles and test-time augmentation: accuracy for computation; views of one network store nothing more."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jax.typing import ArrayLike

from puppet_jax.checks import check_images, check_threshold
from puppet_jax.extras.early_exit import confidence

DIAGONALS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
"""Shifts by one pixel down or up and right or left."""


def ensemble(
    predictors: Sequence[Callable[[np.ndarray], ArrayLike]],
    images: ArrayLike,
    threshold: float | None = None,
    logits: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean probabilities of several predictors, of which all but the first may see the uncertain images alone.

    Views of one network (`shifted_views`) store nothing more; other networks store theirs. The answer to an image does
    not depend on the other images.

    Args:
        predictors: from images (batch, height, width, channels) to logits (batch, classes), such as `Predictor`; at
            least one.
        images: (batch, height, width, channels), uint8 or floating in [0, 1].
        threshold: the others see the images of which the first predictor is less confident than this, see `confidence`
            and `exit_threshold`. None: they see all images.
        logits: (batch, classes) of the first predictor where they are known already.

    Returns:
        `(log_probabilities, num_predictors)`: (batch, classes) float32, which count as logits; and (batch,) int64, how
        many predictors saw each image, 1 or all.

    Raises:
        ValueError: if images or logits are not as above, or there is no predictor.

    Example:
        >>> import numpy as np
        >>> from puppet_jax import extras
        >>> images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
        >>> predict = lambda x: x.sum(axis=(1, 2))
        >>> logits, num_predictors = extras.ensemble([predict, *extras.shifted_views(predict)], images)
        >>> logits.shape, num_predictors.tolist()
        ((4, 3), [5, 5, 5, 5])
    """
    if not isinstance(predictors, Sequence) or not all(map(callable, predictors)):
        raise TypeError(f"predictors must be a sequence of functions of images, got {predictors!r:.80}.")
    if not predictors:
        raise ValueError("predictors must hold at least one, got none.")
    images = np.asarray(check_images(images))
    if threshold is not None:
        check_threshold(threshold)
    result = _log_softmax(predictors[0](images) if logits is None else logits, len(images))
    unsure = np.ones(len(images), bool) if threshold is None else ~(np.asarray(confidence(result)) >= threshold)
    if unsure.any() and len(predictors) > 1:
        chosen = images[unsure]
        answers = [result[unsure], *(_log_softmax(predict(chosen), len(chosen)) for predict in predictors[1:])]
        result[unsure] = np.logaddexp.reduce(answers) - np.log(len(answers))
    return result, np.where(unsure, len(predictors), 1)


def shifted_views(
    predict: Callable[[np.ndarray], ArrayLike], shifts: Sequence[tuple[int, int]] = DIAGONALS
) -> tuple[Callable[[np.ndarray], ArrayLike], ...]:
    """For each shift what `predict` answers to images that are shifted so.

    Args:
        predict: from images (batch, height, width, channels) to logits.
        shifts: rows (down) and columns (right), in pixels; the border is reflected. Calling refuses images that are too
            small.

    References:
        Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural networks, 2012, Sec.
        4.1, who average over shifted and mirrored crops.
    """
    return tuple(functools.partial(_predict_shifted, predict, shift) for shift in shifts)


def _predict_shifted(predict: Callable, shift: tuple[int, int], images: np.ndarray) -> ArrayLike:
    height, width = images.shape[1:3]
    if abs(shift[0]) >= height or abs(shift[1]) >= width:
        raise ValueError(f"images of {height} x {width} pixels cannot be shifted by {shift}; give smaller shifts.")
    before, after = ([max(0, step) for step in steps] for steps in (shift, (-shift[0], -shift[1])))
    border = [(0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)]
    padded = np.pad(images, border, mode="reflect")
    return predict(padded[:, after[0] : after[0] + height, after[1] : after[1] + width])


def _log_softmax(answer: ArrayLike, count: int) -> np.ndarray:
    """Of logits of `count` images; in NumPy, since JAX compiles a program for every number of images."""
    logits = np.asarray(answer, np.float32)
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(f"logits must have shape ({count}, classes) for {count} images, got {logits.shape}.")
    with np.errstate(invalid="ignore", over="ignore"):  # what is infinite or NaN gives NaN
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
