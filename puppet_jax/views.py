"""Views: an image whose first answer is in doubt is looked at again, moved by a pixel. Stores nothing."""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.typing import ArrayLike

from puppet_jax._checks import check_images
from puppet_jax.early_exit import doubt

DIAGONALS = ((1, 1), (-1, -1), (1, -1), (-1, 1))
"""Moves by one pixel down or up and right or left."""


def average_views(
    predict: Callable[[np.ndarray], ArrayLike],
    images: ArrayLike,
    moves: Sequence[tuple[int, int]] = DIAGONALS,
    threshold: float | None = None,
    logits: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a classifier to several views of each image that it is unsure of: the mean of their probabilities.

    Accuracy for computation, as depth is, at no stored byte; with a threshold for a part of the images alone. The
    answer to an image does not depend on the other images.

    Args:
        predict: from images (batch, height, width, channels) to logits (batch, classes), such as a `Predictor`.
        images: (batch, height, width, channels), uint8 or floating in [0, 1].
        moves: rows (down) and columns (right) that each further view is moved by, in pixels; the border is reflected.
        threshold: the doubt in [0, 1] of the answer to the image itself that sends it on to the further views, see
            `doubt` and `exit_threshold`; None sends all.
        logits: (batch, classes) of the images themselves where they are known already, else `predict` is asked.

    Returns:
        `(log_probabilities, num_views)`: (batch, classes) float32, which count as logits; and (batch,) int64, how many
        views each image had, 1 or one more than there are moves.

    Raises:
        ValueError: if the images are not as above, or too small for a move.

    Example:
        >>> import numpy as np, puppet_jax as pj
        >>> images = np.random.default_rng(0).random((4, 8, 8, 3), np.float32)
        >>> logits, num_views = pj.average_views(lambda x: x.sum(axis=(1, 2)), images)
        >>> logits.shape, num_views.tolist()
        ((4, 3), [5, 5, 5, 5])

    References:
        Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural networks, 2012, Sec.
        4.1, who average over moved and mirrored crops.
    """
    images = np.asarray(check_images(images))
    largest = max((abs(step) for move in moves for step in move), default=0)
    if largest >= min(images.shape[1:3]):
        raise ValueError(
            f"images of {images.shape[1]} x {images.shape[2]} pixels cannot be moved by {largest}; give smaller moves."
        )
    logits = predict(images) if logits is None else logits
    first = np.asarray(jax.nn.log_softmax(np.asarray(logits, np.float32)))
    unsure = np.ones(len(images), bool) if threshold is None else np.asarray(doubt(first)) > threshold
    num_views = np.where(unsure, 1 + len(moves), 1)
    if not unsure.any():
        return first, num_views
    border = [(0, 0), (largest, largest), (largest, largest), (0, 0)]
    padded = np.pad(images[unsure], border, mode="reflect")
    total = np.exp(first[unsure])
    for rows, columns in moves:
        row, column = largest - rows, largest - columns
        view = padded[:, row : row + images.shape[1], column : column + images.shape[2]]
        total = total + np.asarray(jax.nn.softmax(np.asarray(predict(view), np.float32)))
    result = first.copy()
    result[unsure] = np.log(np.maximum(total / (1 + len(moves)), np.finfo(np.float32).tiny))
    return result, num_views
