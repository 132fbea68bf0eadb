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
        predict = model.predictor()
        held_out = np.load(folder / "split.npz")["validation"]
        threshold = pj.exit_threshold(pj.doubt(predict(dataset.train_images[held_out])), 0.4)
        logits, num = pj.average_answers([predict, *pj.moved_views(predict)], dataset.test_images, threshold)
        top1, share = float((logits.argmax(1) == dataset.test_labels).mean()), float((num > 1).mean())
        before = json.loads((folder / "summary.json").read_text())
        for _ in range(2):  # the second replaces the first
            assert self.evaluate(folder, "--views", "--share", 0.4) == 0
        output = capsys.readouterr().out
        assert f"top-1          {top1:.2%} with further answers to {share:.1%} of the test images" in output
        after = json.loads((folder / "summary.json").read_text())
        (answers,) = after.pop("answers")
        assert after == before
        assert (answers["top1"], answers["test_share"], answers["share"]) == (top1, share, 0.4)
        assert answers["threshold"] == pytest.approx(threshold)
        assert answers["puppet_macs"] == round(before["puppet_macs"] * (1 + 4 * share))
        assert answers["trainable_bytes"] == before["trainable_bytes"]

    def test_answers_of_another_run(self, straight, tmp_path, capsys):
        """Twice the same network: what it answers by itself, for twice the bytes and the multiply-accumulates."""
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        assert self.evaluate(folder, "--others", straight.folder) == 0
        assert self.evaluate(folder, "--others", straight.folder, "--views", "--share", 0.4) == 0
        summary = json.loads((folder / "summary.json").read_text())
        plain, views = summary["answers"]
        assert plain["top1"] == summary["top1"]
        assert (plain["test_share"], plain["threshold"]) == (1, -1)
        assert plain["trainable_bytes"] == 2 * summary["trainable_bytes"]
        assert plain["puppet_macs"] == 2 * summary["puppet_macs"]
        assert views["puppet_macs"] == round(summary["puppet_macs"] * (1 + 9 * views["test_share"]))
        assert plain["runs"] == ["moved", straight.folder.name]

    def test_other_runs_must_not_have_seen_the_validation_images(self, straight, tmp_path, capsys):
        folders = [shutil.copytree(straight.folder, tmp_path / name) for name in ("one", "two")]
        split = np.load(straight.folder / "split.npz")
        np.savez(folders[1] / "split.npz", train=split["validation"][:7], validation=split["train"])
        assert self.evaluate(folders[0], "--others", folders[1]) == 1
        error = " ".join(capsys.readouterr().err.split())
        assert "two was trained on 7 of the" in error and "runs of the same split" in error

    def test_other_runs_must_be_of_the_same_data(self, straight, tmp_path, capsys):
        folders = [shutil.copytree(straight.folder, tmp_path / name) for name in ("one", "two")]
        config = json.loads((folders[1] / "config.json").read_text())
        config["data"]["sha256"] = "0" * 64
        (folders[1] / "config.json").write_text(json.dumps(config))
        assert self.evaluate(folders[0], "--others", folders[1]) == 1
        assert "two was trained on other data than" in " ".join(capsys.readouterr().err.split())
        assert self.evaluate(folders[0], "--others", tmp_path / "three") == 1
        assert "three does not exist" in " ".join(capsys.readouterr().err.split())

    def test_further_answers_want_finished_runs(self, straight, tmp_path, capsys):
        folder = shutil.copytree(straight.folder, tmp_path / "moved")
        (folder / "summary.json").unlink()
        assert self.evaluate(folder, "--views") == 1
        assert "holds no summary.json; `python -m experiments.evaluate" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--share", "0.5"], "--share needs --views or --others"),
            (["--views", "--share", "0"], r"--share must be in \(0, 1\]"),
            (["--views", "--agreement", "4"], "--views and --others go with --share and --data-dir alone"),
        ],
    )
    def test_further_answers_refuse_what_has_no_meaning(self, straight, argv, message, capsys):
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
