"""Which images a training step sees: batches of one depth bucket, in random order."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Training images of one depth.

    Attributes:
        depth: the depth of the puppet that they run through.
        indices: (n,) their places in the training set, n at least one batch.
        borrowed: how many of them belong to other depths (see `make_buckets`).
    """

    depth: int
    indices: np.ndarray
    borrowed: int


def make_buckets(h: np.ndarray, depths: np.ndarray, batch_size: int) -> list[Bucket]:
    """One bucket for every depth that occurs, however rare.

    A bucket smaller than a batch borrows the images of other depths whose complexity is nearest to its own mean.
    They run through its puppet too, in addition to their own: so a depth that holds 0.5 % of the images gets one
    whole batch an epoch, batch-norm statistics of a whole batch, and neither repeats a handful of images nor is
    dropped.

    Args:
        h: (images,) complexities, nats.
        depths: (images,) depth of each.
        batch_size: images a batch, at most the number of images.

    Returns:
        Buckets, shallowest first.
    """
    if batch_size > len(h):
        raise ValueError(f"batch_size must be at most the {len(h)} training images, got {batch_size}.")
    buckets = []
    for depth in sorted(set(depths.tolist())):
        own = np.flatnonzero(depths == depth)
        others = np.flatnonzero(depths != depth)
        nearest = others[np.argsort(np.abs(h[others] - h[own].mean()), kind="stable")]
        borrowed = nearest[: max(0, batch_size - len(own))]
        buckets.append(Bucket(int(depth), np.concatenate([own, borrowed]), len(borrowed)))
    return buckets


def steps_per_epoch(buckets: Sequence[Bucket], batch_size: int) -> int:
    """Number of batches that `epoch_batches` returns, the same for every epoch."""
    return sum(len(bucket.indices) // batch_size for bucket in buckets)


def epoch_batches(
    buckets: Sequence[Bucket], h: np.ndarray, batch_size: int, seed: int, epoch: int
) -> list[tuple[int, np.ndarray]]:
    """The batches of one epoch in a random order, each depth in proportion to its bucket.

    Within a bucket images are shuffled and cut into batches, so that each is seen about once (a remainder of less
    than a batch is left out, another one each epoch). Within a batch they are in order of complexity, so that a
    step can share kernels among neighbours.

    Args:
        buckets: from `make_buckets`.
        h: (images,) complexities, nats.
        batch_size: images a batch.
        seed: of the run.
        epoch: number of the epoch; the result is a function of the arguments alone.

    Returns:
        `(depth, indices)` of each batch; indices (batch_size,) int32.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    batches = []
    for bucket in buckets:
        order = rng.permutation(bucket.indices)
        order = order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)
        batches += [(bucket.depth, batch[np.argsort(h[batch], kind="stable")].astype(np.int32)) for batch in order]
    return [batches[i] for i in rng.permutation(len(batches))]
