import contextlib
import dataclasses
import hashlib
import http.server
import importlib.util
import io
import tarfile
import threading

import numpy as np
import pytest

from experiments.data import load_dataset, sources
from experiments.data.cifar_binary import LAYOUTS, Archive
from experiments.errors import DataError

TRAIN_LABELS, TEST_LABELS = [3, 1, 4, 1, 5], [9, 2]


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def make_archive(name):
    """The bytes of a small archive in the official layout; for CIFAR-100 every coarse label is 0."""
    layout = LAYOUTS[name]

    def content(labels):
        pixels = images(len(labels), len(labels)).transpose(0, 3, 1, 2).reshape(len(labels), -1)
        coarse = np.zeros((len(labels), layout.num_labels - 1), np.uint8)
        return np.hstack([coarse, np.array(labels, np.uint8)[:, None], pixels]).tobytes()

    files = {layout.train_files[0]: content(TRAIN_LABELS), layout.test_file: content(TEST_LABELS)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, data in files.items():
            member = tarfile.TarInfo(f"{layout.folder}/{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def serve(monkeypatch):
    """Serves `content` as the archive of `name`, on this machine; returns the list of requests answered."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with contextlib.ExitStack() as stack:

        def start(name, content, *, sha256=None, status=200, cut=0):
            requests = []

            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    requests.append(self.path)
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) - cut])

                def log_message(self, *_):
                    pass

            server = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            archive = Archive(
                f"http://127.0.0.1:{server.server_port}/archive.tar.gz",
                sha256 or hashlib.sha256(content).hexdigest(),
            )
            monkeypatch.setitem(LAYOUTS, name, dataclasses.replace(LAYOUTS[name], archive=archive))
            return requests

        yield start


@pytest.fixture
def pretend_installed(monkeypatch):
    """Sets whether TensorFlow Datasets counts as installed."""
    find_spec = importlib.util.find_spec

    def pretend(installed):
        def patched(name, *arguments):
            return installed or None if name == "tensorflow_datasets" else find_spec(name, *arguments)

        monkeypatch.setattr(importlib.util, "find_spec", patched)

    return pretend


class TestArchive:
    @pytest.fixture(autouse=True)
    def needs_pooch(self):
        pytest.importorskip("pooch")

    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_is_downloaded_once(self, serve, tmp_path, name):
        requests = serve(name, make_archive(name))
        first = load_dataset(name, source="archive", cache_dir=tmp_path)
        again = load_dataset(name, source="archive", cache_dir=tmp_path)
        assert requests == ["/archive.tar.gz"]
        np.testing.assert_array_equal(first.train_images, images(5, 5))
        np.testing.assert_array_equal(first.train_labels, TRAIN_LABELS)
        np.testing.assert_array_equal(first.test_images, images(2, 2))
        np.testing.assert_array_equal(first.test_labels, TEST_LABELS)
        np.testing.assert_array_equal(again.train_images, first.train_images)
        assert [path.name for path in tmp_path.iterdir()] == ["archive.tar.gz"]
        assert str(tmp_path) in first.source

    def test_of_the_wrong_checksum_is_refused_and_removed(self, serve, tmp_path):
        serve("cifar10", make_archive("cifar10"), sha256="0" * 64)
        with pytest.raises(DataError, match="not the official archive .* 0{64}. and was removed"):
            load_dataset("cifar10", source="archive", cache_dir=tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_damaged_in_the_cache_is_downloaded_again(self, serve, tmp_path):
        requests = serve("cifar10", make_archive("cifar10"))
        (tmp_path / "archive.tar.gz").write_bytes(b"half a file")
        assert len(load_dataset("cifar10", source="archive", cache_dir=tmp_path).train_labels) == 5
        assert len(requests) == 1

    def test_broken_off_leaves_nothing(self, serve, tmp_path):
        content = make_archive("cifar10")
        serve("cifar10", content, cut=1000)
        with pytest.raises(DataError, match="could not be downloaded from http://127.*--data-dir DIR"):
            load_dataset("cifar10", source="archive", cache_dir=tmp_path)
        assert list(tmp_path.iterdir()) == []
        serve("cifar10", content)
        assert len(load_dataset("cifar10", source="archive", cache_dir=tmp_path).train_labels) == 5

    def test_not_on_the_server(self, serve, tmp_path):
        serve("cifar10", b"no such file", status=404)
        with pytest.raises(DataError, match="could not be downloaded .*404"):
            load_dataset("cifar10", source="archive", cache_dir=tmp_path)

    def test_without_network(self, monkeypatch, tmp_path):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        archive = Archive("http://127.0.0.1:1/archive.tar.gz", "0" * 64)
        monkeypatch.setitem(LAYOUTS, "cifar10", dataclasses.replace(LAYOUTS["cifar10"], archive=archive))
        with pytest.raises(DataError, match="--data-dir DIR, or use --data-source tfds"):
            load_dataset("cifar10", source="archive", cache_dir=tmp_path)

    def test_that_is_no_archive(self, serve, tmp_path):
        serve("cifar10", b"official, but no archive")
        with pytest.raises(DataError, match="cannot be read as an archive"):
            load_dataset("cifar10", source="archive", cache_dir=tmp_path)

    def test_that_lacks_a_file(self, serve, tmp_path):
        serve("cifar10", make_archive("cifar100"))
        with pytest.raises(DataError, match=r"archive\.tar\.gz lacks data_batch_1\.bin, test_batch\.bin"):
            load_dataset("cifar10", source="archive", cache_dir=tmp_path)

    def test_cannot_be_kept_in_a_file(self, serve, tmp_path):
        serve("cifar10", make_archive("cifar10"))
        (tmp_path / "cache").touch()
        with pytest.raises(DataError, match="cannot be kept in .*cache"):
            load_dataset("cifar10", source="archive", cache_dir=tmp_path / "cache")

    def test_members_are_never_written(self, serve, tmp_path):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.addfile(tarfile.TarInfo("../../escaped.bin"))
            link = tarfile.TarInfo("data_batch_1.bin")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(link)
        serve("cifar10", buffer.getvalue())
        with pytest.raises(DataError, match=r"lacks data_batch_1\.bin"):
            load_dataset("cifar10", source="archive", cache_dir=tmp_path / "a" / "b")
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["archive.tar.gz"]

    @pytest.mark.parametrize("installed", [True, False], ids=["nothing prepared", "not installed"])
    def test_serves_auto_without_a_prepared_data_set(self, serve, tmp_path, monkeypatch, pretend_installed, installed):
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
        pretend_installed(installed)
        serve("cifar10", make_archive("cifar10"))
        assert load_dataset("cifar10", cache_dir=tmp_path).source.startswith("archive ")


def prepare(data_dir, name, file_format):
    """Prepares a small data set of the same features as the official one, which TensorFlow would have to."""
    tfds = pytest.importorskip("tensorflow_datasets")
    image_module = pytest.importorskip("PIL.Image")
    features = tfds.features

    class SmallCifar(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            names = list(LAYOUTS[name].class_names)
            kinds = {
                "id": features.Text(),
                "image": features.Image(shape=(32, 32, 3)),
                "label": features.ClassLabel(names=names),
            }
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(kinds))

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples("train", 30),
                "test": self._generate_examples("test", 20),
            }

        def _generate_examples(self, split, count):
            for index, image in enumerate(images(count, count)):
                identity = f"{split}_{index:05d}"
                yield (
                    index,
                    {"id": identity, "image": image_module.fromarray(image), "label": index % 10},
                )

    SmallCifar.name = name
    tfds.disable_progress_bar()
    SmallCifar(data_dir=str(data_dir), file_format=file_format).download_and_prepare()


class TestPrepared:
    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    @pytest.mark.parametrize("file_format", ["array_record", "parquet"])
    def test_is_read_in_the_official_order(self, tmp_path, monkeypatch, name, file_format):
        tfds = pytest.importorskip("tensorflow_datasets")
        pytest.importorskip({"array_record": "array_record", "parquet": "pyarrow"}[file_format])
        with tfds.core.registered.skip_registration():
            prepare(tmp_path, name, file_format)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        for source in ("auto", "tfds"):
            cifar = load_dataset(name, source=source)
            np.testing.assert_array_equal(cifar.train_images, images(30, 30))
            np.testing.assert_array_equal(cifar.train_labels, np.arange(30) % 10)
            np.testing.assert_array_equal(cifar.test_images, images(20, 20))
            np.testing.assert_array_equal(cifar.test_labels, np.arange(20) % 10)
            assert cifar.train_images.dtype == np.uint8
            assert cifar.train_labels.dtype == np.int32
            assert cifar.class_names == LAYOUTS[name].class_names
            assert cifar.source == f"TensorFlow Datasets {tmp_path / name / '3.0.2'}"

    def test_is_asked_for_but_not_installed(self, pretend_installed):
        pretend_installed(False)
        with pytest.raises(DataError, match="not installed; run `pip install tensorflow-datasets"):
            load_dataset("cifar10", source="tfds")

    def test_is_asked_for_but_missing(self, tmp_path, monkeypatch, pretend_installed):
        pretend_installed(True)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        with pytest.raises(DataError, match=r"\(found: nothing\).* `tfds build cifar10 --file_format=array_rec"):
            load_dataset("cifar10", source="tfds")

        folder = tmp_path / "cifar10" / "3.0.2"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
        (folder / "cifar10-train.tfrecord-00000-of-00001").touch()
        with pytest.raises(DataError, match=r"\(found: versions 3\.0\.2, in another format\)"):
            load_dataset("cifar10", source="tfds")

    def test_is_found_in_its_newest_version(self, tmp_path, monkeypatch, pretend_installed):
        pretend_installed(True)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        for version in ("3.0.2", "3.0.10", "incomplete.ABC_3.1.0"):
            folder = tmp_path / "cifar10" / version
            folder.mkdir(parents=True)
            (folder / "dataset_info.json").touch()
            (folder / "cifar10-train.array_record-00000-of-00001").touch()
        assert sources.find_prepared("cifar10") == tmp_path / "cifar10" / "3.0.10"

    @pytest.mark.parametrize("source", ["auto", "tfds"])
    def test_but_damaged_is_an_error(self, tmp_path, monkeypatch, pretend_installed, source):
        pretend_installed(True)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        folder = tmp_path / "cifar10" / "3.0.2"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").touch()
        (folder / "cifar10-train.array_record-00000-of-00001").touch()
        with pytest.raises(DataError, match=r"TensorFlow Datasets cannot read .*3\.0\.2"):
            load_dataset("cifar10", source=source)
