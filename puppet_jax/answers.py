"""Further answers: where a first one is in doubt, moved views of the image and other networks are asked as well."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from puppet_jax._checks import check_images
from puppet_jax.early_exit import doubt

DIAGONALS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
"""Moves by one pixel down or up and right or left."""


def average_answers(
    predictors: Sequence[Callable[[np.ndarray], ArrayLike]],
    images: ArrayLike,
    threshold: float | None = None,
    logits: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The mean probabilities of several predictors, of which all but the first see the images in doubt alone.

    Accuracy for computation, as depth is. Views of one network (`moved_views`) store nothing more; other networks store
    theirs. The answer to an image does not depend on the other images.

    Args:
        predictors: from images (batch, height, width, channels) to logits (batch, classes), such as `Predictor`; at
            least one.
        images: (batch, height, width, channels), uint8 or floating in [0, 1].
        threshold: the doubt in [0, 1] of the first predictor's answer above which the others are asked, see `doubt` and
            `exit_threshold`; None asks them of all images.
        logits: (batch, classes) of the first predictor where they are known already.

    Returns:
        `(log_probabilities, num_answers)`: (batch, classes) float32, which count as logits; and (batch,) int64, how
        many predictors were asked of each image, 1 or all.

    Raises:
        ValueError: if the images are not as above, or there is no predictor.

    Example:
        >>> import numpy as np, puppet_jax as pj
        >>> images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
        >>> predict = lambda x: x.sum(axis=(1, 2))
        >>> logits, num_answers = pj.average_answers([predict, *pj.moved_views(predict)], images)
        >>> logits.shape, num_answers.tolist()
        ((4, 3), [5, 5, 5, 5])
    """
    if not predictors:
        raise ValueError("predictors must hold at least one, got none.")
    images = np.asarray(check_images(images))
    result = _log_softmax(predictors[0](images) if logits is None else logits)
    unsure = np.ones(len(images), bool) if threshold is None else np.asarray(doubt(result)) > threshold
    if unsure.any() and len(predictors) > 1:
        answers = [result[unsure], *(_log_softmax(predict(images[unsure])) for predict in predictors[1:])]
        result[unsure] = np.logaddexp.reduce(answers) - np.log(len(answers))
    return result, np.where(unsure, len(predictors), 1)


def moved_views(
    predict: Callable[[np.ndarray], ArrayLike], moves: Sequence[tuple[int, int]] = DIAGONALS
) -> tuple[Callable[[np.ndarray], ArrayLike], ...]:
    """For each move what `predict` answers to images that are moved so.

    Args:
        predict: from images (batch, height, width, channels) to logits.
        moves: rows (down) and columns (right), in pixels; the border is reflected. Calling refuses images that are too
            small.

    References:
        Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural networks, 2012, Sec.
        4.1, who average over moved and mirrored crops.
    """
    return tuple(functools.partial(_predict_moved, predict, move) for move in moves)


def _predict_moved(predict: Callable, move: tuple[int, int], images: np.ndarray) -> ArrayLike:
    height, width = images.shape[1:3]
    if abs(move[0]) >= height or abs(move[1]) >= width:
        raise ValueError(f"images of {height} x {width} pixels cannot be moved by {move}; give smaller moves.")
    before, after = ([max(0, step) for step in steps] for steps in (move, (-move[0], -move[1])))
    border = [(0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)]
    padded = np.pad(images, border, mode="reflect")
    return predict(padded[:, after[0] : after[0] + height, after[1] : after[1] + width])


def _log_softmax(logits: ArrayLike) -> np.ndarray:
    return np.array(jax.nn.log_softmax(np.asarray(logits, np.float32)))  # a copy, which can be written to
