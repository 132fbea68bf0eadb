"""Configurations: an option exists where it means something; records are changed, written and read back."""

import ast
import dataclasses
import inspect
import json

import pytest
from helpers import rewrite_json

from experiments import cifar10, cifar100, config as config_module, digits, mini_imagenet
from experiments.cli import run_experiment
from experiments.config import (
    Adaptive,
    Backbone,
    ByComplexity,
    ByConfidence,
    Config,
    Data,
    DeepBackbone,
    Distillation,
    FrozenBasis,
    Generated,
    OneDepth,
    Optim,
    Ordinary,
    PuppetCNN,
    Puppetized,
    backbones,
    baselines,
    puppet,
)
from experiments.errors import RunError
from experiments.fields import as_json, flat, from_json, replace
from experiments.runs import folder as run_folder
from experiments.tables.definitions import TRAINED

PRESETS = {
    f"{experiment}:{name}": config
    for experiment, presets in {
        "cifar10": cifar10.PRESETS,
        "cifar100": cifar100.PRESETS,
        "mini_imagenet": mini_imagenet.PRESETS,
        "digits": {"digits": digits.DIGITS},
    }.items()
    for name, config in presets.items()
}
ROWS = {f"{name}:{row.label}": row.config for name, table in TRAINED.items() for row in table().rows}
EVERY = PRESETS | ROWS
BACKBONES = {name: one for name, one in cifar10.PRESETS.items() if isinstance(one.network, Backbone)}
EQUAL = {row.label: row.config for row in TRAINED["equal_bytes"]().rows}
ORDINARY = {
    "backbone": cifar10.PRESETS["resnet-fixed"],
    "puppet": EQUAL["the same layers, slim, ordinary weights"],
    "residual": EQUAL["residual network of 8 layers, 24 kB"],
}


def flags_of(*records):
    names = {field.name for record in records for field in dataclasses.fields(record)} - {"depth", "kernels"}
    return sorted(f"--{name.replace('_', '-')}" for name in names)


OF_THE_TRAJECTORY = flags_of(Generated, Adaptive, FrozenBasis)
OF_THE_PUPPET = sorted({*flags_of(PuppetCNN, OneDepth, ByComplexity, ByConfidence), *OF_THE_TRAJECTORY})


def complaint(preset, argv, capsys, presets=cifar10.PRESETS):
    """Of a wrong usage of a preset, without the box around it, and without spaces, since the box breaks its lines."""
    capsys.readouterr()
    assert run_experiment("cifar10", presets, "Trains.", ["--preset", preset, *argv]) == 2
    return "".join(capsys.readouterr().err.replace("│", " ").split())


def unknown(*words):
    return f"Unrecognizedoptions:{','.join(words)}"


PARTS = (config_module, puppet, backbones, baselines)
"""The modules that hold records."""


class TestOptionsThatMeanNothing:
    """Wrong usage, whose complaint names the option; nothing is trained."""

    @pytest.mark.parametrize("preset", BACKBONES)
    def test_of_the_puppet_on_every_backbone(self, preset, capsys):
        kernels = type(BACKBONES[preset].network.kernels)
        foreign = [flag for flag in OF_THE_PUPPET if flag not in flags_of(kernels)]
        assert {"--channels", "--layers", "--mirror", "--dropout", "--affine", "--exit-layer"} <= set(foreign)
        assert unknown(*foreign) in complaint(preset, foreign, capsys)

    @pytest.mark.parametrize("flag", [flag for flag in OF_THE_PUPPET if flag not in flags_of(Adaptive)])
    def test_of_the_puppet_one_by_one(self, flag, capsys):
        assert unknown(flag) in complaint("vgg-adaptive", [flag], capsys)
        assert unknown(flag, "1") in complaint("vgg-fixed", [flag, "1"], capsys)

    @pytest.mark.parametrize("name", ORDINARY)
    @pytest.mark.parametrize("flag", OF_THE_TRAJECTORY)
    def test_of_the_trajectory_on_ordinary_weights(self, name, flag, capsys):
        assert unknown(flag) in complaint(name, [flag, "1"], capsys, ORDINARY)

    @pytest.mark.parametrize(
        ("preset", "flag"),
        [
            ("best", "--levels-per-batch"),
            ("best", "--rule"),
            ("best", "--exit-layer"),
            ("small", "--layers"),
            ("small", "--fraction"),
            ("early-exit", "--sharing"),
            ("early-exit", "--depths"),
            ("alexnet-fixed", "--num-layers"),
            ("mobilenet_v2-adaptive", "--num-layers"),
            ("best", "--width"),
        ],
    )
    def test_of_another_member(self, preset, flag, capsys):
        assert unknown(flag) in complaint(preset, [flag, "1"], capsys)

    def test_a_preset_that_does_not_exist(self, capsys):
        assert complaint("medium", [], capsys) == (f"error:--presetmustbeoneof{','.join(cifar10.PRESETS)},got'medium'.")

    @pytest.mark.parametrize(
        ("preset", "argv"),
        [
            ("best", ["--dropout", "1"]),
            ("best", ["--scale", "0"]),
            ("best", ["--layers", "x"]),
            ("small", ["--depths", "3", "2"]),
            ("small", ["--levels-per-batch", "3"]),
            ("small", ["--kernel-size", "4"]),
            ("small", ["--num-levels", "0"]),
            ("early-exit", ["--exit-layer", "8"]),
            ("early-exit", ["--fraction", "1"]),
            ("vgg-fixed", ["--width", "0"]),
        ],
        ids=lambda value: value if isinstance(value, str) else value[0],
    )
    def test_values_out_of_range(self, preset, argv, capsys):
        assert argv[0] in complaint(preset, argv, capsys)


class TestRules:
    """What `config.py` refuses."""

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: PuppetCNN(kernels=Ordinary()), "--kernels must be of another kind with ByComplexity"),
            (lambda: PuppetCNN(kernels=FrozenBasis()), "--kernels must be of another kind with ByComplexity"),
            (
                lambda: PuppetCNN(depth=ByConfidence(layers=(1, 1, 1, 2), exit_layer=2), kernels=Adaptive()),
                "--kernels must be of another kind with ByConfidence",
            ),
            (lambda: ByConfidence(layers=(1, 2), exit_layer=3), r"--exit-layer must be in \[1, 2\], got 3"),
            (lambda: ByConfidence(layers=(1, 2), exit_layer=0), r"--exit-layer must be in \[1, 2\], got 0"),
            (lambda: ByConfidence(layers=(1, 2), exit_layer=1, fraction=0.0), r"--fraction must be in \(0, 1\), got 0"),
            (lambda: ByConfidence(layers=(1, 2), exit_layer=1, fraction=1.0), r"--fraction must be in \(0, 1\), got 1"),
            (lambda: ByComplexity(depths=(3, 2)), r"--depths must be two depths, 1 <= LOW <= HIGH, got \(3, 2\)"),
            (lambda: ByComplexity(depths=(0, 2)), "--depths must be two depths"),
            (lambda: PuppetCNN(dropout=1.0), r"--dropout must be in \[0, 1\), got 1.0"),
            (lambda: PuppetCNN(channels=()), "--channels must be positive"),
            (lambda: Generated(pattern_seed=2**32), "--pattern-seed must be less than"),
            (lambda: replace(cifar10.SMALL, levels_per_batch=5), "--levels-per-batch must be a divisor of the batch"),
            (lambda: Puppetized(kernels=Generated(initial_state="learned")), "--initial-state must be seeded in a net"),
            (lambda: Puppetized(kernels=FrozenBasis(), matrices="mean"), "--matrices must be left out without a pup"),
            (lambda: replace(cifar10.BEST, learning_rate=float("nan")), "--learning-rate must be positive"),
            (lambda: replace(cifar10.BEST, label_smoothing=1.0), "--label-smoothing must be in"),
            (lambda: replace(cifar10.BEST, seed=-1), "--seed must be at least 0, got -1"),
        ],
    )
    def test_refusals(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_at_most_three_are_between_fields(self):
        """Calls of `require` that read two fields of a record or more, themselves or by way of local names."""
        between = 0
        for method in (node for part in PARTS for node in ast.walk(ast.parse(inspect.getsource(part)))):
            if not isinstance(method, ast.FunctionDef) or method.name != "__post_init__":
                continue
            local: dict[str, set[str]] = {}
            for node in ast.walk(method):  # breadth first: names are bound before a deeper statement uses them
                if isinstance(node, ast.Assign | ast.NamedExpr):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    for name in (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)):
                        local[name] = local.get(name, set()) | _fields_read(node.value, local)
            calls = [node for node in ast.walk(method) if isinstance(node, ast.Call)]
            requires = [call for call in calls if getattr(call.func, "id", None) == "require"]
            between += sum(len(_fields_read(call.args[0], local)) > 1 for call in requires)
        assert 1 <= between <= 3


def _fields_read(expression, local):
    read = set()
    for node in ast.walk(expression):
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "self":
            read.add(node.attr)
        elif isinstance(node, ast.Name):
            read |= local.get(node.id, set())
    return read


class TestReplace:
    def test_finds_options_by_their_names(self):
        changed = replace(cifar10.SMALL, scale=0.3, rule="total", epochs=7, mirror=True, bits=4, num_images=None)
        network = changed.network
        assert (network.kernels.scale, network.depth.rule, network.mirror) == (0.3, "total", True)
        assert (changed.optim.epochs, changed.bits, changed.data.num_images) == (7, 4, None)
        back = {"scale": 0.1, "rule": "per_stage", "epochs": 28, "mirror": False, "bits": 32, "num_images": 8_000}
        assert replace(changed, **back) == cifar10.SMALL

    def test_takes_another_member(self):
        changed = replace(cifar10.SMALL, kernels=Generated(), depth=OneDepth(layers=(1, 2, 3)))
        assert changed.network.kernels == Generated()
        assert replace(changed, layers=(3, 2, 1)).network.depth.layers == (3, 2, 1)

    @pytest.mark.parametrize("name", ["levels_per_batch", "num_layers", "fraction", "nothing"])
    def test_refuses_an_option_that_is_not_there(self, name):
        with pytest.raises(TypeError, match=f"Config has no option {name}"):
            replace(cifar10.BEST, **{name: 1})

    def test_names_are_of_one_field_each(self):
        """Else `replace`, flags and flat dictionaries would be ambiguous."""
        for config in EVERY.values():
            names = [field.name for record in _records(config) for field in dataclasses.fields(record)]
            assert len(names) == len(set(names))


def _records(record):
    parts = [getattr(record, field.name) for field in dataclasses.fields(record)]
    return [record, *(inner for part in parts if dataclasses.is_dataclass(part) for inner in _records(part))]


class TestJson:
    @pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
    def test_round_trip(self, config):
        described = json.loads(json.dumps(as_json(config)))
        assert from_json(Config, described) == config

        options = flat(described)
        assert not any(isinstance(value, dict) for value in options.values())
        kinds = {"network", "depth", "kernels", "plain"} & options.keys()
        for record in _records(config):
            for field in dataclasses.fields(record):
                value = getattr(record, field.name)
                at_default = field.metadata.get("stored") == "unless default" and value == field.default
                if at_default or isinstance(record, Distillation):
                    continue  # left out
                if dataclasses.is_dataclass(value):
                    assert field.name not in kinds or options[field.name] == type(value).__name__
                else:
                    assert options[field.name] == (list(value) if isinstance(value, tuple) else value)
        plain = {name: value for name, value in options.items() if name not in kinds}
        tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
        assert replace(config, **tuples) == config

    def test_every_field_is_written_out(self):
        described = as_json(Config(network=PuppetCNN()))
        assert described["data"] == dataclasses.asdict(Data())
        assert described["optim"] == dataclasses.asdict(Optim())
        assert described["network"]["depth"] == {"kind": "ByComplexity"} | dataclasses.asdict(ByComplexity())
        assert described["network"]["kernels"] == {"kind": "Adaptive"} | dataclasses.asdict(Adaptive())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda found: found.pop("bits"), "Config lacks bits"),
            (lambda found: found.update(extra=1), "Config has the unknown extra"),
            (lambda found: found["optim"].pop("epochs"), "Optim lacks epochs"),
            (lambda found: found["network"].pop("mirror"), "PuppetCNN lacks mirror"),
            (lambda found: found["network"].update(num_layers=3), "PuppetCNN has the unknown num_layers"),
            (lambda found: found["network"]["kernels"].update(sharing="level"), "Generated has the unknown sharing"),
            (lambda found: found["network"].update(kind="Perceptron"), "kind must be one of PuppetCNN, Backbone, .*"),
            (lambda found: found["network"].pop("kind"), "kind must be one of .*, got None"),
            (lambda found: found["network"]["depth"].update(kind="PuppetCNN"), "kind must be one of OneDepth, "),
            (lambda found: found.update(network=3), "PuppetCNN or Backbone or DeepBackbone or .* is expected, got 3"),
            (lambda found: found.update(data=[]), r"Data is expected, got \[\]"),
            (lambda found: found["network"].update(dropout=2), "--dropout must be in"),
        ],
    )
    def test_refusals(self, change, message):
        found = json.loads(json.dumps(as_json(cifar10.BEST)))
        change(found)
        with pytest.raises((TypeError, ValueError), match=message):
            from_json(Config, found)


class TestRunsOfAnotherVersion:
    @pytest.fixture
    def folder(self, tmp_path):
        run_folder.open_run(tmp_path / "run", "cifar10", cifar10.BEST, {"sha256": "0"}, resume=False)
        return tmp_path / "run"

    def refused(self, folder, change, message):
        found = json.loads((folder / run_folder.CONFIG).read_text())
        change(found)
        rewrite_json(folder / run_folder.CONFIG, found)
        for read in (
            lambda: run_folder.config_of(run_folder.read_config(folder), folder),
            lambda: run_folder.open_run(folder, "cifar10", cifar10.BEST, {"sha256": "0"}, resume=True),
        ):
            with pytest.raises(RunError, match=message):
                read()

    def test_of_today(self, folder):
        assert run_folder.config_of(run_folder.read_config(folder), folder) == cifar10.BEST
        run_folder.open_run(folder, "cifar10", cifar10.BEST, {"sha256": "0"}, resume=True)

    def test_of_the_old_layout(self, folder):
        """Without a layout, and with flat fields; the refusal says what reads it."""

        def old(found):
            del found["layout"]
            found["config"] = {"network": "puppet", "channels": [8], "spread": [4, 4]}

        self.refused(folder, old, "run is a run of layout 1, this version reads layout 2; commit 02d1016 reads it")

    def test_of_a_later_layout(self, folder):
        later = "run is a run of layout 3, .*; a later version of puppet-jax wrote it"
        self.refused(folder, lambda found: found.update(layout=3), later)

    def test_of_other_fields(self, folder):
        self.refused(folder, lambda found: found["config"].pop("bits"), "bits")

    def test_refuses_a_backbone_of_other_layers(self):
        described = as_json(Config(network=DeepBackbone(name="vgg")))
        described["network"]["kind"] = "Backbone"
        with pytest.raises(ValueError, match="Backbone has the unknown num_layers"):
            from_json(Config, described)
