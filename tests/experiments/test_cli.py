"""The command lines: help, presets, refusals, exit codes."""

import dataclasses
import importlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli import run_command, run_experiment
from experiments.config import PRESETS, Config, Options
from experiments.errors import DataError, Interrupted

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "cifar10": ["--epochs", "--preset {small,best,paper,full}", "--data-dir", "--resume"],
    "cifar100": ["--epochs", "--preset {small,best,paper,full}", "--data-dir", "--network", "--adapt"],
    "mini_imagenet": ["--epochs", "--data-dir DIR", "--resume"],
    "digits": ["--epochs", "--workdir", "--learning-rate"],
    "evaluate": ["--data-dir", "--adaptation"],
    "predict": ["IMAGE"],
    "quantize": ["--bits", "--workdir"],
    "frontier": ["--out"],
    "benchmark": ["--batch-sizes", "--rounds", "--data-dir"],
    "measures": ["--data-dir"],
    "tables": [
        "--budget",
        "--seeds",
        "--data-dir",
        "--cifar100-dir",
        "--mini-imagenet-dir",
        "--runs",
        "--out",
        "--json",
    ],
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_answers_at_once_and_needs_no_jax(name):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{name}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('experiments.{name}', run_name='__main__')\n"
        "except SystemExit as exit:\n"
        "    assert exit.code == 0, exit.code\n"
        "loaded = {'jax', 'flax', 'optax', 'orbax', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert f"python -m experiments.{name}" in done.stdout
    text = " ".join(done.stdout.split())
    for flag in PROGRAMS[name]:
        assert flag.split()[0] in text
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # not those of other processes
    assert seconds < 3


@pytest.fixture
def taken(monkeypatch):
    """The arguments that `train` would have got."""
    import experiments.run

    calls = []
    monkeypatch.setattr(experiments.run, "train", lambda *arguments: calls.append(arguments))
    return calls


class TestFlags:
    def test_the_first_preset_is_the_default(self, taken):
        assert run_experiment("cifar10", PRESETS, "Trains.", []) == 0
        assert taken == [("cifar10", PRESETS["small"], Options(workdir=Path("runs/cifar10-small-seed0")))]

    @pytest.mark.parametrize("argv", [["--preset", "paper"], ["--preset=paper"]])
    def test_flags_override_a_preset(self, taken, argv):
        argv = [*argv, "--epochs", "3", "--channels", "4", "8", "--seed", "5", "--data-dir", "here", "--resume"]
        assert run_experiment("cifar10", PRESETS, "Trains.", argv) == 0
        name, config, options = taken[0]
        assert config == dataclasses.replace(PRESETS["paper"], epochs=3, channels=(4, 8), seed=5)
        assert options == Options(workdir=Path("runs/cifar10-paper-seed5"), data_dir=Path("here"), resume=True)

    def test_workdir_and_flags_of_every_type(self, taken):
        argv = [
            *["--workdir", "w", "--spread", "2", "3", "--affine", "--classifier", "generated", "--num-images", "100"],
            *["--learning-rate", "0.5", "--dtype", "bfloat16", "--augment", "crop", "--max-channels", "600"],
            *["--kernels-from", "velocity"],
        ]
        assert run_experiment("x", {"only": Config()}, None, argv) == 0
        expected = Config(
            spread=(2, 3), affine=True, classifier="generated", num_images=100, learning_rate=0.5, dtype="bfloat16",
            augment="crop", max_channels=600, kernels_from="velocity",
        )  # fmt: skip
        assert taken == [("x", expected, Options(workdir=Path("w")))]

    @pytest.mark.parametrize(
        ("argv", "complaint"),
        [
            (["--epoch-count", "3"], "--epoch-count"),
            (["--epochs", "many"], "many"),
            (["--classifier", "psychic"], "psychic"),
            (["stray"], "stray"),
            (["--preset", "huge"], "--preset must be one of small, best, paper, full, got 'huge'"),
        ],
    )
    def test_unknown(self, taken, capsys, argv, complaint):
        assert run_experiment("cifar10", PRESETS, "Trains.", argv) == 2
        out, err = capsys.readouterr()
        assert complaint in out + err
        assert not taken

    @pytest.mark.parametrize(
        "argv",
        [
            "--epochs 0",
            "--epochs -1",
            "--batch-size -3",
            "--batch-size 0",
            "--learning-rate nan",
            "--learning-rate inf",
            "--learning-rate 0",
            "--learning-rate -0.1",
            "--label-smoothing 1.5",
            "--label-smoothing 1",
            "--label-smoothing -0.1",
            "--weight-decay nan",
            "--weight-decay -1",
            "--spread 3 2",
            "--spread 0 2",
            "--num-levels 3",
            "--num-levels 0",
            "--num-slices 0",
            "--num-images 0",
            "--num-validation 0",
            "--num-test 0",
            "--dropout 1",
            "--kernel-size 2",
            "--kernel-size -1",
            "--max-channels 0",
            "--channels 4 0",
            "--scale 0",
            "--seed -1",
            f"--seed {2**32}",
            "--pattern-seed -1",
            "--num-layers 18",  # from here on: what does not go together
            "--kernels stored --adapt depth",
            "--network vgg --kernels combined",
            "--network resnet20 --dropout 0.1",
            "--network vgg --adapt both",
            "--network vgg --adapt depth",
            "--network resnet --kernels stored --adapt parameters",
            "--network alexnet --dtype bfloat16",
        ],
    )
    def test_absurd_values(self, taken, capsys, argv):
        """Wrong usage; the message names the flag and the value."""
        flag, *values = argv[argv.rindex("--") :].split()
        assert run_experiment("cifar10", PRESETS, "Trains.", argv.split()) == 2
        out, err = capsys.readouterr()
        message = " ".join(err.replace("│", " ").split())  # tyro draws a box
        assert f"{flag} must be" in message or f"{flag}s must be" in message
        assert f"got ({', '.join(values)})" in message or any(f"got {value}" in message for value in values)
        assert out == ""
        assert "Traceback" not in err
        assert not taken


class TestNetworks:
    """Which network a configuration names, and what of it follows complexity."""

    @pytest.mark.parametrize(
        ("given", "adapts"),
        [
            ({}, "both"),
            ({"adapt": "depth"}, "depth"),
            ({"adapt": "none"}, "none"),
            ({"network": "vgg"}, "parameters"),
            ({"network": "vgg", "adapt": "none"}, "none"),
            ({"network": "vgg", "kernels": "stored"}, "none"),
        ],
        ids=str,
    )
    def test_what_follows_complexity(self, given, adapts):
        assert Config(**given).adapts == adapts

    def test_flags(self, taken):
        argv = ["--network", "resnet", "--kernels", "stored", "--num-layers", "10", "--max-channels", "16"]
        assert run_experiment("cifar10", PRESETS, "Trains.", ["--preset", "paper", *argv]) == 0
        expected = dataclasses.replace(
            PRESETS["paper"], network="resnet", kernels="stored", num_layers=10, max_channels=16
        )
        assert taken[0][1] == expected
        assert (expected.channels, expected.adapts) == ((64, 128, 256, 512), "none")


class TestExitCodes:
    @dataclasses.dataclass(frozen=True)
    class Command:
        n: int = 1

    def status(self, error):
        def action(command):
            if error is not None:
                raise error

        return run_command(self.Command, action, "x", "Does x.", [])

    def test_success(self, capsys):
        assert self.status(None) == 0
        assert capsys.readouterr() == ("", "")

    def test_what_a_person_can_mend_is_one_line(self, capsys):
        assert self.status(DataError("no data here; give --data-dir.")) == 1
        assert capsys.readouterr() == ("", "error: no data here; give --data-dir.\n")

    @pytest.mark.parametrize(("signum", "status"), [(2, 130), (15, 143)])
    def test_interrupted(self, capsys, signum, status):
        assert self.status(Interrupted(signum, "stopped; go on with --resume.")) == status
        assert capsys.readouterr() == ("", "stopped; go on with --resume.\n")

    def test_control_c_before_the_loop(self, capsys):
        assert self.status(KeyboardInterrupt()) == 130
        assert capsys.readouterr().err.count("\n") == 1

    def test_a_bug_shows_its_traceback(self):
        with pytest.raises(ZeroDivisionError):
            self.status(ZeroDivisionError())


class TestMissingThings:
    @pytest.fixture(autouse=True)
    def no_cache_outside(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))

    def run(self, name, *argv):
        return run_experiment(name, PRESETS, "Trains.", [str(word) for word in argv])

    def one_line(self, capsys):
        out, err = capsys.readouterr()
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    def test_data_dir(self, tmp_path, capsys):
        workdir = tmp_path / "run"
        assert self.run("cifar10", "--data-dir", tmp_path / "nothing", "--workdir", workdir) == 1
        assert str(tmp_path / "nothing") in self.one_line(capsys)
        assert not workdir.exists()

    def test_empty_data_dir(self, tmp_path, capsys):
        assert self.run("cifar10", "--data-dir", tmp_path, "--workdir", tmp_path / "run") == 1
        assert str(tmp_path) in self.one_line(capsys)

    def test_more_images_than_there_are(self, tmp_path, capsys):
        assert self.run("digits", "--num-images", 1400, "--num-validation", 38, "--workdir", tmp_path / "run") == 1
        assert "1400 training and 38 validation" in self.one_line(capsys)
        assert not (tmp_path / "run").exists()

    def test_a_folder_of_something_else_is_left_alone(self, tmp_path, capsys):
        (tmp_path / "thesis.tex").write_text("precious")
        flags = ["--num-images", 64, "--num-validation", 32, "--workdir", tmp_path]
        for resume in ([], ["--resume"]):
            assert self.run("digits", *flags, *resume) == 1
            assert "so it is no folder of a run" in self.one_line(capsys)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_file_as_the_folder(self, tmp_path, capsys):
        (tmp_path / "file").write_text("precious")
        flags = ["--num-images", 64, "--num-validation", 32, "--workdir", tmp_path / "file"]
        assert self.run("digits", *flags) == 1
        assert str(tmp_path / "file") in self.one_line(capsys)

    @pytest.mark.parametrize(
        "flags",
        [["--batch-size", 128, "--num-images", 64], ["--channels", 4, 5, 6, 7, 8, "--num-images", 64]],
        ids=["batch too large", "images too small"],
    )
    def test_what_the_data_does_not_allow_leaves_no_run(self, tmp_path, capsys, flags):
        """So that the same command with a better value starts at once."""
        workdir = tmp_path / "run"
        assert self.run("digits", *flags, "--num-validation", 32, "--workdir", workdir) == 1
        self.one_line(capsys)
        assert not (workdir / "config.json").exists()

    @pytest.mark.parametrize("program", ["evaluate", "predict"])
    def test_run(self, tmp_path, capsys, program):
        module = importlib.import_module(f"experiments.{program}")
        argv = [str(tmp_path / "nothing"), *(["a.png"] if program == "predict" else [])]
        assert run_command(module.Command, getattr(module, program), program, "Does.", argv) == 1
        assert str(tmp_path / "nothing") in self.one_line(capsys)


class TestPresets:
    def test_paper_is_the_papers_protocol(self):
        paper = PRESETS["paper"]
        assert (paper.num_images, paper.num_validation) == (8_000, 2_000)
        assert (paper.batch_size, paper.epochs) == (64, 800)
        assert (paper.augment, paper.weight_decay, paper.label_smoothing) == ("none", 0, 0)
        assert max(paper.channels) == 512
        assert (paper.classifier, paper.affine, paper.residual, paper.spread) == ("generated", False, False, None)

    def test_full_takes_all_images(self):
        full = PRESETS["full"]
        assert full.num_images is None
        assert full.augment == "crop_flip"
        assert max(full.channels) <= 512

    @pytest.mark.parametrize("name", ["small", "best"])
    def test_small_takes_the_papers_images(self, name):
        small = PRESETS[name]
        assert (small.num_images, small.num_validation, small.batch_size) == (8_000, 2_000, 64)
        assert small.augment == "none"
        assert max(small.channels) <= 512

    @pytest.mark.parametrize(("name", "validation"), [("cifar100", 10_000), ("mini_imagenet", 6_000)])
    def test_of_other_data(self, name, validation):
        """The papers' splits: whatever is not for validation is trained on."""
        module = importlib.import_module(f"experiments.{name}")
        assert list(module.PRESETS) == ["small", "best", "paper", "full"]
        for preset in module.PRESETS.values():
            assert (preset.num_images, preset.num_validation) == (None, validation)
        assert dataclasses.replace(module.PRESETS["paper"], num_images=8_000, num_validation=2_000) == PRESETS["paper"]

    def test_full_of_cifar100_augments_nothing(self):
        """As the papers train there (v1 Sec. 4.1), and otherwise the network that is full on CIFAR-10."""
        full = importlib.import_module("experiments.cifar100").PRESETS["full"]
        assert (full.augment, full.cutout) == ("none", 0)
        assert (full.channels, full.spread) == (PRESETS["full"].channels, PRESETS["full"].spread)

    def test_small_comes_first(self):
        assert list(PRESETS) == ["small", "best", "paper", "full"]

    @pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
    def test_fits_the_images(self, preset):
        import puppet_jax as pj

        pj.Puppet(channels=preset.channels).check_image_size(32, 32)
