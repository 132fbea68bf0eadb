import numpy as np
import pytest

from experiments.data import load_dataset
from experiments.errors import DataError


def records(images, *labels):
    """The official binary form of uint8 images (N, 32, 32, 3) and, in order, their label bytes (N,)."""
    rows = [np.asarray(column, np.uint8)[:, None] for column in labels]
    return np.hstack([*rows, images.transpose(0, 3, 1, 2).reshape(len(images), -1)]).tobytes()


def random_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def write_cifar10(folder, batches=(1, 2)):
    folder.mkdir(parents=True)
    for number in batches:
        (folder / f"data_batch_{number}.bin").write_bytes(records(random_images(3, number), [number, 0, 9]))
    (folder / "test_batch.bin").write_bytes(records(random_images(2, 9), [4, 5]))
    return folder


def write_cifar100(folder):
    folder.mkdir(parents=True)
    (folder / "train.bin").write_bytes(records(random_images(3), [19, 0, 7], [99, 0, 42]))
    (folder / "test.bin").write_bytes(records(random_images(2, 1), [1, 2], [3, 50]))
    return folder


def write_image(path, value=0, size=(6, 5), mode="RGB"):
    image_module = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image_module.new(mode, size, value if mode == "L" else (value, 100, 200, 255)[: len(mode)]).save(path)


def write_classes(folder, classes=("bee", "ant"), count=3):
    for index, name in enumerate(classes):
        for number in range(count):
            write_image(folder / name / f"{number}.png", 50 * index + number)
    return folder


class TestBinary:
    @pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"], ids=["folder", "parent"])
    def test_cifar10(self, tmp_path, below):
        write_cifar10(tmp_path / "data" / below)
        cifar10 = load_dataset("cifar10", tmp_path / "data")
        expected = np.concatenate([random_images(3, 1), random_images(3, 2)])
        np.testing.assert_array_equal(cifar10.train_images, expected)
        np.testing.assert_array_equal(cifar10.train_labels, [1, 0, 9, 2, 0, 9])
        np.testing.assert_array_equal(cifar10.test_images, random_images(2, 9))
        np.testing.assert_array_equal(cifar10.test_labels, [4, 5])
        assert cifar10.train_images.dtype == np.uint8
        assert cifar10.train_labels.dtype == cifar10.test_labels.dtype == np.int32
        assert cifar10.class_names[3] == "cat"
        assert cifar10.source.startswith(f"folder {tmp_path}")

    @pytest.mark.parametrize("below", ["", "cifar-100-binary"], ids=["folder", "parent"])
    def test_cifar100_takes_the_fine_labels(self, tmp_path, below):
        write_cifar100(tmp_path / "data" / below)
        cifar100 = load_dataset("cifar100", tmp_path / "data")
        np.testing.assert_array_equal(cifar100.train_images, random_images(3))
        np.testing.assert_array_equal(cifar100.train_labels, [99, 0, 42])
        np.testing.assert_array_equal(cifar100.test_labels, [3, 50])
        assert len(set(cifar100.class_names)) == 100
        assert list(cifar100.class_names) == sorted(cifar100.class_names)

    def test_names_are_read_where_given(self, tmp_path):
        folder = write_cifar10(tmp_path / "data")
        (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
        assert load_dataset("cifar10", folder).class_names == tuple("abcdefghij")
        (folder / "batches.meta.txt").write_text("a\nb\n")
        with pytest.raises(DataError, match=r"batches\.meta\.txt should hold 10 class names, but holds 2"):
            load_dataset("cifar10", folder)

    @pytest.mark.parametrize("removed", ["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"])
    def test_gaps_are_refused(self, tmp_path, removed):
        folder = write_cifar10(tmp_path / "data", batches=(1, 2, 3))
        (folder / removed).unlink()
        with pytest.raises(DataError, match=rf"lacks {removed} \(found: data_batch_"):
            load_dataset("cifar10", folder)

    def test_an_empty_official_folder(self, tmp_path):
        (tmp_path / "cifar-100-binary").mkdir()
        with pytest.raises(DataError, match=r"lacks train\.bin, test\.bin \(found: none of its files\)"):
            load_dataset("cifar100", tmp_path)

    def test_damaged_files(self, tmp_path):
        folder = write_cifar10(tmp_path / "data")
        path = folder / "data_batch_2.bin"
        good = path.read_bytes()
        path.write_bytes(good[:-1])
        with pytest.raises(DataError, match=r"data_batch_2\.bin is cut off.* 9218 bytes .* 3073"):
            load_dataset("cifar10", folder)
        path.write_bytes(b"")
        with pytest.raises(DataError, match=r"data_batch_2\.bin is empty"):
            load_dataset("cifar10", folder)
        path.write_bytes(good[:3073] + b"\x0a" + good[3074:])
        with pytest.raises(DataError, match=r"data_batch_2\.bin is damaged.* record 1 has the label 10"):
            load_dataset("cifar10", folder)

    @pytest.mark.parametrize(("held", "wanted"), [("cifar10", "cifar100"), ("cifar100", "cifar10")])
    def test_the_other_data_set(self, tmp_path, held, wanted):
        {"cifar10": write_cifar10, "cifar100": write_cifar100}[held](tmp_path / "data")
        with pytest.raises(DataError, match=f"holds {held}, but {wanted} was asked for"):
            load_dataset(wanted, tmp_path / "data")


@pytest.mark.parametrize(
    "name",
    ["cifar-10-batches-py/data_batch_1", "cifar-100-python/train", "data_batch_1", "batches.meta", "train"],
)
def test_pickles_are_never_opened(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(DataError, match="python version of CIFAR.*get the binary version"):
        load_dataset("cifar10", tmp_path)


def test_folders_that_hold_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        load_dataset("cifar10", tmp_path / "nowhere")
    with pytest.raises(DataError, match="is empty; expected the official CIFAR binary files"):
        load_dataset("cifar10", tmp_path)
    (tmp_path / "cifar-10-binary.tar.gz").touch()
    with pytest.raises(DataError, match=r"holds only cifar-10-binary\.tar\.gz; unpack it"):
        load_dataset("cifar10", tmp_path)
    with pytest.raises(DataError, match="is a file, not a folder"):
        load_dataset("cifar10", tmp_path / "cifar-10-binary.tar.gz")
    prepared = tmp_path / "cifar10" / "3.0.2"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").touch()
    with pytest.raises(DataError, match="set TFDS_DATA_DIR"):
        load_dataset("cifar10", tmp_path)


class TestClassFolders:
    def test_train_and_test(self, tmp_path):
        write_classes(tmp_path / "train")
        write_classes(tmp_path / "test", count=1)
        (tmp_path / "train" / ".hidden").mkdir()
        (tmp_path / "train" / "bee" / "notes.txt").touch()
        write_classes(tmp_path / "val", count=1)
        insects = load_dataset("cifar10", tmp_path)
        assert "; val/ left out" in insects.source
        assert insects.class_names == ("ant", "bee")
        assert insects.train_images.shape == (6, 5, 6, 3)
        assert insects.train_images.dtype == np.uint8
        np.testing.assert_array_equal(insects.train_labels, [0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(insects.train_images[:, 2, 3, 0], [50, 51, 52, 0, 1, 2])
        np.testing.assert_array_equal(insects.train_images[0, 0, 0], [50, 100, 200])
        np.testing.assert_array_equal(insects.test_labels, [0, 1])
        assert insects.train_labels.dtype == insects.test_labels.dtype == np.int32

    @pytest.mark.parametrize(("count", "held_out"), [(2, 1), (10, 1), (30, 3)])
    def test_a_fixed_tenth_is_held_out(self, tmp_path, count, held_out):
        write_classes(tmp_path, count=count)
        first, again = load_dataset("cifar10", tmp_path), load_dataset("cifar10", tmp_path)
        np.testing.assert_array_equal(first.test_images, again.test_images)
        np.testing.assert_array_equal(np.bincount(first.test_labels), [held_out, held_out])
        values = np.concatenate([first.train_images[:, 0, 0, 0], first.test_images[:, 0, 0, 0]])
        assert sorted(values) == [*range(count), *range(50, 50 + count)]

    def test_a_class_may_be_called_train(self, tmp_path):
        write_classes(tmp_path, classes=("train", "tram"))
        assert load_dataset("cifar100", tmp_path).class_names == ("train", "tram")

    @pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "jpeg", "bmp", "webp"])
    def test_kinds_of_files(self, tmp_path, suffix):
        for name in ("a", "b"):
            for number in range(2):
                write_image(tmp_path / name / f"{number}.{suffix}")
        assert load_dataset("cifar10", tmp_path).train_images.shape == (2, 5, 6, 3)

    def test_grey_and_transparent_images_become_rgb(self, tmp_path):
        write_classes(tmp_path / "train")
        write_classes(tmp_path / "test")
        write_image(tmp_path / "test" / "ant" / "0.png", 77, mode="L")
        write_image(tmp_path / "test" / "ant" / "1.png", 78, mode="RGBA")
        images = load_dataset("cifar10", tmp_path).test_images
        np.testing.assert_array_equal(images[:2, 0, 0], [[77, 77, 77], [78, 100, 200]])

    def test_classes_that_are_too_few_or_empty(self, tmp_path):
        write_classes(tmp_path, classes=("ant",))
        with pytest.raises(DataError, match=r"at least 2 class folders \(found: ant\)"):
            load_dataset("cifar10", tmp_path)
        (tmp_path / "bee").mkdir()
        with pytest.raises(DataError, match=r"bee has no image .*\(found: nothing\)"):
            load_dataset("cifar10", tmp_path)
        (tmp_path / "bee" / "image.psd").touch()
        with pytest.raises(DataError, match=r"bee has no image .*such as image\.psd"):
            load_dataset("cifar10", tmp_path)
        write_image(tmp_path / "bee" / "0.png")
        with pytest.raises(DataError, match="bee has a single image"):
            load_dataset("cifar10", tmp_path)

    def test_train_and_test_must_agree(self, tmp_path):
        write_classes(tmp_path / "train")
        with pytest.raises(DataError, match="holds train/ but no test/"):
            load_dataset("cifar10", tmp_path)
        write_classes(tmp_path / "test", classes=("ant", "wasp"))
        with pytest.raises(DataError, match=r"2 differ; the first, bee, is only in train/"):
            load_dataset("cifar10", tmp_path)

    @pytest.mark.parametrize("odd", ["train/bee/1.png", "test/ant/0.png"])
    def test_all_images_are_of_one_size(self, tmp_path, odd):
        write_classes(tmp_path / "train")
        write_classes(tmp_path / "test")
        write_image(tmp_path / odd, size=(7, 5))
        with pytest.raises(DataError, match=rf"{odd} has 7x5 pixels and .*train/ant/0\.png has 6x5"):
            load_dataset("cifar10", tmp_path)

    def test_all_images_are_of_one_size_where_a_tenth_is_held_out(self, tmp_path):
        write_classes(tmp_path, count=2)
        held_out = load_dataset("cifar10", tmp_path).test_images[0, 0, 0, 0] - 50
        for odd in ("ant/1.png", f"bee/{held_out}.png", f"bee/{1 - held_out}.png"):  # of either set
            write_classes(tmp_path, count=2)
            write_image(tmp_path / odd, size=(5, 6))
            with pytest.raises(DataError, match=rf"{odd} has 5x6 pixels and .*ant/0\.png has 6x5"):
                load_dataset("cifar10", tmp_path)

    def test_labels_belong_to_their_images(self, tmp_path):
        write_classes(tmp_path, classes=("ant", "bee", "wasp"), count=20)
        insects = load_dataset("mini_imagenet", tmp_path)
        for images, labels in (
            (insects.train_images, insects.train_labels),
            (insects.test_images, insects.test_labels),
        ):
            np.testing.assert_array_equal(images[:, 0, 0, 0] // 50, labels)
        assert insects.train_images.shape == (54, 5, 6, 3)

    @pytest.mark.parametrize("damage", ["text", "cut off", "broken link", "16 bits"])
    def test_unreadable_images(self, tmp_path, damage):
        write_classes(tmp_path)
        path = tmp_path / "ant" / "1.png"
        if damage == "text":
            path.write_text("not an image")
        elif damage == "cut off":
            path.write_bytes(path.read_bytes()[:50])
        elif damage == "broken link":
            path.unlink()
            path.symlink_to(tmp_path / "nowhere.png")
        else:
            pytest.importorskip("PIL.Image").fromarray(np.full((5, 6), 40_000, np.uint16)).save(path)
        with pytest.raises(DataError, match=r"ant/1\.png (is damaged or no image|has more than 8 bits)"):
            load_dataset("cifar10", tmp_path)


class TestMiniImageNet:
    def test_cifar_is_refused(self, tmp_path):
        write_cifar10(tmp_path / "ten")
        write_cifar100(tmp_path / "hundred")
        for folder, held in (("ten", "cifar10"), ("hundred", "cifar100")):
            with pytest.raises(DataError, match=f"holds {held}, but mini_imagenet was asked for"):
                load_dataset("mini_imagenet", tmp_path / folder)

    def test_only_class_folders_are_expected(self, tmp_path):
        for folders in ((), ("ant",)):
            for name in folders:
                write_image(tmp_path / name / "0.png")
            with pytest.raises(DataError, match="expected class folders of images: train/CLASS"):
                load_dataset("mini_imagenet", tmp_path)
