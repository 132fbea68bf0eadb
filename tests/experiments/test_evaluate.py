"""A finished run, measured again, and what it says of images."""

import json
import re
import shutil

import numpy as np
import pytest
from tiny_run import SUMMARY, TIMED

import puppet_jax as pj
from experiments import run
from experiments.cli import run_command
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.model_file import load_model
from experiments.predict import Command as PredictCommand, predict


class TestEvaluate:
    def evaluate(self, *argv):
        return run_command(EvaluateCommand, evaluate, "experiments.evaluate", "Measures.", [str(word) for word in argv])

    def test_evaluate_repeats_the_summary(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        (folder / "summary.json").unlink()
        assert self.evaluate(folder) == 0
        assert f"top-1          {straight.summary['top1']:.2%} of 360 test images" in capsys.readouterr().out
        summary = json.loads((folder / "summary.json").read_text())
        assert set(summary) >= SUMMARY
        for name in SUMMARY - TIMED:
            assert summary[name] == straight.summary[name] or name == "config"

    def test_evaluate_takes_as_many_test_images_as_the_run_asked_for(self, straight, tmp_path):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        config = json.loads((folder / "config.json").read_text())
        config["config"]["num_test"] = 90
        (folder / "config.json").write_text(json.dumps(config))
        assert self.evaluate(folder) == 0
        summary = json.loads((folder / "summary.json").read_text())
        model, dataset = load_model(folder / "model.safetensors"), run.load_dataset("digits", None, "auto")
        correct = model.predictor()(dataset.test_images[::4]).argmax(1) == dataset.test_labels[::4]
        assert (summary["test_images"], summary["top1"]) == (90, correct.mean())

    def test_evaluate_refuses_other_data(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        config = json.loads((folder / "config.json").read_text())
        config["data"]["sha256"] = "0" * 64
        (folder / "config.json").write_text(json.dumps(config))
        assert self.evaluate(folder) == 1
        assert "is not what" in capsys.readouterr().err

    def test_evaluate_of_a_run_without_a_model(self, straight, tmp_path, capsys):
        shutil.copy(straight.folder / "config.json", tmp_path)
        assert self.evaluate(tmp_path) == 1
        assert "model.safetensors does not exist" in capsys.readouterr().err

    def test_views_are_added_to_the_summary(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        model, dataset = load_model(folder / "model.safetensors"), run.load_dataset("digits", None, "auto")
        held_out = np.load(folder / "split.npz")["validation"]
        doubts = pj.doubt(model.predictor()(dataset.train_images[held_out]))
        threshold = pj.exit_threshold(doubts, 0.4)
        logits, num_views = pj.average_views(model.predictor(), dataset.test_images, threshold=threshold)
        top1 = float((logits.argmax(1) == dataset.test_labels).mean())
        before = json.loads((folder / "summary.json").read_text())
        assert self.evaluate(folder, "--views", "--share", 0.4) == 0
        assert f"top-1          {top1:.2%} with {num_views.mean():.2f} views" in capsys.readouterr().out
        after = json.loads((folder / "summary.json").read_text())
        views = after.pop("views")
        assert after == before
        assert (views["top1"], views["mean_views"], views["share"]) == (top1, num_views.mean(), 0.4)
        assert views["threshold"] == pytest.approx(threshold)
        assert 1 < views["mean_views"] < 5

    def test_views_of_all_images(self, straight, tmp_path):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        assert self.evaluate(folder, "--views") == 0
        views = json.loads((folder / "summary.json").read_text())["views"]
        assert (views["mean_views"], views["threshold"]) == (5, -1)

    def test_views_want_a_finished_run(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        (folder / "summary.json").unlink()
        assert self.evaluate(folder, "--views") == 1
        assert "holds no summary.json; `python -m experiments.evaluate" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--share", "0.5"], "--share needs --views"),
            (["--views", "--share", "0"], r"--share must be in \(0, 1\]"),
            (["--views", "--agreement", "4"], "--views goes with --share and --data-dir alone"),
        ],
    )
    def test_views_refuse_what_has_no_meaning(self, straight, argv, message, capsys):
        assert self.evaluate(straight.folder, *argv) != 0
        assert re.search(message, " ".join(capsys.readouterr().err.replace("│", " ").split()))


def test_predict_says_what_evaluation_counts(straight, tmp_path, capsys):
    dataset = run.load_dataset("digits", None, "auto")
    model = load_model(straight.folder / "model.safetensors")
    paths = tuple(tmp_path / f"{i}.npy" for i in range(4))
    for path, image in zip(paths, dataset.test_images, strict=False):
        np.save(path, image)
    predict(PredictCommand(paths=(straight.folder, *paths)))
    expected = model.predictor()(dataset.test_images[:4]).argmax(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines] == [str(label) for label in expected]
    assert all(line.endswith("depth 1") for line in lines)
