"""Image files are read as a viewer shows them, or refused in a sentence."""

import io
import os
import struct

import numpy as np
import pytest
from pictures import photo
from PIL import Image

from experiments.data import load_dataset
from experiments.data.pictures import FORMATS, SUFFIXES, decode, read_image
from experiments.errors import DataError

LOSSLESS = {"BMP": ".bmp", "GIF": ".gif", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}
TURN = {  # from what is stored to what a viewer shows, by the tag (EXIF 2.32, table 6)
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: x.transpose(1, 0, 2)[:, ::-1],
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: x.transpose(1, 0, 2)[::-1],
}


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_format(tmp_path, kind):
    pixels = photo(12, 9)
    options = {"lossless": True} if kind == "WEBP" else {}
    path = save(tmp_path / f"image{LOSSLESS[kind]}", pixels, **options)
    shown = decode(path, 3)
    if kind == "GIF":  # has at most 256 colours
        assert shown.shape == pixels.shape and np.abs(shown.astype(int) - pixels).mean() < 40
    else:
        np.testing.assert_array_equal(shown, pixels)
    assert kind in FORMATS and LOSSLESS[kind] in SUFFIXES


@pytest.mark.parametrize("orientation", TURN)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_orientation(tmp_path, kind, orientation):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:4, :8] = 255  # one corner is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "image", pixels, format=kind, exif=exif)
    shown = decode(path, 3)
    wanted = TURN[orientation](pixels)
    assert shown.shape == wanted.shape
    np.testing.assert_array_equal(shown > 127, wanted > 127)


def test_orientation_in_both_readers(tmp_path):
    """`experiments.predict` and class folders read the same file alike."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            path = save(tmp_path / split / name / "0.png", photo(8, 8), exif=exif)
    image = load_dataset("cifar10", tmp_path).test_images[1]
    np.testing.assert_array_equal(image, read_image(path, (8, 8, 3)))
    np.testing.assert_array_equal(image, TURN[6](photo(8, 8)))


@pytest.mark.parametrize("name", ["0.png", "0.eps"])
def test_postscript_starts_no_program(tmp_path, monkeypatch, name):
    """Pillow calls Ghostscript for an EPS, whatever the file is called."""
    import subprocess

    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / name
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match="damaged or no image"):
        decode(path, 3)


def test_grey_and_palettes(tmp_path):
    grey = photo(8, 8, 1)[..., 0]
    np.testing.assert_array_equal(decode(save(tmp_path / "grey.png", grey), 1)[..., 0], grey)
    np.testing.assert_array_equal(decode(tmp_path / "grey.png", 3), np.repeat(grey[..., None], 3, axis=2))
    Image.fromarray(photo(8, 8)).convert("P").save(tmp_path / "palette.png", transparency=0)
    assert decode(tmp_path / "palette.png", 3).shape == (8, 8, 3)


def test_colours_that_cannot_be_converted(tmp_path):
    path = tmp_path / "lab.tif"
    Image.new("LAB", (8, 8)).save(path)
    try:
        assert decode(path, 1).shape == (8, 8, 1)
    except DataError as error:
        assert "lab.tif" in str(error)


@pytest.mark.parametrize("kind", ["I;16", "F"])
def test_more_than_8_bits(tmp_path, kind):
    path = tmp_path / "deep.tif"
    Image.new(kind, (8, 8)).save(path)
    with pytest.raises(DataError, match="more than 8 bits"):
        decode(path, 3)


def header(text):
    """A .npy file of version 1.0 with this header and 192 bytes of data."""
    encoded = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(encoded)) + encoded + bytes(192)


@pytest.mark.parametrize(
    "content",
    [
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 3), }"),
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (8, 8, "),
        header("("),
        header("\x00{"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (8, 8, 3), }"),
        b"\x93NUMPY\x07\x00",
        b"",
    ],
    ids=["too large", "cut", "bracket", "zero", "objects", "version", "empty"],
)
def test_damaged_arrays(tmp_path, content):
    path = tmp_path / "image.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"image\.npy is damaged or no image"):
        read_image(path, (8, 8, 3))


def test_arrays(tmp_path):
    for pixels in (photo(8, 8), photo(8, 8, 1), photo(8, 8) / np.float32(255)):
        np.save(tmp_path / "image.npy", pixels)
        wanted = photo(8, 8) if pixels.shape[-1] == 3 else np.repeat(photo(8, 8, 1), 3, axis=2)
        np.testing.assert_array_equal(read_image(tmp_path / "image.npy", (8, 8, 3)), wanted)


def test_a_pipe_is_no_file(tmp_path):
    """It would wait for ever."""
    os.mkfifo(tmp_path / "image.png")
    with pytest.raises(DataError, match="is no file"):
        read_image(tmp_path / "image.png", (8, 8, 3))


def test_damaged_images_of_every_format(tmp_path):
    """Whatever a decoder raises is one sentence with the file's name."""
    rng = np.random.default_rng(0)
    for kind in (*LOSSLESS, "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(photo(16, 16)).save(buffer, format=kind)
        whole = buffer.getvalue()
        for _ in range(20):
            damaged = bytearray(whole[: rng.integers(1, len(whole))])
            for place in rng.integers(0, len(damaged), 8):
                damaged[place] = rng.integers(0, 256)
            path = tmp_path / "image"
            path.write_bytes(damaged)
            try:
                assert decode(path, 3).dtype == np.uint8
            except DataError as error:
                assert str(path) in str(error)


def test_what_is_left_out_is_said(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            save(tmp_path / split / name / "0.JPE", photo(8, 8), format="JPEG")
            save(tmp_path / split / name / "1.tif", photo(8, 8))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("mine")
    os.mkfifo(tmp_path / "train" / "dog" / "2.png")  # would wait for ever
    dataset = load_dataset("cifar10", tmp_path)
    assert len(dataset.train_images) == 4
    assert "2 entries that are no images are left out, such as notes.txt" in dataset.source


def test_binary_files_that_are_not_the_official_ones(tmp_path):
    """A batch that is missing, or copied over another, is said in a line."""
    record = bytes([3]) + photo(32, 32).transpose(2, 0, 1).tobytes()
    for name in ("data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"):
        (tmp_path / name).write_bytes(record * 10)
    source = load_dataset("cifar10", tmp_path).source
    assert "2 of its 5 training files" in source
    assert "not the official images: data_batch_1.bin, data_batch_2.bin, test_batch.bin" in source
