"""A finished run, measured again, and what it says of images."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from helpers import rewrite_json
from tiny_run import SUMMARY, TIMED

from experiments.cli import run_command
from experiments.config import Generated
from experiments.data import Dataset, load_dataset
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.evaluation.summary import read_summary
from experiments.fields import as_json
from experiments.model import load_model
from experiments.predict import Command as PredictCommand, predict
from experiments.runs.files import CHECKSUM
from experiments.runs.puppet import find_model
from puppet_jax import extras


@pytest.fixture(autouse=True)
def speed(monkeypatch):
    """Is not measured again; `straight` has."""
    monkeypatch.setattr("experiments.evaluation.accuracy.speed", lambda *_, **__: dict.fromkeys(TIMED, 1.0))


class TestEvaluate:
    def evaluate(self, *argv):
        return run_command(EvaluateCommand, evaluate, "experiments.evaluate", "Measures.", [str(word) for word in argv])

    def test_evaluate_repeats_the_summary(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        (folder / "summary.json").unlink()
        assert self.evaluate(folder) == 0
        assert f"top-1          {straight.summary.top1:.2%} of 360 test images" in capsys.readouterr().out
        assert set(json.loads((folder / "summary.json").read_text())) == SUMMARY | {CHECKSUM}
        summary = read_summary(folder)
        for name in SUMMARY - TIMED - {"host_peak_bytes"}:
            assert getattr(summary, name) == getattr(straight.summary, name)
        assert summary.host_peak_bytes >= straight.summary.host_peak_bytes

    def test_evaluate_takes_as_many_test_images_as_the_run_asked_for(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        config = json.loads((folder / "config.json").read_text())
        config["config"]["data"]["num_test"] = 90
        rewrite_json(folder / "config.json", config)
        assert self.evaluate(folder, "--agreement", 8) == 0
        assert re.search(r"level = sample \d+\.\d\d% of 8 test images", capsys.readouterr().out)
        summary = json.loads((folder / "summary.json").read_text())
        model, dataset = load_model(folder / "model.safetensors"), load_dataset("digits")
        correct = model.predictor()(dataset.test_images[::4]).argmax(1) == dataset.test_labels[::4]
        assert (summary["test_images"], summary["num_levels"], summary["top1"]) == (90, 4, correct.mean())

    def test_figures_of_other_levels_are_not_the_run_s(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        before = (folder / "summary.json").read_bytes()
        assert self.evaluate(folder, "--num-levels", 2) == 0
        model, dataset = load_model(folder / "model.safetensors"), load_dataset("digits")
        correct = model.predictor(num_levels=2)(dataset.test_images).argmax(1) == dataset.test_labels
        assert f"top-1          {correct.mean():.2%} of 360" in capsys.readouterr().out
        assert (folder / "summary.json").read_bytes() == before
        assert self.evaluate(folder, "--adaptation", "sample", "--num-levels", 2) == 2
        assert "--adaptation sample has no levels" in " ".join(capsys.readouterr().err.split())

    def test_adaptation_has_no_meaning_for_kernels_that_do_not_follow_the_image(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        config = json.loads((folder / "config.json").read_text())
        kernels = Generated(**{name: config["config"]["network"]["kernels"][name] for name in as_json(Generated())})
        config["config"]["network"]["kernels"] = {"kind": "Generated"} | as_json(kernels)
        rewrite_json(folder / "config.json", config)
        for flags in (["--adaptation", "sample"], ["--num-levels", 4], ["--agreement", 8]):
            assert self.evaluate(folder, *flags) == 1
            error = " ".join(capsys.readouterr().err.split())
            assert f"do not follow the image; leave out {flags[0]}." in error

    def test_evaluate_refuses_other_data(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        config = json.loads((folder / "config.json").read_text())
        config["data"]["sha256"] = "0" * 64
        rewrite_json(folder / "config.json", config)
        assert self.evaluate(folder) == 1
        assert "is not what" in capsys.readouterr().err

    def test_evaluate_of_a_run_without_a_model(self, straight, tmp_path, capsys):
        shutil.copy(straight.folder / "config.json", tmp_path)
        assert self.evaluate(tmp_path) == 1
        assert "split.npz is missing or damaged" in capsys.readouterr().err
        shutil.copy(straight.folder / "split.npz", tmp_path)
        assert self.evaluate(tmp_path) == 1
        assert "model.safetensors does not exist" in capsys.readouterr().err

    def test_a_model_file_alone(self, straight, tmp_path, capsys):
        """All test images of the data set that has its classes; nothing is written."""
        path = shutil.copy(straight.folder / "model.safetensors", tmp_path / "mine.safetensors")
        assert self.evaluate(path) == 0
        out = capsys.readouterr().out
        assert f"top-1          {straight.summary.top1:.2%} of 360 test images" in out
        assert f"file           {straight.summary.file_bytes:,} bytes" in out
        assert list(tmp_path.iterdir()) == [tmp_path / "mine.safetensors"]

    @pytest.mark.parametrize("flags", [["--sweep"], ["--num-levels", 2], ["--shifted-views"], ["--agreement", 4]])
    def test_a_model_file_takes_no_flags_of_runs(self, straight, flags, capsys):
        assert self.evaluate(straight.folder / "model.safetensors", *flags) == 2
        assert "is a model without its run: only --data-dir goes with it" in " ".join(capsys.readouterr().err.split())

    def test_a_model_of_the_package(self, tmp_path, capsys, monkeypatch):
        """Against the test images of CIFAR-10, here a folder of eight."""
        rng = np.random.default_rng(0)
        names = load_model(find_model("cifar10-c64-4bit")).class_names
        images, labels = rng.integers(0, 256, (8, 32, 32, 3), np.uint8), np.arange(8, dtype=np.int32)
        made = Dataset("cifar10", images, labels, images, labels, names, "a folder of eight")
        asked = []
        monkeypatch.setattr("experiments.data.load_dataset", lambda *given: asked.append(given) or made)
        assert self.evaluate("cifar10-c64-4bit", "--data-dir", tmp_path) == 0
        assert asked == [("cifar10", tmp_path)]
        out = capsys.readouterr().out
        assert "of 8 test images" in out and "all trainable  3,890 bytes" in out
        made = dataclasses.replace(made, class_names=("cat", *names[1:]))
        assert self.evaluate("cifar10-c64-4bit") == 1
        error = " ".join(capsys.readouterr().err.split())
        assert "a folder of eight has other classes, or images of another size, than cifar10-c64-4bit" in error

    def test_nothing_of_that_name(self, tmp_path, capsys):
        assert self.evaluate(tmp_path / "none") == 2
        assert "is neither the folder of a run, nor a model file, nor a model of the package" in capsys.readouterr().err

    @pytest.mark.data
    def test_accuracy_of_a_model_of_the_package(self, cifar10_dir, capsys):
        assert self.evaluate("cifar10-c64-4bit", "--data-dir", cifar10_dir) == 0
        assert "top-1          74.73% of 10000 test images" in capsys.readouterr().out

    def test_views_are_added_to_the_summary(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        model, dataset = load_model(folder / "model.safetensors"), load_dataset("digits")
        predict = model.predictor()
        held_out = np.load(folder / "split.npz")["validation"]
        threshold = extras.exit_threshold(extras.confidence(predict(dataset.train_images[held_out])), 0.4)
        predictors = [predict, *extras.shifted_views(predict)]
        logits, num = extras.ensemble(predictors, dataset.test_images, threshold)
        top1, fraction = float((logits.argmax(1) == dataset.test_labels).mean()), float((num > 1).mean())
        before = json.loads((folder / "summary.json").read_text())
        for _ in range(2):  # the second replaces the first
            assert self.evaluate(folder, "--shifted-views", "--fraction", 0.4) == 0
        output = capsys.readouterr().out
        assert f"top-1          {top1:.2%}, an ensemble answers {fraction:.1%} of the test images" in output
        after = json.loads((folder / "summary.json").read_text())
        assert after.pop(CHECKSUM) != before.pop(CHECKSUM)
        (found,) = after.pop("ensembles")
        assert before.pop("ensembles") == []
        assert after == before
        assert (found["top1"], found["test_fraction"], found["fraction"]) == (top1, fraction, 0.4)
        assert found["threshold"] == pytest.approx(threshold)
        assert found["puppet_macs"] == round(before["puppet_macs"] * (1 + 4 * fraction))
        assert found["trainable_bytes"] == before["trainable_bytes"]

    def test_answers_of_another_run(self, straight, tmp_path, capsys):
        """Twice the same network: what it answers by itself, for twice the bytes and the multiply-accumulates."""
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        assert self.evaluate(folder, "--with", straight.folder) == 0
        assert self.evaluate(folder, "--with", straight.folder, "--shifted-views", "--fraction", 0.4) == 0
        summary = json.loads((folder / "summary.json").read_text())
        plain, views = summary["ensembles"]
        assert plain["top1"] == summary["top1"]
        assert (plain["test_fraction"], plain["threshold"]) == (1, 2)
        assert plain["trainable_bytes"] == 2 * summary["trainable_bytes"]
        assert plain["puppet_macs"] == 2 * summary["puppet_macs"]
        assert views["puppet_macs"] == round(summary["puppet_macs"] * (1 + 9 * views["test_fraction"]))
        assert plain["runs"] == ["moved", straight.folder.name]
        assert self.evaluate(folder) == 0
        assert json.loads((folder / "summary.json").read_text())["ensembles"] == summary["ensembles"]

    def test_other_runs_must_not_have_seen_the_validation_images(self, straight, tmp_path, capsys):
        folders = [shutil.copytree(straight.folder, tmp_path / name) for name in ("one", "two")]
        split = np.load(straight.folder / "split.npz")
        np.savez(folders[1] / "split.npz", train=split["validation"][:7], validation=split["train"])
        assert self.evaluate(folders[0], "--with", folders[1]) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert "two was trained on 7 of the" in error and "runs of the same split" in error

    def test_other_runs_must_be_of_the_same_data(self, straight, tmp_path, capsys):
        folders = [shutil.copytree(straight.folder, tmp_path / name) for name in ("one", "two")]
        config = json.loads((folders[1] / "config.json").read_text())
        config["data"]["sha256"] = "0" * 64
        rewrite_json(folders[1] / "config.json", config)
        assert self.evaluate(folders[0], "--with", folders[1]) == 1
        assert "two was trained on other data than" in " ".join(capsys.readouterr().err.split())
        assert self.evaluate(folders[0], "--with", tmp_path / "three") == 1
        assert "three does not exist" in " ".join(capsys.readouterr().err.split())

    def test_further_answers_want_finished_runs(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        (folder / "summary.json").unlink()
        assert self.evaluate(folder, "--shifted-views") == 1
        assert "holds no summary.json; `python -m experiments.evaluate" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--sweep", "--agreement", "4"], "--sweep goes with --data-dir alone"),
            (["--sweep"], "the network of .* has no early exits; leave out --sweep"),
            (["--fraction", "0.5"], "--fraction needs --shifted-views or --with"),
            (["--shifted-views", "--fraction", "0"], r"--fraction must be in \(0, 1\]"),
            (
                ["--shifted-views", "--agreement", "4"],
                "--shifted-views and --with go with --fraction and --data-dir alone",
            ),
        ],
    )
    def test_further_answers_refuse_what_has_no_meaning(self, straight, argv, message, capsys):
        assert self.evaluate(straight.folder, *argv) != 0
        assert re.search(message, " ".join(capsys.readouterr().err.replace("│", " ").split()))


def test_predict_says_what_evaluation_counts(straight, tmp_path, capsys):
    dataset = load_dataset("digits")
    model = load_model(straight.folder / "model.safetensors")
    paths = tuple(tmp_path / f"{i}.npy" for i in range(4))
    for path, image in zip(paths, dataset.test_images, strict=False):
        np.save(path, image)
    predict(PredictCommand(run=str(straight.folder), images=tuple(paths)))
    expected = model.predictor()(dataset.test_images[:4]).argmax(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines] == [str(label) for label in expected]
    assert all(line.endswith("depth 1 (the same for all images)") for line in lines)
