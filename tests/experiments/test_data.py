import importlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shared_programs import stand_still

from experiments.config import PuppetCNN
from experiments.data import load_dataset, split_indices, spread_indices
from experiments.errors import DataError, ExperimentError

TINY = [
    *["--epochs", "1", "--channels", "8", "--depths", "1", "1", "--num-images", "32", "--num-validation", "8"],
    *["--batch-size", "16", "--levels-per-batch", "1", "--num-levels", "2"],
]


def presets(experiment):
    return importlib.import_module(f"experiments.{experiment}").PRESETS


def one_line(capsys):
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def write_cifar100(folder, num_train=40, num_test=8):
    """The official binary layout: a coarse label, a fine label, 3 x 1024 bytes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, count in (("train", num_train), ("test", num_test)):
        records = rng.integers(0, 256, (count, 2 + 3072), np.uint8)
        records[:, 0] = np.arange(count) % 20
        records[:, 1] = 99 - np.arange(count)
        records.tofile(folder / f"{name}.bin")
    return folder


def write_classes(folder, classes=("ant", "bee"), count=3, pixels=8):
    image_module = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixel_values = rng.integers(0, 256, (pixels, pixels, 3), np.uint8)
            image_module.fromarray(pixel_values).save(folder / name / f"{number}.png")


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(DataError, match="'cifar'.*cifar10, cifar100, mini_imagenet, digits"):
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


class TestMiniImageNet:
    @pytest.mark.parametrize("source", ["auto", "tfds", "archive"])
    def test_is_never_downloaded(self, source):
        message = "no automatic download .*--data-dir DIR.* 100 classes, all resized to 64x64, as class folders"
        with pytest.raises(DataError, match=message):
            load_dataset("mini_imagenet", source=source)

    def test_is_split_eight_to_one_to_one(self, tmp_path):
        write_classes(tmp_path, count=30)
        data = load_dataset("mini_imagenet", data_dir=tmp_path)
        train, validation = split_indices(len(data.train_labels), None, 6, seed=0)
        assert (len(train), len(validation), len(data.test_labels)) == (48, 6, 6)
        np.testing.assert_array_equal(np.bincount(data.test_labels), [3, 3])


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


class TestPresets:
    """The papers' splits: 4:1:1 of CIFAR-100, 8:1:1 of mini-ImageNet."""

    @pytest.mark.parametrize(
        ("experiment", "num_available", "split"),
        [("cifar100", 50_000, (40_000, 10_000)), ("mini_imagenet", 54_000, (48_000, 6_000))],
    )
    @pytest.mark.parametrize("preset", ["small", "best", "paper", "full", "vgg-fixed", "resnet-adaptive"])
    def test_split(self, experiment, num_available, split, preset):
        config = presets(experiment)[preset]
        train, validation = split_indices(
            num_available, config.data.num_images, config.data.num_validation, config.seed
        )
        assert (len(train), len(validation)) == split

    @pytest.mark.parametrize("experiment", ["cifar100", "mini_imagenet"])
    def test_a_generated_classifier_fits_the_state(self, experiment):
        networks = [config.network for config in presets(experiment).values()]
        puppets = [network for network in networks if isinstance(network, PuppetCNN)]
        assert {puppet.classifier for puppet in puppets} == {"linear", "generated"}
        for puppet in puppets:
            assert puppet.classifier == "linear" or max(puppet.channels) >= 100

    @pytest.mark.parametrize("experiment", ["cifar100", "mini_imagenet"])
    def test_small_takes_about_as_many_steps_as_on_cifar10(self, experiment):
        steps = 28 * 8_000
        small = presets(experiment)["small"]
        assert list(presets(experiment))[0] == "small"
        assert steps <= small.optim.epochs * {"cifar100": 40_000, "mini_imagenet": 48_000}[experiment] < 1.5 * steps


class TestCommandLine:
    """Each experiment from its command line, on a folder as users have it."""

    @pytest.fixture
    def run(self, monkeypatch, tmp_path):
        def run(experiment, data_dir, *flags):
            argv = [experiment, "--data-dir", str(data_dir), "--workdir", str(tmp_path / "run"), *TINY, *flags]
            monkeypatch.setattr(sys, "argv", argv)
            monkeypatch.delitem(sys.modules, f"experiments.{experiment}", raising=False)
            with pytest.raises(SystemExit) as exit:
                runpy.run_module(f"experiments.{experiment}", run_name="__main__")
            return exit.value.code

        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
        stand_still(monkeypatch)
        return run

    @pytest.mark.slow
    def test_cifar100(self, run, tmp_path):
        """With the fine labels, and a classifier of a hundred classes generated."""
        flags = ["--max-channels", "100", "--classifier", "generated", "--no-affine"]
        write_cifar100(tmp_path / "data" / "cifar-100-binary")
        assert run("cifar100", tmp_path / "data", *flags) == 0
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["experiment"], summary["test_images"], summary["steps"]) == ("cifar100", 8, 2)
        assert summary["puppeteer_bytes"] == 4 * (100**2 + 15 * 100)
        assert summary["trainable_bytes"] == summary["puppeteer_bytes"]

    @pytest.mark.slow
    def test_mini_imagenet(self, run, tmp_path):
        write_classes(tmp_path / "data", count=25, pixels=64)
        assert run("mini_imagenet", tmp_path / "data") == 0
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert (summary["experiment"], summary["test_images"], summary["steps"]) == ("mini_imagenet", 4, 2)
        assert summary["puppeteer_bytes"] == 4 * (8**2 + 15 * 8)
        assert summary["puppet_macs"] == 9 * 3 * 8 * 64**2 + 8 * 2

    def test_damaged_files(self, run, tmp_path, capsys):
        folder = write_cifar100(tmp_path / "data")
        (folder / "train.bin").write_bytes((folder / "train.bin").read_bytes()[:-1])
        assert run("cifar100", folder) == 1
        assert "train.bin is cut off" in one_line(capsys)
        write_classes(tmp_path / "classes")
        (tmp_path / "classes" / "bee" / "2.png").write_bytes(b"not an image")
        assert run("mini_imagenet", tmp_path / "classes") == 1
        assert "bee/2.png is damaged or no image" in one_line(capsys)
        assert not (tmp_path / "run").exists()

    def test_too_few_classes_or_images(self, run, tmp_path, capsys):
        write_classes(tmp_path / "one", classes=("ant",))
        assert run("mini_imagenet", tmp_path / "one") == 1
        assert "at least 2 class folders (found: ant)" in one_line(capsys)
        write_classes(tmp_path / "few", count=10)
        assert run("mini_imagenet", tmp_path / "few") == 1
        error = one_line(capsys)
        assert "32 training and 8 validation images were asked for, but the training set has 18" in error
        assert "ask for fewer, such as --num-images None --num-validation 1." in error
        write_cifar100(tmp_path / "cifar100", num_train=30)
        assert run("cifar100", tmp_path / "cifar100") == 1
        assert "the training set has 30" in one_line(capsys)
        assert not (tmp_path / "run").exists()

    def test_mini_imagenet_without_a_folder(self, monkeypatch, capsys, tmp_path):
        from experiments.cli import run_experiment

        argv = ["--workdir", str(tmp_path / "run")]
        assert run_experiment("mini_imagenet", presets("mini_imagenet"), "Trains.", argv) == 1
        assert "no automatic download" in one_line(capsys)


@pytest.mark.data
def test_official_cifar10(cifar10_dir):
    cifar10 = load_dataset("cifar10", data_dir=cifar10_dir)
    assert cifar10.train_images.shape == (50_000, 32, 32, 3)
    assert cifar10.test_images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(cifar10.train_labels[:10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3])
    np.testing.assert_array_equal(cifar10.test_labels[:10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])
    np.testing.assert_array_equal(np.bincount(cifar10.train_labels), 5_000)
    np.testing.assert_array_equal(np.bincount(cifar10.test_labels), 1_000)


class TestSpreadIndices:
    def test_all_unless_fewer_are_wanted(self):
        for num_test in (None, 7, 100):
            np.testing.assert_array_equal(spread_indices(7, num_test), np.arange(7))

    def test_every_class_of_a_sorted_set_has_its_share(self):
        labels = np.repeat(np.arange(10), 60)
        chosen = labels[spread_indices(600, 100)]
        np.testing.assert_array_equal(np.bincount(chosen), np.full(10, 10))

    @pytest.mark.parametrize(("available", "wanted"), [(10, 1), (10, 3), (10_000, 999), (360, 359)])
    def test_are_distinct_and_in_range(self, available, wanted):
        chosen = spread_indices(available, wanted)
        assert len(np.unique(chosen)) == len(chosen) == wanted
        assert chosen.min() == 0
        assert chosen.max() < available
