"""Reading image files, and what is printed of each."""

import dataclasses
import io
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import quick
from made_up import graded_images, make_model
from PIL import Image

import puppet_jax as pj
from experiments.cli import run_command
from experiments.config import ByConfidence, Config, Generated, PuppetCNN
from experiments.data import load_dataset
from experiments.data.pictures import read_image
from experiments.errors import DataError, RunError, UsageError
from experiments.model import load_model, save_model
from experiments.predict import Command, predict
from experiments.runs import folder as run_folder
from puppet_jax import extras
from puppet_jax.pretrained import pretrained_file

RNG = np.random.Generator(np.random.PCG64(0))
GREY = RNG.integers(0, 256, (8, 8), np.uint8)
COLOUR = RNG.integers(0, 256, (8, 8, 3), np.uint8)
SIZE = (8, 8)


def saved(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


class TestReadImage:
    def test_png_of_the_right_size_is_taken_as_it_is(self, tmp_path):
        np.testing.assert_array_equal(read_image(saved(tmp_path / "c.png", COLOUR), (*SIZE, 3)), COLOUR)
        np.testing.assert_array_equal(read_image(saved(tmp_path / "g.png", GREY), (*SIZE, 1)), GREY[..., None])

    def test_grey_serves_as_colour_and_colour_as_grey(self, tmp_path):
        as_colour = read_image(saved(tmp_path / "g.png", GREY), (*SIZE, 3))
        np.testing.assert_array_equal(as_colour, np.repeat(GREY[..., None], 3, axis=2))
        as_grey = read_image(saved(tmp_path / "c.png", COLOUR), (*SIZE, 1))
        luma = COLOUR @ [0.299, 0.587, 0.114]
        assert np.abs(as_grey[..., 0] - luma).max() <= 1

    @pytest.mark.parametrize("shape", [(20, 12), (4, 4), (8, 16), (1, 1)])
    def test_another_size_is_resized(self, tmp_path, shape):
        halves = np.zeros(shape, np.uint8)
        halves[shape[0] // 2 :] = 200
        image = read_image(saved(tmp_path / "a.png", halves), (8, 6, 1))
        assert image.shape == (8, 6, 1)
        assert image.dtype == np.uint8
        assert image[-1].min() > 190
        assert image[0].max() < 10 or shape[0] == 1

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "CMYK"])
    def test_other_modes_of_8_bits(self, tmp_path, mode):
        path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
        Image.fromarray(COLOUR).convert(mode).save(path)
        assert read_image(path, (*SIZE, 3)).shape == (8, 8, 3)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floating_array_counts_as_8_bits(self, tmp_path, dtype):
        path = saved(tmp_path / "a.npy", (COLOUR / 255).astype(dtype))
        np.testing.assert_array_equal(read_image(path, (*SIZE, 3)), COLOUR)

    @pytest.mark.parametrize("array", [GREY, GREY[..., None], COLOUR, np.asfortranarray(GREY)], ids=str)
    def test_8_bit_array(self, tmp_path, array):
        image = read_image(saved(tmp_path / "a.npy", array), (*SIZE, 3))
        np.testing.assert_array_equal(image, np.broadcast_to(array.reshape(8, 8, -1), (8, 8, 3)))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -0.01, 1.01, 255.0])
    def test_floating_array_out_of_range(self, tmp_path, bad):
        array = np.zeros((8, 8), np.float32)
        array[3, 4] = bad
        with pytest.raises(DataError, match=rf"a\.npy holds {np.float32(bad)}; .*\[0, 1\]"):
            read_image(saved(tmp_path / "a.npy", array), (*SIZE, 1))

    @pytest.mark.parametrize("shape", [(8,), (2, 8, 8, 3), (8, 8, 2), (3, 8, 8), (0, 8), ()])
    def test_array_of_another_shape(self, tmp_path, shape):
        with pytest.raises(DataError, match=r"a\.npy has shape .*; an image is \(height, width\)"):
            read_image(saved(tmp_path / "a.npy", np.zeros(shape, np.uint8)), (*SIZE, 1))

    @pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool, np.complex64])
    def test_array_of_another_dtype(self, tmp_path, dtype):
        with pytest.raises(DataError, match=rf"has dtype {np.dtype(dtype)}; an image is uint8, or floating"):
            read_image(saved(tmp_path / "a.npy", GREY.astype(dtype)), (*SIZE, 1))

    def test_16_bit_file(self, tmp_path):
        path = saved(tmp_path / "a.png", GREY.astype(np.uint16) * 257)
        with pytest.raises(DataError, match="more than 8 bits a channel .*convert it"):
            read_image(path, (*SIZE, 1))

    def test_missing(self, tmp_path):
        for path in (tmp_path / "nothing.png", tmp_path / "nothing.npy", tmp_path):
            with pytest.raises(DataError, match="does not exist or is no file"):
                read_image(path, (*SIZE, 1))

    @pytest.mark.parametrize("suffix", [".png", ".npy", ".jpg"])
    def test_damaged(self, tmp_path, suffix):
        whole = saved(tmp_path / f"whole{suffix}", RNG.integers(0, 256, (32, 32), np.uint8)).read_bytes()
        path = tmp_path / f"a{suffix}"
        for content in (b"", b"no image", whole[:4], whole[:60], whole[: len(whole) // 2]):
            path.write_bytes(content)
            with pytest.raises(DataError, match="damaged or no image"):
                read_image(path, (*SIZE, 1))

    def test_array_of_objects_is_never_unpickled(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[print]], object), allow_pickle=True)
        with pytest.raises(DataError, match="damaged or no image"):
            read_image(tmp_path / "a.npy", (*SIZE, 1))

    def test_larger_than_pillow_takes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(DataError):
            read_image(saved(tmp_path / "a.png", GREY), (*SIZE, 1))

    def test_archive_of_arrays_under_the_name_of_an_array(self, tmp_path):
        buffer = io.BytesIO()
        np.savez(buffer, a=GREY)
        for content in (buffer.getvalue(), buffer.getvalue()[:50]):
            (tmp_path / "a.npy").write_bytes(content)
            with pytest.raises(DataError):
                read_image(tmp_path / "a.npy", (*SIZE, 1))


SMALL = pj.Puppet(channels=(4,), num_classes=3, in_channels=1)
NAMES = ("zero", "one", "two")
REASONS = "the same for all images|by complexity|by confidence"


def write_run(folder, model):
    """The folder of a run, as far as it is looked at here."""
    config, data = Config(network=PuppetCNN()), {"source": {}, "sha256": ""}
    run_folder.open_run(folder, "digits", config, data, resume=False)
    save_model(folder / run_folder.MODEL, model)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run whose model has random floats, one depth, and kernels that follow the image."""
    measure = pj.CalibratedComplexity(0.1)
    model = make_model(SMALL, (1,), adaptation="sample", class_names=NAMES, complexity=measure)
    return write_run(tmp_path_factory.mktemp("run"), model)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Images, and the files that hold them."""
    folder, images = tmp_path_factory.mktemp("graded"), graded_images(12)[::3]
    return images, tuple(saved(folder / f"{n}.npy", image) for n, image in enumerate(images))


@pytest.fixture(autouse=True)
def no_cache_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))


class TestPredict:
    def test_one_line_an_image_in_their_order(self, folder, tmp_path, capsys):
        paths = (
            saved(tmp_path / "z.png", COLOUR),
            saved(tmp_path / "a.npy", GREY / 255),
            saved(tmp_path / "m.png", RNG.integers(0, 256, (20, 30), np.uint8)),
        )
        predict(Command(run=str(folder), images=paths))
        lines = capsys.readouterr().out.splitlines()
        pattern = r"(zero|one|two) \(\d+\.\d%\), complexity \d\.\d{3} nats, depth 1 \(the same for all images\)"
        for path, line in zip(paths, lines, strict=True):
            assert re.fullmatch(f"{re.escape(str(path))}: {pattern}", line)

        predict(Command(run=str(folder), images=paths[::-1]))
        assert capsys.readouterr().out.splitlines() == lines[::-1]

        predict(Command(run=str(folder), images=paths[1:]))
        assert capsys.readouterr().out.splitlines() == lines[1:]

    def test_probabilities_are_those_of_the_puppet(self, folder, tmp_path, capsys):
        model = load_model(folder / run_folder.MODEL)
        image = GREY[None, ..., None]
        h = float(pj.complexity(image)[0])
        puppet = model.network.puppet

        @jax.jit
        def apply(params, stats, image):
            kernels = pj.generate_kernels(params.puppeteer, 0.1 * h, puppet.kernel_shapes(1))
            return pj.apply_puppet(puppet, params, stats, kernels, image, depth=1)

        logits, _ = apply(model.params, model.batch_stats[1], image)
        best = int(logits.argmax())
        percent = float(jax.nn.softmax(logits).max())
        predict(Command(run=str(folder), images=(saved(tmp_path / "a.png", GREY),) * 2))
        expected = f"a.png: {model.class_names[best]} ({percent:.1%}), complexity {h:.3f} nats, depth 1 "
        assert capsys.readouterr().out.splitlines()[1].endswith(f"{expected}(the same for all images)")

    def lines(self, capsys):
        pattern = rf"complexity (\d\.\d{{3}}) nats, depth (\d+) \(({REASONS})\)$"
        found = [re.search(pattern, line).groups() for line in capsys.readouterr().out.splitlines()]
        return [list(column) for column in zip(*found, strict=True)]

    def test_one_depth(self, graded, tmp_path, capsys):
        """Kernels are those of a constant; what is printed is the image's own complexity."""
        images, paths = graded
        constant = pj.CalibratedComplexity(scale=0.0, offset=2.5)
        model = make_model(SMALL, (1,), adaptation="sample", class_names=NAMES, complexity=constant)
        predict(Command(run=str(write_run(tmp_path / "run", model)), images=paths))
        printed, depths, reasons = self.lines(capsys)
        assert printed == [f"{h:.3f}" for h in pj.complexities(images)]
        assert len(set(printed)) == len(printed)
        assert (set(depths), set(reasons)) == ({"1"}, {"the same for all images"})

    def test_depth_by_complexity(self, graded, tmp_path, capsys):
        images, paths = graded
        complexity = pj.calibrate(pj.complexities(images), 1, 2)
        model = make_model(SMALL, (1, 2), adaptation="sample", class_names=NAMES, complexity=complexity)
        predict(Command(run=str(write_run(tmp_path / "run", model)), images=paths))
        printed, depths, reasons = self.lines(capsys)
        assert printed == [f"{h:.3f}" for h in pj.complexities(images)]
        assert depths == [str(depth) for depth in pj.depth(pj.complexities(images, complexity)).tolist()]
        assert (set(depths), set(reasons)) == ({"1", "2"}, {"by complexity"})

    def test_depth_by_confidence(self, graded, tmp_path, capsys):
        """Image by image what the exit is sure of, of a model whose threshold lies between two confidences."""
        images, paths = graded
        config = PuppetCNN(channels=(4,), depth=ByConfidence(layers=(2,), exit_layer=1), kernels=Generated())
        network = config.make(10, (8, 8, 1))
        params = network.init(0, (2,))
        params = params._replace(exit=jax.tree.map(lambda leaf: 9 * leaf, params.exit))
        constant = pj.CalibratedComplexity(scale=0.0, offset=2.5)
        settings = {"network": network, "params": params, "batch_stats": {2: network.init_stats(2)}}
        model = dataclasses.replace(make_model(SMALL, (1,)), **settings, complexity=constant, threshold=0.5)
        confidences = extras.confidence(model.predictor().exits(images)[0])
        threshold = extras.exit_threshold(confidences, 0.5)
        model = dataclasses.replace(model, threshold=threshold)
        predict(Command(run=str(write_run(tmp_path / "run", model)), images=paths))
        printed, depths, reasons = self.lines(capsys)
        assert printed == [f"{h:.3f}" for h in pj.complexities(images)]
        assert depths == ["2" if confidence < threshold else "1" for confidence in confidences]
        assert (set(depths), set(reasons)) == ({"1", "2"}, {"by confidence"})

    def test_no_image(self, folder):
        with pytest.raises(DataError, match="no image was named"):
            predict(Command(run=str(folder), images=()))

    def test_no_run(self, tmp_path):
        image = saved(tmp_path / "a.png", GREY)
        with pytest.raises(UsageError, match="nothing is neither the folder of a run, nor .*cifar10-full"):
            predict(Command(run=str(tmp_path / "nothing"), images=(image,)))
        with pytest.raises(RunError, match=r"holds no config\.json"):
            predict(Command(run=str(tmp_path), images=(image,)))

    def test_a_run_without_a_model_yet(self, folder, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / run_folder.CONFIG).write_bytes((folder / run_folder.CONFIG).read_bytes())
        with pytest.raises(RunError, match="does not exist; a run writes it when its first epoch ends"):
            predict(Command(run=str(tmp_path / "run"), images=(saved(tmp_path / "a.png", GREY),)))

    @pytest.mark.parametrize("names", [["nothing.png"], ["good.png", "bad.png"], []])
    def test_on_the_command_line(self, folder, tmp_path, capsys, names):
        saved(tmp_path / "good.png", GREY)
        (tmp_path / "bad.png").write_bytes(b"no image")
        argv = [str(folder), *(str(tmp_path / name) for name in names)]
        assert run_command(Command, predict, "experiments.predict", "Classifies.", argv) == 1
        out, err = capsys.readouterr()
        assert out.count("\n") == names.count("good.png")  # what can be read is answered
        assert err.startswith("error: ")
        assert err.count("\n") == 1


class TestPretrained:
    @pytest.mark.parametrize("name", quick(pj.pretrained_models(), "cifar10-adaptive", "cifar10-c64-4bit"))
    def test_each_model_of_the_package_needs_no_run(self, tmp_path, capsys, name):
        paths = (saved(tmp_path / "a.png", COLOUR), saved(tmp_path / "b.npy", GREY / 255))
        assert run_command(Command, predict, "experiments.predict", "Classifies.", [name, *map(str, paths)]) == 0
        lines = capsys.readouterr().out.splitlines()
        model = pj.load_pretrained(name)
        names = "|".join(map(re.escape, model.class_names))
        reason = "the same for all images" if len(model.batch_stats) == 1 else "by complexity"
        for path, line in zip(paths, lines, strict=True):
            pattern = rf"({names}) \(\d+\.\d%\), complexity \d\.\d{{3}} nats, depth \d+ \({reason}\)"
            assert re.fullmatch(f"{re.escape(str(path))}: {pattern}", line)

    def test_a_model_file_is_that_of_its_run(self, folder, tmp_path, capsys):
        image = str(saved(tmp_path / "a.png", GREY))
        for run in (folder, folder / run_folder.MODEL):
            assert run_command(Command, predict, "experiments.predict", "Classifies.", [str(run), image]) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert first == second

    def test_an_image_in_place_of_the_model(self, tmp_path, capsys):
        paths = [str(saved(tmp_path / name, GREY)) for name in ("a.png", "b.png")]
        assert run_command(Command, predict, "experiments.predict", "Classifies.", paths) == 1
        assert "a.png is damaged or no model file" in capsys.readouterr().err

    @pytest.mark.data
    @pytest.mark.timeout(3600)  # 20 T multiply-accumulates for the largest
    @pytest.mark.parametrize("name", pj.pretrained_models())
    def test_accuracy_is_that_of_its_card(self, name):
        experiment = name.partition("-")[0]
        variable = f"PUPPET_{experiment.upper()}_DIR"
        if not os.environ.get(variable):
            pytest.skip(f"{variable} is not set to a folder with the official binary files")
        dataset, model = load_dataset(experiment, Path(os.environ[variable])), pj.load_pretrained(name)
        logits = model.predictor()(dataset.test_images)
        top1 = (logits.argmax(axis=1) == dataset.test_labels).mean()
        stated = re.search(r"\*\*([\d.]+) %\*\* top-1", pretrained_file(name).with_suffix(".md").read_text())
        assert stated is not None
        assert abs(100 * top1 - float(stated[1])) < 0.05  # other hardware rounds otherwise
        assert model.class_names == dataset.class_names
