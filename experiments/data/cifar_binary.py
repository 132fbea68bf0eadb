"""The official "binary version" of CIFAR-10 and CIFAR-100: what it looks like, and its decoder."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from experiments.data.dataset import Dataset
from experiments.errors import DataError


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file to download: its address and the SHA-256, in hexadecimal, that it must have."""

    url: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class CifarLayout:
    """How one of the two CIFAR data sets is laid out in its official "binary version".

    A file is a sequence of records: `num_labels` bytes, the last of which is the label used here, then
    3 x 32 x 32 bytes of pixels, channel by channel.
    """

    name: str
    folder: str
    num_labels: int
    train_files: tuple[str, ...]
    test_file: str
    names_file: str
    class_names: tuple[str, ...]  # used where the file of names is missing
    pickle_folder: str
    pickle_files: tuple[str, ...]
    archive: Archive
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the official files, where known

    @property
    def record_length(self) -> int:
        """Bytes of one record."""
        return self.num_labels + 3 * 32 * 32


_CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

LAYOUTS = {
    "cifar10": CifarLayout(
        name="cifar10",
        folder="cifar-10-batches-bin",
        num_labels=1,
        train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test_file="test_batch.bin",
        names_file="batches.meta.txt",
        class_names=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        pickle_folder="cifar-10-batches-py",
        pickle_files=("data_batch_1", "batches.meta"),
        archive=Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
        sha256={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
    ),
    "cifar100": CifarLayout(
        name="cifar100",
        folder="cifar-100-binary",
        num_labels=2,  # coarse, fine
        train_files=("train.bin",),
        test_file="test.bin",
        names_file="fine_label_names.txt",
        class_names=tuple(_CIFAR100_NAMES.split()),
        pickle_folder="cifar-100-python",
        pickle_files=("train", "meta"),
        archive=Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    ),
}


def _read_records(content: bytes, layout: CifarLayout, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Decodes one binary file into images uint8 (N, 32, 32, 3) and labels int32 (N,)."""
    if not content:
        raise DataError(f"{path} is empty; get it again.")
    if len(content) % layout.record_length:
        raise DataError(
            f"{path} is cut off or not a file of {layout.name}: its {len(content)} bytes are no multiple of"
            f" the record length, {layout.record_length} bytes; get it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, layout.record_length)
    labels = records[:, layout.num_labels - 1].astype(np.int32)
    wrong = np.flatnonzero(labels >= len(layout.class_names))
    if wrong.size:
        raise DataError(
            f"{path} is damaged or not a file of {layout.name}: record {wrong[0]} has the label"
            f" {labels[wrong[0]]}, not one of 0 to {len(layout.class_names) - 1}; get it again."
        )
    channels_first = records[:, layout.num_labels :].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(channels_first.transpose(0, 2, 3, 1)), labels


def read_binary(files: Mapping[str, bytes], layout: CifarLayout, where: str, source: str) -> Dataset:
    """Decodes the files of the official binary layout.

    Args:
      files: content by file name. The training files may stop early, but not leave one out.
      layout: the data set that they should be.
      where: the folder or archive that they were found in, for messages.
      source: the `Dataset.source` of the result.

    Returns:
      The data set, in the order of the files.

    Raises:
      DataError: if a file is missing, empty, cut off or damaged.
    """
    present = [name for name in layout.train_files if name in files]
    needed = [*layout.train_files[: max(1, len(present))], layout.test_file]
    missing = [name for name in needed if name not in files]
    if missing:
        raise DataError(
            f"{where} lacks {', '.join(missing)} (found: {', '.join(sorted(files)) or 'none of its files'});"
            f" get the binary version of {layout.name} again, from {layout.archive.url}"
        )
    train = [_read_records(files[name], layout, f"{where}/{name}") for name in present]
    test_images, test_labels = _read_records(files[layout.test_file], layout, f"{where}/{layout.test_file}")
    class_names = layout.class_names
    if layout.names_file in files:
        lines = files[layout.names_file].decode("utf-8", errors="replace").splitlines()
        class_names = tuple(line.strip() for line in lines if line.strip())
        if len(class_names) != len(layout.class_names):
            raise DataError(
                f"{where}/{layout.names_file} should hold {len(layout.class_names)} class names, but holds"
                f" {len(class_names)}; get it again, or remove it."
            )
    return Dataset(
        name=layout.name,
        train_images=np.concatenate([images for images, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]),
        test_images=test_images,
        test_labels=test_labels,
        class_names=class_names,
        source=source,
    )
