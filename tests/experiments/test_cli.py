"""The command lines: help, presets, refusals, exit codes."""

import dataclasses
import importlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.baselines import BASELINES
from experiments.cifar10 import PRESETS
from experiments.cli import AT_ONCE, run_command, run_experiment
from experiments.config import (
    Adaptive,
    ByComplexity,
    ByConfidence,
    Config,
    FrozenBasis,
    Generated,
    OneDepth,
    Options,
    Ordinary,
    PuppetCNN,
)
from experiments.data import load_dataset
from experiments.errors import DataError, Interrupted
from experiments.fields import as_json, flat, replace
from experiments.model import bits_of
from experiments.training.run import _identity
from puppet_jax import extras

ROOT = Path(__file__).parents[2]
RUN = ["--epochs", "--data-dir", "--data-source", "--workdir", "--resume"]
CASES = {
    "cifar10": [
        *RUN,
        "--preset",
        "Presets: small, best, light, adaptive, early-exit, paper, full, ",
        "--depths",
        "--sharing",
    ],
    "cifar10 --preset best": ["those of preset best", "--layers", "--mirror"],
    "cifar10 --preset early-exit": ["those of preset early-exit", "--exit-layer", "--fraction"],
    "cifar10 --preset vgg-fixed": ["those of preset vgg-fixed", "--num-layers", "--width"],
    "cifar10 --preset alexnet-puppet": ["those of preset alexnet-puppet", "--kernels-from"],
    "cifar10 --preset resnet-adaptive": ["those of preset resnet-adaptive", "--levels-per-batch"],
    "cifar100": [*RUN, "--preset", "Presets: small, best, paper, full, "],
    "mini_imagenet": [*RUN, "DIR/CLASS/*.png"],
    "digits": [*RUN, "--learning-rate"],
    "evaluate": ["--data-dir", "--adaptation", "--shifted-views", "--with", "--fraction"],
    "predict": ["RUN", "IMAGE"],
    "explore": ["RUN", "--host", "--port"],
    "webpage": ["RUN", "--out"],
    "quantize": ["--bits", "--workdir", "--epochs", "--learning-rate"],
    "export": ["--to", "stablehlo", "--out", "--generate"],
    "frontier": ["--out"],
    "mlperf_tiny": ["MODEL", "--data-dir", "--out"],
    "benchmark": ["--batch-sizes", "--rounds", "--data-dir"],
    "record": ["--check"],
    "tables": [
        *("--budget", "--seeds", "--data-dir", "--cifar100-dir", "--mini-imagenet-dir", "--runs", "--out", "--json"),
        *("--finished", "equal_bytes"),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_help_answers_at_once_and_needs_no_jax(case):
    name, *flags = case.split()
    code = (
        "import runpy, sys\n"
        f"sys.argv = {[name, *flags, '--help']}\n"
        "try:\n"
        f"    runpy.run_module('experiments.{name}', run_name='__main__')\n"
        "except SystemExit as exit:\n"
        "    assert exit.code == 0, exit.code\n"
        "loaded = {'jax', 'flax', 'optax', 'orbax', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert f"python -m experiments.{name}" in done.stdout
    text = " ".join(done.stdout.replace("│", " ").split())
    for word in CASES[case]:
        assert word in text
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # not those of other processes
    assert seconds < 3


def test_help_whose_reader_has_left():
    """As of `--help | head -1`: no traceback."""
    argv = [sys.executable, "-m", "experiments.benchmark", "--help"]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert child.wait(timeout=200) == 1
        assert child.stderr.read() == b""


@pytest.fixture
def taken(monkeypatch):
    """The arguments that `train` would have got."""
    import experiments.training.run

    calls = []
    monkeypatch.setattr(experiments.training.run, "train", lambda *arguments: calls.append(arguments))
    return calls


def complaint(capsys):
    """What was said on standard error, and nothing elsewhere."""
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return " ".join(err.replace("│", " ").split())  # tyro draws a box


class TestFlags:
    def test_the_first_preset_is_the_default(self, taken):
        assert run_experiment("cifar10", PRESETS, "Trains.", []) == 0
        assert taken == [("cifar10", PRESETS["small"], Options(workdir=Path("runs/cifar10-small-seed0")))]

    @pytest.mark.parametrize("argv", [["--preset", "paper"], ["--preset=paper"]])
    def test_flags_override_a_preset(self, taken, argv):
        argv = [*argv, "--epochs", "3", "--channels", "4", "8", "--seed", "5", "--data-dir", "here", "--resume"]
        assert run_experiment("cifar10", PRESETS, "Trains.", argv) == 0
        name, config, options = taken[0]
        assert config == replace(PRESETS["paper"], epochs=3, channels=(4, 8), seed=5)
        assert options == Options(workdir=Path("runs/cifar10-paper-seed5"), data_dir=Path("here"), resume=True)

    def test_workdir_and_flags_of_every_type(self, taken):
        argv = [
            *["--workdir", "w", "--depths", "2", "3", "--affine", "--classifier", "generated", "--num-images", "100"],
            *["--learning-rate", "0.5", "--dtype", "bfloat16", "--augment", "crop", "--max-channels", "600"],
            *["--kernels-from", "velocity", "--rule", "total", "--start-from", "there", "--bits", "4"],
        ]
        config = Config(network=PuppetCNN())
        assert run_experiment("x", {"only": config}, None, argv) == 0
        expected = replace(
            config, depths=(2, 3), affine=True, classifier="generated", num_images=100, learning_rate=0.5,
            dtype="bfloat16", augment="crop", max_channels=600, kernels_from="velocity", rule="total",
            start_from="there", bits=4,
        )  # fmt: skip
        assert taken == [("x", expected, Options(workdir=Path("w")))]

    @pytest.mark.parametrize(
        ("argv", "words"),
        [
            (["--epoch-count", "3"], ["--epoch-count"]),
            (["--epochs", "many"], ["many"]),
            (["--classifier", "psychic"], ["psychic"]),
            (["stray"], ["stray"]),
            (["--preset", "huge"], ["--preset must be one of small, best, light, adaptive, early-exit,", "got 'huge'"]),
            (["--preset"], ["--preset: expected one argument"]),
            (["--epochs", "3", "--preset"], ["--preset: expected one argument"]),
        ],
        ids=str,
    )
    def test_unknown(self, taken, capsys, argv, words):
        assert run_experiment("cifar10", PRESETS, "Trains.", argv) == 2
        found = complaint(capsys)
        for word in words:
            assert word in found
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
            "--depths 3 2",
            "--depths 0 2",
            "--levels-per-batch 3",
            "--levels-per-batch 0",
            "--num-levels 0",
            "--num-images 0",
            "--num-validation 0",
            "--num-test 0",
            "--cutout -1",
            "--dropout 1",
            "--kernel-size 2",
            "--kernel-size -1",
            "--max-channels 0",
            "--channels 4 0",
            "--scale 0",
            "--scale inf",
            "--seed -1",
            f"--seed {2**32}",
            "--pattern-seed -1",
            "--preset early-exit --exit-layer 0",
            "--preset early-exit --exit-layer 8",
            "--preset early-exit --fraction 0",
            "--preset early-exit --fraction 1",
            "--preset vgg-fixed --width 0",
            "--preset resnet-adaptive --levels-per-batch 3",
        ],
    )
    def test_absurd_values(self, taken, capsys, argv):
        """Wrong usage; the message names the flag and the value."""
        flag, *values = argv[argv.rindex("--") :].split()
        assert run_experiment("cifar10", PRESETS, "Trains.", argv.split()) == 2
        message = complaint(capsys)
        assert f"{flag} must be" in message
        assert f"got ({', '.join(values)})" in message or any(f"got {value}" in message for value in values)
        assert not taken


OPTIONS = {name: set(flat(as_json(preset))) for name, preset in PRESETS.items()}
KINDS = {"network", "depth", "kernels", "name"}  # which preset it is, no choice of its options


class TestNetworks:
    """What a preset is decides which options there are; those of others are wrong usage, and named."""

    def test_kinds(self):
        kinds = {
            "small": (ByComplexity, Adaptive),
            "best": (OneDepth, Generated),
            "light": (OneDepth, Generated),
            "adaptive": (ByComplexity, Adaptive),
            "early-exit": (ByConfidence, Generated),
            "paper": (ByComplexity, Adaptive),
            "full": (OneDepth, Generated),
        }
        networks = {name: preset.network for name, preset in PRESETS.items()}
        puppets = {name: one for name, one in networks.items() if isinstance(one, PuppetCNN)}
        assert {name: (type(one.depth), type(one.kernels)) for name, one in puppets.items()} == kinds
        regimes = {"fixed": Ordinary, "puppet": Generated, "adaptive": Adaptive}
        assert len(networks) == len(kinds) + 7 * len(regimes) + len(BASELINES)
        assert {name: networks[name] for name in BASELINES} == BASELINES
        for name in networks.keys() - puppets.keys() - BASELINES.keys():
            backbone, regime = name.rsplit("-", 1)
            assert (networks[name].name, type(networks[name].kernels)) == (backbone, regimes[regime])

    def test_flags(self, taken):
        argv = ["--preset", "resnet-fixed", "--num-layers", "10", "--width", "16"]
        assert run_experiment("cifar10", PRESETS, "Trains.", argv) == 0
        assert taken[0][1] == replace(PRESETS["resnet-fixed"], num_layers=10, width=16)

    @pytest.mark.parametrize(
        "argv",
        [
            *(
                "vgg-fixed --mirror",
                "vgg-fixed --dropout 0.1",
                "alexnet-fixed --dtype bfloat16",
                "resnet20-puppet --affine",
            ),
            *("vgg-fixed --max-channels 8", "resnet-fixed --scale 0.1", "mobilenet_v1-fixed --pattern-seed 1"),
            *(
                "squeezenet-fixed --kernels-from state",
                "vgg-fixed --initial-state seeded",
                "alexnet-puppet --num-layers 8",
            ),
            *("resnet-puppet --num-levels 4", "vgg-adaptive --depths 1 2", "best --depths 1 2", "best --num-levels 4"),
            *(
                "best --width 8",
                "small --layers 1 3 3",
                "small --num-layers 18",
                "full --exit-layer 3",
                "small --kernels x",
            ),
        ],
    )
    def test_one_option_of_another_preset(self, taken, capsys, argv):
        preset, flag, *_ = argv.split()
        assert run_experiment("cifar10", PRESETS, "Trains.", ["--preset", *argv.split()]) == 2
        assert flag in complaint(capsys)
        assert not taken

    @pytest.mark.parametrize("preset", [name for name in PRESETS if name not in BASELINES or name in ("dfn", "drnn")])
    def test_no_option_of_another_preset(self, taken, capsys, preset):
        foreign = set().union(*OPTIONS.values()) - OPTIONS[preset] - KINDS
        assert foreign
        flags = [f"--{name.replace('_', '-')}" for name in sorted(foreign)]
        argv = ["--preset", preset, *(f"{flag}=1" for flag in flags)]
        assert run_experiment("cifar10", PRESETS, "Trains.", argv) == 2
        found = complaint(capsys)
        for flag in flags:
            assert f"{flag}=1" in found
        assert not taken

    @pytest.mark.parametrize("kernels", [Ordinary(), FrozenBasis()])
    def test_kernels_that_are_stored_have_one_depth(self, kernels):
        with pytest.raises(ValueError, match="--kernels must be of another kind with ByComplexity"):
            PuppetCNN(kernels=kernels)
        PuppetCNN(kernels=kernels, depth=OneDepth(layers=(1, 1, 1, 1)))

    def test_an_early_exit_has_one_set_of_kernels(self):
        with pytest.raises(ValueError, match="--kernels must be of another kind with ByConfidence"):
            PuppetCNN(depth=ByConfidence(layers=(1, 1, 1, 1), exit_layer=2))


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
        for resume, message in (([], "is not empty and holds no run"), (["--resume"], "so it is no folder of a run")):
            assert self.run("digits", *flags, *resume) == 1
            assert message in self.one_line(capsys)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_file_as_the_folder(self, tmp_path, capsys):
        (tmp_path / "file").write_text("precious")
        flags = ["--num-images", 64, "--num-validation", 32, "--workdir", tmp_path / "file"]
        assert self.run("digits", *flags) == 1
        assert str(tmp_path / "file") in self.one_line(capsys)

    @pytest.mark.parametrize(
        "flags",
        [
            *("--batch-size 128 --num-images 64", "--channels 4 5 6 7 8 --num-images 64"),
            *("--preset best --layers 1 3", "--preset best --layers 0 3 3", "--preset vgg-fixed --num-layers 3"),
        ],
        ids=["batch too large", "images too small", "layers of another stage", "no layer", "no such depth"],
    )
    def test_what_the_data_does_not_allow_leaves_no_run(self, tmp_path, capsys, flags):
        """So that the same command with a better value starts at once."""
        workdir = tmp_path / "run"
        assert self.run("digits", *flags.split(), "--num-validation", 32, "--workdir", workdir) == 1
        assert "Traceback" not in self.one_line(capsys)
        assert not (workdir / "config.json").exists()

    @pytest.mark.parametrize("program", ["evaluate", "predict"])
    def test_run(self, tmp_path, capsys, program):
        module = importlib.import_module(f"experiments.{program}")
        argv = [str(tmp_path / "nothing"), *(["a.png"] if program == "predict" else [])]
        assert run_command(module.Command, getattr(module, program), program, "Does.", argv) == 2
        assert str(tmp_path / "nothing") in self.one_line(capsys)


class TestPresets:
    def test_paper_is_the_papers_protocol(self):
        paper = PRESETS["paper"]
        assert (paper.data.num_images, paper.data.num_validation) == (8_000, 2_000)
        assert (paper.optim.batch_size, paper.optim.epochs) == (64, 800)
        assert (paper.data.augment, paper.optim.weight_decay, paper.optim.label_smoothing) == ("none", 0, 0)
        assert max(paper.network.channels) == 512
        assert paper.network.depth == ByComplexity(rule="per_stage")
        assert (paper.network.classifier, paper.network.affine, paper.network.residual) == ("generated", False, False)

    def test_full_takes_all_images(self):
        full = PRESETS["full"]
        assert full.data.num_images is None
        assert full.data.augment == "crop_flip"
        assert max(full.network.channels) <= 512

    @pytest.mark.parametrize("name", ["small", "best", "light", "adaptive", "early-exit"])
    def test_small_takes_the_papers_images(self, name):
        small = PRESETS[name]
        assert (small.data.num_images, small.data.num_validation, small.optim.batch_size) == (8_000, 2_000, 64)
        assert small.data.augment == "none"
        assert max(small.network.channels) <= 512

    def test_light_is_light(self):
        """Stored in 23.4 kB, and no more than 20 million multiply-accumulates an image."""
        light = PRESETS["light"]
        network = light.network.make(10, (32, 32, 3))
        params = jax.eval_shape(lambda: network.init(0, (network.depth,)))
        assert extras.quantized_bytes(params, bits_of(network, params, light.bits)) <= 23_400
        assert network.macs(params, network.depth)[1] <= 20e6

    @pytest.mark.parametrize(("name", "validation"), [("cifar100", 10_000), ("mini_imagenet", 6_000)])
    def test_of_other_data(self, name, validation):
        """The papers' splits: whatever is not for validation is trained on."""
        module = importlib.import_module(f"experiments.{name}")
        assert list(module.PRESETS)[:4] == ["small", "best", "paper", "full"]
        assert list(module.PRESETS)[4:] == list(PRESETS)[7:]
        for preset in module.PRESETS.values():
            assert (preset.data.num_images, preset.data.num_validation) == (None, validation)
        assert replace(module.PRESETS["paper"], num_images=8_000, num_validation=2_000) == PRESETS["paper"]

    def test_full_of_cifar100_augments_nothing(self):
        """As the papers train there (v1 Sec. 4.1), and otherwise the network that is full on CIFAR-10."""
        full = importlib.import_module("experiments.cifar100").PRESETS["full"]
        assert (full.data.augment, full.data.cutout) == ("none", 0)
        assert (full.network.channels, full.network.depth) == (
            PRESETS["full"].network.channels,
            PRESETS["full"].network.depth,
        )

    def test_small_comes_first(self):
        assert list(PRESETS)[:7] == ["small", "best", "light", "adaptive", "early-exit", "paper", "full"]

    @pytest.mark.parametrize("preset", list(PRESETS)[:7])
    def test_fits_the_images(self, preset):
        network = PRESETS[preset].network.make(10, (32, 32, 3))
        network.puppet.check_image_size(32, 32)


class TestProcess:
    """What only a process of its own shows."""

    PROGRAM = """
import sys, time
from experiments.cli import main

def run():
    print("ready", flush=True)
    while True:  # a callback of JAX may swallow an exception too
        try:
            time.sleep(0.05)
        except KeyboardInterrupt:
            pass

main(run)
"""

    def test_control_c_cannot_be_swallowed(self):
        process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (130, "", f"{AT_ONCE}\n")

    def test_without_docstrings_and_assertions(self):
        done = subprocess.run(
            [sys.executable, "-OO", "-m", "experiments.digits", "--help"], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0, done.stderr
        assert "--workdir" in done.stdout

    def test_a_platform_that_is_not_there(self, tmp_path):
        environment = os.environ | {"JAX_PLATFORMS": "cuda"}
        argv = [sys.executable, "-m", "experiments.digits", "--workdir", tmp_path / "run"]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=environment)
        if done.returncode == 0:
            pytest.skip("there is a GPU")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert "JAX finds no device of JAX_PLATFORMS=cuda" in done.stderr


def test_paths_are_recorded_whole(tmp_path, monkeypatch):
    """So that they mean the same in another folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    options = Options(data_dir=Path("~/data"))
    dataset = load_dataset("digits")
    assert _identity(dataset, options)["source"]["data_dir"] == str(tmp_path / "data")
