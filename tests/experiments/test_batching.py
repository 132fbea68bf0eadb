"""Buckets of one depth, and the batches of an epoch."""

import numpy as np
import pytest

from experiments.training.batching import epoch_batches, make_buckets, steps_per_epoch

BATCH = 8
# Depth 3 holds 40 images, depth 4 holds 24, depth 5 two: complexities in no order.
H = np.random.Generator(np.random.PCG64(0)).permutation(
    np.concatenate([np.linspace(3.0, 3.9, 40), np.linspace(4.0, 4.9, 24), [5.1, 5.2]])
)
DEPTHS = np.floor(H).astype(np.int32)


@pytest.fixture
def buckets():
    return make_buckets(H, DEPTHS, BATCH)


def test_one_bucket_for_each_depth(buckets):
    assert [bucket.depth for bucket in buckets] == [3, 4, 5]
    assert [bucket.borrowed for bucket in buckets] == [0, 0, 6]
    for bucket in buckets[:2]:
        np.testing.assert_array_equal(np.sort(bucket.indices), np.flatnonzero(bucket.depth == DEPTHS))


def test_a_rare_depth_borrows_the_nearest_in_complexity(buckets):
    rare = buckets[2]
    assert sorted(H[rare.indices[:2]]) == [5.1, 5.2]
    # of depth 4, the six most complex
    np.testing.assert_allclose(np.sort(H[rare.indices[2:]]), np.sort(H)[-8:-2])
    assert len(set(rare.indices.tolist())) == BATCH


def test_a_rare_depth_borrows_from_both_sides():
    h = np.array([1.0, 2.0, 2.9, 3.5, 4.2, 5.0, 9.0])
    rare = make_buckets(h, np.array([1, 1, 1, 3, 4, 4, 4]), 4)[1]
    assert (rare.depth, rare.borrowed) == (3, 3)
    assert set(rare.indices.tolist()) == {3, 2, 4, 1}  # 0.6, 0.7 and (the first of two at) 1.5 nats away


def test_a_depth_of_just_one_batch_borrows_nothing():
    buckets = make_buckets(np.array([1.0, 1.1, 2.0, 2.1]), np.array([1, 1, 2, 2]), 2)
    assert [bucket.borrowed for bucket in buckets] == [0, 0]


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at most the 66 training images, got 67"):
        make_buckets(H, DEPTHS, len(H) + 1)
    assert len(make_buckets(H, DEPTHS, len(H))) == 3


@pytest.mark.parametrize("epoch", range(3))
def test_batches_of_an_epoch(buckets, epoch):
    batches = epoch_batches(buckets, H, BATCH, seed=0, epoch=epoch)
    assert len(batches) == steps_per_epoch(buckets, BATCH) == 5 + 3 + 1
    of_depth = {bucket.depth: [b for depth, b in batches if depth == bucket.depth] for bucket in buckets}
    assert {depth: len(mine) for depth, mine in of_depth.items()} == {3: 5, 4: 3, 5: 1}
    for bucket in buckets:
        seen = np.concatenate(of_depth[bucket.depth])
        assert len(set(seen.tolist())) == len(seen)
        assert set(seen.tolist()) <= set(bucket.indices.tolist())
    for _, indices in batches:
        assert indices.shape == (BATCH,)
        assert indices.dtype == np.int32
        assert (np.diff(H[indices]) >= 0).all()


def test_a_remainder_is_left_out_and_differs_from_epoch_to_epoch():
    h = np.linspace(1, 2, 11)
    buckets = make_buckets(h, np.ones(11, int), 4)
    assert steps_per_epoch(buckets, 4) == 2
    left_out = []
    for epoch in range(30):
        seen = np.concatenate([indices for _, indices in epoch_batches(buckets, h, 4, 0, epoch)])
        assert len(set(seen.tolist())) == len(seen) == 8
        left_out.append(frozenset(range(11)) - frozenset(seen.tolist()))
    assert len(set(left_out)) > 4
    assert frozenset.union(*left_out) == frozenset(range(11))


def test_depths_are_mixed_within_an_epoch(buckets):
    orders = [tuple(depth for depth, _ in epoch_batches(buckets, H, BATCH, 0, epoch)) for epoch in range(6)]
    assert len(set(orders)) > 3
    assert any(order != tuple(sorted(order)) for order in orders)


def flat(batches):
    return [(depth, *indices.tolist()) for depth, indices in batches]


def test_batches_are_a_function_of_seed_and_epoch_alone(buckets):
    first = flat(epoch_batches(buckets, H, BATCH, 3, 5))
    np.random.seed(0)
    for epoch in range(4):
        epoch_batches(buckets, H, BATCH, 3, epoch)  # nothing is carried from epoch to epoch
    assert flat(epoch_batches(make_buckets(H, DEPTHS, BATCH), H, BATCH, 3, 5)) == first
    assert flat(epoch_batches(buckets, H, BATCH, 3, 6)) != first
    assert flat(epoch_batches(buckets, H, BATCH, 4, 5)) != first
    assert flat(epoch_batches(buckets, H, BATCH, 5, 3)) != first
