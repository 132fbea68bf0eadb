"""What a run's folder holds, and which runs it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_run import CONFIG, PER_EPOCH, STEPS, SUMMARY, rows

from experiments.config import Config, Options
from experiments.data import split_indices
from experiments.errors import RunError
from experiments.fields import from_json, replace
from experiments.model import load_model
from experiments.runs import folder as run_folder
from experiments.runs.files import CHECKSUM, with_checksum
from experiments.training import run
from experiments.training.loop import chosen_epoch


class TestFolder:
    def test_holds_everything(self, straight):
        names = {path.name for path in straight.folder.iterdir()}
        assert names == {
            *("config.json", "lock", "metrics.jsonl", "split.npz", "checkpoints"),
            *("curves.png", "depths.png", "summary.json", "model.safetensors"),
        }
        for picture in ("curves.png", "depths.png"):
            assert (straight.folder / picture).read_bytes().startswith(b"\x89PNG")

    def test_config(self, straight):
        config = json.loads((straight.folder / "config.json").read_text())
        assert config["experiment"] == "digits"
        assert config["layout"] == 2
        assert from_json(Config, config["config"]) == CONFIG
        assert len(config["data"]["sha256"]) == 64
        assert config["data"]["source"] == {
            "described": "scikit-learn's load_digits",
            "data_dir": None,
            "data_source": "auto",
        }
        assert config["versions"]["jax"] == jax.__version__

    def test_split_is_a_function_of_the_seed_alone(self, straight):
        split = np.load(straight.folder / "split.npz")
        train, validation = split_indices(1437, 64, 200, CONFIG.seed)
        np.testing.assert_array_equal(split["train"], train)
        np.testing.assert_array_equal(split["validation"], validation)
        assert not set(train.tolist()) & set(validation.tolist())

    def test_metrics(self, straight):
        table = rows(straight.folder)
        assert [row["epoch"] for row in table] == [1, 2, 3, 4]
        assert [row["step"] for row in table] == [4, 8, 12, 16]
        for epoch, row in enumerate(table):
            assert set(row) == {
                *("epoch", "step", "train_loss", "train_top1", "validation_loss", "validation_top1"),
                *("validation_top5", "images_per_s", "seconds"),
            }
            assert all(np.isfinite(value) for value in row.values())
            losses = [loss for *_, loss in straight.steps[epoch * PER_EPOCH : (epoch + 1) * PER_EPOCH]]
            assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-6)

    def test_summary(self, straight):
        summary = json.loads((straight.folder / "summary.json").read_text())
        assert summary == with_checksum(json.loads(json.dumps(dataclasses.asdict(straight.summary))))
        assert set(summary) == SUMMARY | {CHECKSUM}
        table = rows(straight.folder)
        chosen = chosen_epoch(table, CONFIG.data.num_validation)
        assert summary["step"] == chosen["step"]
        assert summary["steps"] == STEPS
        assert summary["validation_top1"] == chosen["validation_top1"]
        assert summary["train_seconds"] == pytest.approx(sum(row["seconds"] for row in table))
        assert summary["seed"] == CONFIG.seed
        assert summary["config"]["network"]["channels"] == [8]
        assert summary["depth_counts"] == {"1": 360}
        assert summary["depth_mean"] == 1
        assert summary["puppet_macs"] == 9 * 1 * 8 * 64 + 8 * 10
        assert summary["generator_macs"] == (8**2 + 11 * 8) * 8 * 9
        assert summary["file_bytes"] == (straight.folder / "model.safetensors").stat().st_size
        assert 0 <= summary["top1"] <= summary["top5"] <= 1
        assert min(summary[name] for name in ("latency_s", "latency_generating_s", "images_per_s")) > 0
        assert "cpu" in summary["device"] or "gpu" in summary["device"].lower()

    def test_last_and_best_checkpoints_are_kept(self, straight):
        kept = {int(path.name) for path in (straight.folder / "checkpoints").iterdir()}
        best = max(row["validation_top1"] for row in rows(straight.folder))
        candidates = {row["step"] for row in rows(straight.folder) if row["validation_top1"] == best}
        assert STEPS in kept
        assert kept & candidates
        assert len(kept) <= 2

    def test_the_model_is_that_of_the_chosen_epoch(self, straight):
        model = load_model(straight.folder / "model.safetensors")
        assert model.step == chosen_epoch(rows(straight.folder), CONFIG.data.num_validation)["step"]
        assert (model.network.image_shape[:2], model.num_levels, model.adaptation) == ((8, 8), 4, "level")
        assert list(model.batch_stats) == [1]
        dataset = run.load_dataset("digits", None, "auto")
        validation = np.load(straight.folder / "split.npz")["validation"]
        labels = dataset.train_labels[validation]
        logits = model.predictor()(dataset.train_images[validation])
        assert float((logits.argmax(1) == labels).mean()) == pytest.approx(straight.summary.validation_top1)


class TestChosenEpoch:
    @pytest.mark.parametrize(
        ("validation", "chosen"),
        [
            ([0.5], 0),
            ([0.5, 0.6, 0.59], 2),  # the standard error of 0.6 of 400 images is 0.0245
            ([0.5, 0.6, 0.576], 2),
            ([0.5, 0.6, 0.575], 1),
            ([0.5, 0.6, 0.59, 0.5], 2),
            ([0.59, 0.6, 0.7], 2),
            ([1.0, 0.999], 0),
            ([0.0, 0.0], 1),
        ],
    )
    def test_is_the_latest_within_a_standard_error_of_the_best(self, validation, chosen):
        table = [{"validation_top1": value} for value in validation]
        assert chosen_epoch(table, 400) is table[chosen]

    def test_what_is_kept_epoch_by_epoch_is_what_would_be_chosen_in_the_end(self):
        rng = np.random.default_rng(0)
        for _ in range(200):
            table = [{"validation_top1": value} for value in rng.uniform(0.4, 0.6, 20)]
            kept = [row for n, row in enumerate(table) if chosen_epoch(table[: n + 1], 400) is row][-1]
            assert kept is chosen_epoch(table, 400)


class TestRefusals:
    def train(self, straight, resume=True, **changes):
        config = replace(CONFIG, **changes)
        return run.train("digits", config, Options(workdir=straight.folder, resume=resume))

    def test_a_folder_with_a_run(self, straight):
        with pytest.raises(RunError, match="straight holds a run already; go on with --resume, or name another"):
            self.train(straight, resume=False)

    def test_another_configuration(self, straight):
        with pytest.raises(RunError, match=r"\(learning_rate: 0\.1 there, 0\.2 now\)"):
            self.train(straight, learning_rate=0.2)
        with pytest.raises(RunError, match=r"\(channels: \[8\] there, \[4\] now; epochs: 4 there, 5 now\)"):
            self.train(straight, channels=(4,), epochs=5)

    def test_another_experiment(self, straight):
        data = run_folder.read_config(straight.folder)["data"]
        with pytest.raises(RunError, match=r"\(experiment: 'digits' there, 'cifar10' now\)"):
            run_folder.open_run(straight.folder, "cifar10", CONFIG, data, resume=True)

    def test_other_data(self, straight, monkeypatch):
        dataset = run.load_dataset("digits", None, "auto")
        images = dataset.test_images.copy()
        images[5, 3, 3, 0] ^= 1
        other = dataclasses.replace(dataset, test_images=images)
        monkeypatch.setattr(run, "load_dataset", lambda *_: other)
        with pytest.raises(RunError, match="sha256: '[0-9a-f]{64}' there, '[0-9a-f]{64}' now"):
            self.train(straight)

    def test_the_folder_is_as_before(self, straight):
        """What was refused left no trace."""
        before = {path: path.stat().st_mtime_ns for path in straight.folder.iterdir()}
        for changes in ({"resume": False}, {"epochs": 5}):
            with pytest.raises(RunError):
                self.train(straight, **changes)
        assert {path: path.stat().st_mtime_ns for path in straight.folder.iterdir()} == before

    def test_a_damaged_config(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(RunError, match=r"config\.json is damaged"):
            run.train("digits", CONFIG, Options(workdir=tmp_path, resume=True))
