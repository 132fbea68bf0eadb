"""What the page of `experiments.explore` computes and says; the page itself is seen in tests/browser."""

import dataclasses
import socket
import sys

import jax
import numpy as np
import pytest
from made_up import make_model
from pictures import photo, smooth_pictures
from PIL import Image

import puppet_jax as pj
from experiments.cli import run_command
from experiments.config import Config, PuppetCNN
from experiments.errors import DataError, RunError, UsageError
from experiments.explore import Command, check_address, explore
from experiments.explorer import images
from experiments.explorer.answer import NOTHING_YET, answer
from experiments.explorer.images import draw_patterns, read_upload, write_examples
from experiments.explorer.look import look, what_complexity_does
from experiments.explorer.report import describe_complexity, report_model, table_of_classes
from experiments.model import save_model
from experiments.runs import folder as run_folder
from experiments.runs.puppet import bucket_of, calibrate_number, open_puppet
from puppet_jax.pretrained import pretrained_file

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def adaptive():
    model = open_puppet("cifar10-adaptive")
    return model, model.predictor()


def saved(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


class TestLook:
    def test_it_is_what_the_predictor_answers(self, adaptive):
        model, predictor = adaptive
        image = photo()
        seen = look(model, predictor, image)
        logits, depths = model.predictor().route(image[None])
        np.testing.assert_allclose(seen.probabilities, jax.nn.softmax(logits[0]), rtol=1e-5)
        assert seen.depth == depths[0] == sum(seen.layers) == len(seen.kernels)
        assert seen.h == pj.complexities(image[None])[0]
        assert seen.calibrated == pj.complexities(image[None], model.complexity)[0]

    def test_the_parts_fit_together(self, adaptive):
        """The kernels are those of the trajectory: the velocities are the differences of the states over dl."""
        model, predictor = adaptive
        seen = look(model, predictor, photo())
        assert seen.dl == pytest.approx(np.tanh(1 / seen.kernel_h), rel=1e-6)
        assert seen.states.shape == (seen.depth + 1, 64, 64, 9)
        velocity = (seen.states[2] - seen.states[1]) / seen.dl
        pooled = velocity.reshape(32, 2, 64, 9).mean(axis=1).reshape(32, 64, 3, 3).transpose(2, 3, 1, 0)
        np.testing.assert_allclose(seen.kernels[1], pooled, atol=1e-5)
        steps = pj.num_steps(model.puppet.kernel_shapes(seen.depth), 64, 3)
        assert seen.kernel_macs == pj.generator_macs(model.params.puppeteer, steps)
        assert seen.puppet_macs == pj.puppet_macs(model.puppet, seen.depth, (32, 32))

    def test_the_slider_moves_everything(self, adaptive):
        model, predictor = adaptive
        found = [look(model, predictor, photo(), h) for h in (4.3, 5.1, 5.2)]
        assert [seen.depth for seen in found] == [5, 7, 7]
        assert [seen.h for seen in found] == [4.3, 5.1, 5.2]
        for name in ("calibrated", "kernel_h"):
            values = [getattr(seen, name) for seen in found]
            assert values == sorted(set(values)), name
        assert found[0].dl > found[1].dl > found[2].dl
        assert found[0].puppet_macs < found[1].puppet_macs == found[2].puppet_macs
        assert found[0].kernel_macs < found[1].kernel_macs == found[2].kernel_macs
        assert np.abs(found[1].probabilities - found[2].probabilities).max() > 1e-4

    @pytest.mark.parametrize("h", [-1.0, float("nan"), float("inf")])
    def test_no_such_complexity(self, adaptive, h):
        with pytest.raises(ValueError, match="finite and at least 0"):
            look(*adaptive, photo(), h)

    def test_a_number_is_calibrated_as_an_image_is(self, adaptive):
        measure = adaptive[0].complexity
        for picture in (photo(), *smooth_pictures(4)):
            number = calibrate_number(measure, float(pj.complexities(picture[None])[0]))
            assert number == pytest.approx(pj.complexities(picture[None], measure)[0], rel=1e-6)

    def test_kernels_of_an_image_of_its_own(self, adaptive):
        sample = dataclasses.replace(adaptive[0], adaptation="sample")
        assert bucket_of(sample, 5.5) == (5, 5.5)
        assert bucket_of(sample, 9.0) == (7, pj.depth_interval(7)[1])
        low, high = pj.depth_interval(5)
        depth, h = bucket_of(adaptive[0], 5.5)
        assert depth == 5
        assert 0 < abs(h - 5.5) <= (high - low) / 128  # half a level

    def test_what_follows_the_complexity(self, adaptive):
        model = adaptive[0]
        assert "Its depths are 5, 6, 7" in what_complexity_does(model)
        one = dataclasses.replace(model, batch_stats={7: model.batch_stats[7]})
        assert "only the kernels follow" in what_complexity_does(one)
        constant = dataclasses.replace(one, complexity=pj.CalibratedComplexity(scale=0.0, offset=7.4))
        assert "the slider changes nothing here" in what_complexity_does(constant)


class TestReport:
    def test_a_model(self, adaptive):
        model, predictor = adaptive
        seen = look(model, predictor, photo(), 4.3)
        text = report_model("<cifar>", model, seen, image_h=5.125)
        for part in (
            "&lt;cifar&gt;",
            "<b>Depth 5</b>, layers 1-2-2",
            "(the slider's; the image has 5.125)",
            "5 kernels",
        ):
            assert part in text
        assert text.count("<img alt='") == 2
        assert f"{seen.puppet_macs / 1e6:,.1f} million" in text
        assert "in this model's scale" in describe_complexity(seen, None)

    def test_classes_the_most_probable_first(self):
        table = table_of_classes(["a", "b&", "c"], np.array([0.2, 0.7, 0.1]))
        assert table.index("b&amp;</td><td>70.0%") < table.index("a</td><td>20.0%") < table.index("c</td>")

    def test_two_models_beside_each_other(self, tmp_path):
        path, file = str(saved(tmp_path / "a.png", photo())), str(pretrained_file("cifar10-adaptive"))
        h, about, (first, other) = answer(path, None, ["cifar10-adaptive", file])
        assert h == pj.complexities(photo()[None])[0]
        assert "as 32 × 32 × 3 values" in about
        assert "<h3>cifar10-adaptive</h3>" in first
        assert f"<h3>{file}</h3>" in other

    def test_no_file_yet_and_a_bad_one(self, tmp_path):
        assert answer(None, None, ["x"]) == (None, NOTHING_YET, [""])
        (tmp_path / "<b>.png").write_text("words")
        h, about, reports = answer(str(tmp_path / "<b>.png"), None, ["cifar10-adaptive"])
        assert (h, reports) == (None, [""])
        assert "role='alert'" in about
        assert "&lt;b&gt;.png is damaged or no image" in about
        assert str(tmp_path) not in about


class TestImages:
    def test_grey_and_transparent_pictures_are_converted(self, tmp_path):
        grey = photo(40, 40)[..., 0]
        expected = read_upload(saved(tmp_path / "a.png", np.stack([grey] * 3, axis=-1)), SHAPE)
        assert (read_upload(saved(tmp_path / "b.png", grey), SHAPE) == expected).all()
        alpha = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
        assert (read_upload(saved(tmp_path / "c.png", alpha), SHAPE) == expected).all()
        assert read_upload(tmp_path / "a.png", (8, 8, 1)).shape == (8, 8, 1)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((0, 4, 3), np.uint8), "^x.npy has shape"),
            (np.full((4, 4, 3), np.nan), "^x.npy holds nan; floating images must lie in"),
            (np.zeros((4, 4, 3), int), "^x.npy has dtype int64"),
        ],
        ids=["no pixel", "NaN", "integers"],
    )
    def test_arrays_that_are_no_images(self, tmp_path, array, message):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(DataError, match=message):
            read_upload(tmp_path / "x.npy", SHAPE)

    def test_a_text_file(self, tmp_path):
        (tmp_path / "x.png").write_text("words")
        with pytest.raises(DataError, match=r"^x\.png is damaged or no image"):
            read_upload(tmp_path / "x.png", SHAPE)

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match=r"^x\.png cannot be read \(No such file"):
            read_upload(tmp_path / "x.png", SHAPE)

    def test_large_pictures_are_not_decoded(self, tmp_path, monkeypatch):
        """By their header: these files are small."""
        path = saved(tmp_path / "x.png", np.zeros((70, 1100), np.uint8))
        monkeypatch.setattr(images, "MAX_MEGAPIXELS", 0.077)
        assert read_upload(path, SHAPE).shape == SHAPE
        monkeypatch.setattr(images, "MAX_MEGAPIXELS", 0.076)
        with pytest.raises(DataError, match=r"^x\.png has 1100 x 70 pixels; at most 0\.076 million"):
            read_upload(path, SHAPE)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow refuses twice as many itself
        with pytest.raises(DataError, match=r"^x\.png has more than 0\.076 million pixels"):
            read_upload(path, SHAPE)

    def test_large_files(self, tmp_path, monkeypatch):
        path = saved(tmp_path / "x.png", photo())
        monkeypatch.setattr(images, "MAX_MEGABYTES", 0.001)
        with pytest.raises(DataError, match=r"^x\.png is larger than 0\.001 MB"):
            read_upload(path, SHAPE)

    def test_examples_differ_in_complexity(self, tmp_path):
        patterns = draw_patterns(32)
        h = pj.complexities(np.stack(list(patterns.values())))
        assert h.min() < 3 < 4.5 < h.max()
        paths = write_examples(tmp_path)
        assert [path.name for path in paths] == [f"{n}.png" for n in (*patterns, "china", "flower")]
        assert all(read_upload(path, SHAPE).std() > 5 for path in paths)


class TestCommand:
    def test_without_gradio(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "gradio", None)
        monkeypatch.delitem(sys.modules, "experiments.explorer.page", raising=False)
        monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # set by the command, put back behind the test
        assert run_command(Command, explore, "experiments.explore", "Explores.", []) == 2
        assert "pip install 'puppet-jax[explore]'" in capsys.readouterr().err

    def test_wrong_usage(self, capsys):
        assert run_command(Command, explore, "experiments.explore", "Explores.", ["--port", "0"]) == 2
        assert "--port must be in [1, 65535], got 0" in capsys.readouterr().err

    def test_an_address_that_nothing_can_listen_at(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(UsageError, match=f"nothing can listen at 127.0.0.1, port {port}"):
                check_address("127.0.0.1", port)
        check_address("127.0.0.1", port)
        with pytest.raises(UsageError, match="nothing can listen at 203.0.113.1 .*choose another --host"):
            check_address("203.0.113.1", None)

    def test_no_such_model(self, tmp_path):
        with pytest.raises(UsageError, match="nothing is neither the folder of a run, nor a model file"):
            open_puppet("nothing")
        (tmp_path / "x").write_bytes(b"x")
        with pytest.raises(UsageError, match="damaged"):
            open_puppet(str(tmp_path / "x"))
        with pytest.raises(RunError, match=r"holds no config\.json"):
            open_puppet(str(tmp_path))

    def test_a_model_file_and_the_folder_of_a_run(self, tmp_path):
        folder = tmp_path / "run"
        config, data = Config(network=PuppetCNN()), {"source": {}, "sha256": ""}
        run_folder.open_run(folder, "digits", config, data, resume=False)
        save_model(folder / run_folder.MODEL, make_model())
        for named in (folder, folder / run_folder.MODEL):
            assert open_puppet(str(named)).image_shape == (8, 8, 1)
