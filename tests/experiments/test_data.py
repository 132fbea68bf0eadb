import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data import load_dataset, split_indices
from experiments.errors import DataError, ExperimentError


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(DataError, match="'cifar'.*cifar10, cifar100, digits"):
        load_dataset("cifar")
    with pytest.raises(DataError, match="'web'.*auto, tfds, archive"):
        load_dataset("cifar10", source="web")
    assert issubclass(DataError, ExperimentError)


def test_a_folder_and_a_source_exclude_each_other(tmp_path):
    with pytest.raises(DataError, match="--data-dir .* --data-source tfds"):
        load_dataset("cifar10", data_dir=tmp_path, source="tfds")


def test_loading_needs_no_jax():
    code = "import sys, experiments.data; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


class TestDigits:
    def test_contents(self):
        sklearn_datasets = pytest.importorskip("sklearn.datasets")
        digits = load_dataset("digits")
        assert digits.train_images.shape == (1437, 8, 8, 1)
        assert digits.test_images.shape == (360, 8, 8, 1)
        assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
        assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
        assert digits.class_names == tuple("0123456789")
        np.testing.assert_array_equal(np.bincount(digits.test_labels), 36)

        # Every image is there once, with its label, its 17 levels spread over 0 ... 255.
        bundled = sklearn_datasets.load_digits()
        expected = [
            (int(label), bytes(round(value * 255 / 16) for value in image.ravel().tolist()))
            for image, label in zip(bundled.images, bundled.target, strict=True)
        ]
        images = np.concatenate([digits.train_images, digits.test_images])
        labels = np.concatenate([digits.train_labels, digits.test_labels])
        got = [(int(label), image.tobytes()) for image, label in zip(images, labels, strict=True)]
        assert sorted(got) == sorted(expected)

    def test_the_test_set_is_always_the_same(self):
        pytest.importorskip("sklearn")
        np.random.seed(1)
        first = load_dataset("digits")
        np.random.seed(2)
        second = load_dataset("digits")
        np.testing.assert_array_equal(first.test_images, second.test_images)
        np.testing.assert_array_equal(first.train_images, second.train_images)

    def test_come_from_nowhere_else(self, tmp_path):
        with pytest.raises(DataError, match="scikit-learn.*--data-dir"):
            load_dataset("digits", data_dir=tmp_path)
        with pytest.raises(DataError, match="scikit-learn.*--data-source"):
            load_dataset("digits", source="archive")


class TestSplitIndices:
    @pytest.mark.parametrize(
        ("num_images", "num_validation", "expected"),
        [(None, 0, 100), (None, 30, 70), (50, 30, 50), (70, 30, 70)],
    )
    def test_sizes(self, num_images, num_validation, expected):
        train, validation = split_indices(100, num_images, num_validation, seed=3)
        assert (len(train), len(validation)) == (expected, num_validation)
        both = np.concatenate([train, validation])
        assert len(np.unique(both)) == len(both)
        assert both.min() >= 0
        assert both.max() < 100
        assert both.dtype == np.int64

    def test_is_a_function_of_its_arguments(self):
        first, again = split_indices(100, 40, 20, seed=5), split_indices(100, 40, 20, seed=5)
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)
        train, validation = split_indices(100, 40, 20, seed=6)
        assert not np.array_equal(train, first[0])
        assert not np.array_equal(validation, first[1])

    def test_smaller_training_sets_are_nested(self):
        small, validation = split_indices(100, 10, 20, seed=0)
        large, same_validation = split_indices(100, None, 20, seed=0)
        np.testing.assert_array_equal(validation, same_validation)
        assert set(small) < set(large)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((100, 0, 0, 0), "training images must be at least 1, got 0"),
            ((100, -5, 0, 0), "training images must be at least 1, got -5"),
            ((100, None, -1, 0), "validation images must be at least 0, got -1"),
            ((100, 101, 0, 0), "101 training and 0 validation .* has 100"),
            ((100, 80, 21, 0), "80 training and 21 validation .* has 100"),
            ((100, None, 100, 0), "at least 1 training and 100 validation .* has 100"),
            ((100, None, 0, -1), "seed must be at least 0, got -1"),
        ],
    )
    def test_absurd_sizes_are_refused(self, arguments, message):
        with pytest.raises(DataError, match=message):
            split_indices(*arguments)


@pytest.mark.data
def test_official_cifar10():
    folder = os.environ.get("PUPPET_CIFAR10_DIR")
    if not folder:
        pytest.skip("PUPPET_CIFAR10_DIR is not set to a folder with the official binary files")
    cifar10 = load_dataset("cifar10", data_dir=Path(folder))
    assert cifar10.train_images.shape == (50_000, 32, 32, 3)
    assert cifar10.test_images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(cifar10.train_labels[:10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3])
    np.testing.assert_array_equal(cifar10.test_labels[:10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])
    np.testing.assert_array_equal(np.bincount(cifar10.train_labels), 5_000)
    np.testing.assert_array_equal(np.bincount(cifar10.test_labels), 1_000)
