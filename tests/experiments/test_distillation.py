"""Networks that trained networks teach."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from tiny_run import TIMED, leave_pictures_out

from experiments.config import (
    Adaptive,
    Config,
    Data as DataConfig,
    Distillation,
    Generated,
    OneDepth,
    Optim,
    Options,
    PuppetCNN,
)
from experiments.data import load_dataset
from experiments.errors import RunError
from experiments.evaluation import accuracy
from experiments.fields import as_json, flat, from_json, replace
from experiments.model import load_model
from experiments.names import name_of
from experiments.runs import folder as run_folder
from experiments.runs.load import load_run
from experiments.training.augment import cut_out
from experiments.training.distillation import answers_to, in_step, load_teachers
from experiments.training.run import train
from experiments.training.step import Data, init_state, make_train_step, pick, seed_of, targets_of

CONFIG = Config(
    network=PuppetCNN(channels=(16,), depth=OneDepth(layers=(1,)), kernels=Generated(), affine=True),
    data=DataConfig(num_images=1_000, num_validation=200),
    optim=Optim(epochs=8, batch_size=40, learning_rate=0.03, label_smoothing=0.1),
)
TEMPERATURE = 2.0


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        leave_pictures_out(patch)
        patch.setattr(accuracy, "speed", lambda *_, **__: dict.fromkeys(TIMED, 1.0))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds two teachers, one whose kernels follow the image, and one that is trained on other images."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in {
        "narrow": CONFIG,
        "wide": replace(CONFIG, channels=(24,)),
        "adaptive": replace(CONFIG, kernels=Adaptive(levels_per_batch=1, num_levels=2), epochs=1),
        "other": replace(CONFIG, seed=1, epochs=1),
    }.items():
        train("digits", config, Options(workdir=folder / name))
    return folder


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits").train_images[:40]


def taught(*teachers, **options):
    return replace(CONFIG, teachers=tuple(map(str, teachers)), **options)


class TestTargets:
    def test_against_numpy(self):
        rng = np.random.default_rng(0)
        answers = scipy.special.softmax(rng.normal(size=(4, 10)), axis=-1).astype(np.float32)
        batch = Data(np.zeros((4, 8, 8, 1), np.uint8), np.array([3, 1, 4, 1]), np.ones(4), answers)
        config = taught("there", teacher_weight=0.25)
        expected = 0.25 * answers
        for row, label in enumerate(batch.labels):
            expected[row] += 0.75 * 0.01
            expected[row, label] += 0.75 * 0.9
        np.testing.assert_allclose(targets_of(config, batch, 10), expected, rtol=1e-6)

    def test_of_teachers_alone(self):
        answers = np.full((1, 10), 0.1, np.float32)
        batch = Data(np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int32), np.ones(1), answers)
        np.testing.assert_allclose(targets_of(taught("there", teacher_weight=1), batch, 10), answers, rtol=1e-6)


class TestAnswers:
    def test_are_the_mean_probabilities(self, folder, images):
        runs = [load_run(folder / name) for name in ("narrow", "wide")]
        logits = [run.model.predictor()(images) for run in runs]
        expected = np.mean([scipy.special.softmax(one / TEMPERATURE, axis=-1) for one in logits], axis=0)
        found = answers_to(runs, images, TEMPERATURE)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert (found.max(axis=-1) > 0.2).any()  # they have learnt something

    def test_in_a_step_are_the_predictor_s(self, folder, images):
        for name in ("narrow", "wide"):
            run = load_run(folder / name)
            expected = run.model.predictor()(images)
            np.testing.assert_allclose(in_step(run)(images), expected, rtol=1e-4, atol=1e-4)


class TestStep:
    """A step of teachers is one of their answers to the images that the student sees."""

    @pytest.mark.parametrize("changes", [{}, {"augment": "crop_flip", "cutout": 3}], ids=["as they are", "augmented"])
    def test_teachers_and_answers(self, folder, images, changes):
        config = taught("there", teacher_temperature=TEMPERATURE, **changes)
        runs = [load_run(folder / name) for name in ("narrow", "wide")]
        network = config.network.make(10, (8, 8, 1))
        tx = optax.sgd(0.1)
        indices = np.arange(40, dtype=np.int32)
        data = Data(images, load_dataset("digits").train_labels[:40], np.ones(40, np.float32))

        def after(config, data):
            step = make_train_step(config, network, tx)
            state = init_state(config, network, (1,), tx)
            sharp = 10 * state.params.classifier_kernel  # a student of chance has the same loss whatever the targets
            params = dataclasses.replace(state.params, classifier_kernel=sharp)
            state, metrics = step(state._replace(params=params), jax.tree.map(jnp.asarray, data), indices, depth=1)
            return float(metrics["loss"]), jax.tree.leaves(state.params)

        seen = np.asarray(pick(config, jax.tree.map(jnp.asarray, data), indices, seed_of(config), 0).images)
        if config.data.cutout:
            seen = cut_out(jax.random.fold_in(jax.random.key(3), 0), jnp.asarray(seen), config.data.cutout)
        seen = np.asarray(seen)
        assert np.array_equal(seen, images) != bool(changes)
        as_seen = replace(config, augment="none", cutout=0)
        answered = data._replace(images=seen, answers=answers_to(runs, seen, TEMPERATURE))
        loss, params = after(config, data._replace(teachers=tuple(map(in_step, runs))))
        expected_loss, expected = after(as_seen, answered)
        assert loss == pytest.approx(expected_loss, rel=1e-4)
        for one, other in zip(params, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
        untaught, _ = after(as_seen, answered._replace(answers=None))
        assert abs(untaught - loss) > 1e-3


class TestRun:
    def test_learns_from_teachers_alone(self, folder, tmp_path):
        """Whose labels are worth nothing: the run agrees with its teacher."""
        config = taught(folder / "narrow", teacher_weight=1, label_smoothing=0.9)
        train("digits", config, Options(workdir=tmp_path / "run"))
        assert read_top1(tmp_path / "run") > 0.5

    @pytest.mark.parametrize("augment", ["none", "crop"])
    def test_goes_on_where_it_was_interrupted(self, folder, tmp_path, monkeypatch, augment):
        config = taught(folder / "narrow", folder / "wide", augment=augment, epochs=2)

        def stop(*_):
            raise KeyboardInterrupt

        train("digits", config, Options(workdir=tmp_path / "straight"))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("experiments.training.progress.Progress.report", stop)
            train("digits", config, Options(workdir=tmp_path / "cut"))
        train("digits", config, Options(workdir=tmp_path / "cut", resume=True))
        one, other = ((tmp_path / name / run_folder.MODEL).read_bytes() for name in ("cut", "straight"))
        assert one == other

    def test_another_model_of_a_teacher(self, folder, tmp_path, monkeypatch):
        """Does not go on with what another has begun to teach."""
        config = taught(shutil.copytree(folder / "narrow", tmp_path / "teacher"), epochs=2)

        def stop(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("experiments.training.progress.Progress.report", stop)
            train("digits", config, Options(workdir=tmp_path / "run"))
        shutil.copy(folder / "wide" / run_folder.CONFIG, tmp_path / "teacher")
        shutil.copy(folder / "wide" / run_folder.MODEL, tmp_path / "teacher")
        with pytest.raises(
            RunError, match="the model of the teacher .*teacher is another than the one that .*run began"
        ):
            train("digits", config, Options(workdir=tmp_path / "run", resume=True))

    def test_path_of_a_teacher_is_absolute(self, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(folder)
        summary = train("digits", taught("adaptive", epochs=1), Options(workdir=tmp_path / "run"))
        assert summary.config["distillation"]["teachers"] == [str(folder / "adaptive")]


def read_top1(folder):
    run = load_run(folder)
    images, labels = run.validation
    return accuracy.accuracy(load_model(folder / run_folder.MODEL).predictor()(images), labels)["top1"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("nowhere", {}, "--teachers: .*nowhere does not exist"),
            ("other", {}, "images that this run is validated on; give a teacher of the same --seed and images"),
            ("adaptive", {"augment": "crop"}, "follow the image, so it cannot answer to augmented images"),
            ("adaptive", {"cutout": 2}, "follow the image, so it cannot answer to augmented images"),
        ],
    )
    def test_a_teacher(self, folder, tmp_path, name, options, message):
        with pytest.raises(RunError, match=message):
            train("digits", taught(folder / name, **options), Options(workdir=tmp_path / "new"))
        assert not (tmp_path / "new").exists()

    def test_other_data(self, folder):
        with pytest.raises(RunError, match="narrow was trained on other data"):
            load_teachers(taught(folder / "narrow"), {"sha256": "another"}, np.arange(3), np.arange(3))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"teachers": ("a",), "teacher_weight": 0}, r"--teacher-weight must be in \(0, 1\], got 0"),
            ({"teachers": ("a",), "teacher_weight": 1.1}, r"--teacher-weight must be in \(0, 1\], got 1.1"),
            ({"teachers": ("a",), "teacher_temperature": 0}, "--teacher-temperature must be positive and finite"),
            ({"teachers": ("a",), "teacher_temperature": np.inf}, "--teacher-temperature must be positive and finite"),
            ({"teacher_weight": 0.5}, "--teacher-weight must be left out where there are no --teachers, got 0.5"),
            ({"teacher_temperature": 3}, "--teacher-temperature must be left out where there are no --teachers, got 3"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            Distillation(**options)


class TestConfiguration:
    def test_without_teachers_is_as_before_there_were_such(self):
        assert "distillation" not in as_json(CONFIG)
        assert from_json(Config, as_json(CONFIG)) == CONFIG

    def test_with_teachers(self):
        config = taught("one", "two", teacher_weight=0.5)
        described = json.loads(json.dumps(as_json(config)))
        assert described["distillation"] == dataclasses.asdict(config.distillation) | {"teachers": ["one", "two"]}
        assert from_json(Config, described) == config
        assert name_of(flat(described)).endswith(", taught")
        described["distillation"].pop("teachers")
        with pytest.raises(ValueError, match="Distillation lacks teachers"):
            from_json(Config, described)


def test_says_whose_images_a_teacher_has_seen(folder, capsys):
    run = load_run(folder / "narrow")
    some = run.train_indices[10:]
    for chosen, words in ((run.train_indices, ""), (some, ", 10 of which this run does not train on")):
        load_teachers(taught(folder / "narrow"), run.data, chosen, run.validation_indices)
        assert capsys.readouterr().out == f"teacher: {folder / 'narrow'}, trained on 1,000 images{words}\n"
