"""Exported programs answer as the predictor does, without this package; what they cannot answer is refused."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from made_up import PUPPET, make_model
from safetensors import safe_open

import puppet_jax as pj
from experiments import export as command
from experiments.cli import run_command
from experiments.config import PuppetCNN
from experiments.config.puppet import ByConfidence, Generated
from experiments.data import load_dataset
from experiments.errors import RunError
from experiments.exported import load
from experiments.exported.layers import at_level, is_by_level, run
from experiments.exported.plan import expanded, plan
from experiments.exported.write import export
from experiments.model import load_model, save_model
from puppet_jax.folded import FoldedPuppet, fold
from puppet_jax.pretrained import pretrained_file

ROOT = Path(__file__).parents[2]
ONE_DEPTH = pj.CalibratedComplexity(scale=0.0, offset=2.5)
ONE_STAGE = dataclasses.replace(PUPPET, channels=(4,))
MODELS = {
    "constant": {"puppet": PUPPET, "depths": (2,), "complexity": ONE_DEPTH},
    "routed": {"puppet": ONE_STAGE, "num_levels": 2},
    "own kernels": {"puppet": ONE_STAGE, "depths": (1,), "adaptation": "sample"},
}
OURS = ("puppet_jax", "experiments", "flax", "diffrax", "equinox", "optax", "orbax", "jaxtyping", "safetensors")
ELSEWHERE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused}:
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import numpy as np
from load import load
np.save(sys.argv[3], load(sys.argv[1])(np.load(sys.argv[2])))
"""
needs_onnx = pytest.mark.skipif(
    None in (importlib.util.find_spec("onnx"), importlib.util.find_spec("onnxruntime")),
    reason="onnx and onnxruntime are not installed (extra: export)",
)
FORMATS = [
    ("stablehlo", False),
    pytest.param("stablehlo", True, marks=pytest.mark.slow),
    pytest.param("onnx", False, marks=needs_onnx),
]


def made(name):
    return make_model(**MODELS[name])


def many_images(count=1000):
    """Of one grey value to many, like the graded ones."""
    rng = np.random.Generator(np.random.PCG64(1))
    return np.stack([rng.integers(0, 2 * (i % 12) + 1, (8, 8, 1), np.uint8) * 8 for i in range(count)])


def elsewhere(folder, images, form):
    """Logits from a process in which neither this package nor its libraries can be imported; for ONNX no JAX either."""
    place, answers = folder.parent / "images.npy", folder.parent / "logits.npy"
    np.save(place, images)
    code = ELSEWHERE.format(refused={*OURS, "jax", "jaxlib"} if form == "onnx" else {*OURS})
    argv = [sys.executable, "-c", code, folder, place, answers]
    done = subprocess.run(argv, cwd=folder.parent, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return np.load(answers)


def kernel_floats(content):
    """Of the kernels of all convolutions of an ONNX graph."""
    import onnx

    graph = onnx.load_from_string(content).graph
    return sum(np.prod(one.dims, dtype=int) for one in graph.initializer if len(one.dims) >= 4)


def assert_same_answers(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(got.argmax(axis=1), wanted.argmax(axis=1))


class TestAnswers:
    @pytest.mark.parametrize(("form", "generate"), FORMATS)
    def test_in_a_process_without_this_package(self, tmp_path, form, generate):
        """Depths by complexity, levels of kernels, answers in the order of the images."""
        model, images = made("routed"), many_images()
        export(model, tmp_path / "out", form, generate, "made up")
        wanted, depths = model.predictor().route(images)
        assert len(set(depths)) == 2
        assert_same_answers(elsewhere(tmp_path / "out", images, form), wanted)

    @pytest.mark.parametrize(
        ("name", "form", "generate"),
        [
            ("constant", "stablehlo", False),
            pytest.param("constant", "stablehlo", True, marks=pytest.mark.slow),
            pytest.param("constant", "onnx", False, marks=needs_onnx),
            ("own kernels", "stablehlo", True),
        ],
    )
    def test_other_models(self, tmp_path, name, form, generate):
        model, images = made(name), many_images(12)
        export(model, tmp_path / "out", form, generate, "made up")
        predict, wanted = load.load(tmp_path / "out"), model.predictor()(images)
        assert_same_answers(predict(images), wanted)
        assert_same_answers(predict(images[5:8] / 255), wanted[5:8])

    @pytest.mark.slow
    @pytest.mark.parametrize(("form", "generate"), FORMATS)
    @pytest.mark.parametrize("name", ["cifar10-adaptive", "cifar10-c64-4bit"])
    def test_models_of_the_package(self, tmp_path, name, form, generate):
        model = load_model(pretrained_file(name))
        noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (40, 32, 32, 3), np.uint8)
        images = noise >> np.arange(40, dtype=np.uint8)[:, None, None, None] % 8  # from 256 values to two
        export(model, tmp_path / "out", form, generate, name)
        assert_same_answers(elsewhere(tmp_path / "out", images, form), model.predictor()(images))

    @pytest.mark.data
    @pytest.mark.parametrize(("form", "generate"), FORMATS)
    @pytest.mark.parametrize("name", ["cifar10-adaptive", "cifar10-c64-4bit"])
    def test_a_thousand_test_images(self, tmp_path, name, form, generate, cifar10_dir):
        images = load_dataset("cifar10", cifar10_dir).test_images[:1000]
        model = load_model(pretrained_file(name))
        export(model, tmp_path / "out", form, generate, name)
        assert_same_answers(elsewhere(tmp_path / "out", images, form), model.predictor()(images))


class TestLayers:
    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({}, marks=pytest.mark.slow),
            {"mirror": True, "residual": True, "affine": True, "layers": (2, 2)},
            {"mirror": True, "classifier": "generated"},
            pytest.param({"classifier": "generated", "affine": True}, marks=pytest.mark.slow),
        ],
        ids=str,
    )
    def test_are_the_puppet(self, changes):
        puppet = dataclasses.replace(PUPPET, **changes)
        depth = sum(puppet.layers) if puppet.layers else 2
        model = make_model(puppet, (depth,), complexity=ONE_DEPTH)
        rng = np.random.Generator(np.random.PCG64(2))
        kernels = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in puppet.kernel_shapes(depth)]
        images = rng.uniform(size=(3, 9, 7, 1)).astype(np.float32)  # pooling drops a row and a column
        stats = model.batch_stats[depth]
        wanted, _ = jax.jit(pj.apply_puppet, static_argnums=(0, 5))(puppet, model.params, stats, kernels, images, depth)
        layers = fold(puppet, model.params, stats, kernels, depth)
        np.testing.assert_allclose(jax.jit(run)(layers, images), wanted, rtol=2e-5, atol=1e-5)

    def test_a_level_has_the_layers_of_its_kernels(self):
        model = made("routed")
        program = plan(model)[1]
        layers = expanded(model, program)
        assert is_by_level(layers)
        one = expanded(model, dataclasses.replace(program, h=program.h[1:]))
        for leaf, wanted in zip(jax.tree.leaves(at_level(layers, 1)), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(leaf, wanted, rtol=1e-6)

    @needs_onnx
    @pytest.mark.parametrize(("kernel_size", "by_level"), [(3, False), (3, True), (5, False)])
    def test_mirrored_pairs_take_half_of_the_products_in_onnx(self, monkeypatch, kernel_size, by_level):
        import onnxruntime

        from experiments.exported import onnx_graph

        monkeypatch.setattr(onnx_graph, "HALVES_CHANNELS", 4)
        puppet = dataclasses.replace(PUPPET, mirror=True, residual=True, layers=(2, 2), kernel_size=kernel_size)
        model = make_model(dataclasses.replace(puppet, kernel_size=3), (4,), complexity=ONE_DEPTH)
        rng = np.random.Generator(np.random.PCG64(2))
        kernels = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in puppet.kernel_shapes(4)]
        layers = one = fold(puppet, model.params, model.batch_stats[4], kernels, 4)
        images = rng.uniform(size=(3, 9, 7, 1)).astype(np.float32)
        given = {"images": images}
        if by_level:
            layers = dataclasses.replace(one, kernels=tuple(jnp.stack([0 * k, k]) for k in one.kernels))
            given["level"] = np.asarray(1, np.int32)
        floats = []
        for mirror in (False, True):
            content = onnx_graph.graph_bytes(layers, (9, 7, 1), mirror)
            floats.append(kernel_floats(content) - layers.kernels[0].size)  # an image has no pairs of channels
            (logits,) = onnxruntime.InferenceSession(content).run(None, given)
            np.testing.assert_allclose(logits, run(one, images), rtol=2e-5, atol=1e-5)
        assert floats[1] == floats[0] / 2

    def test_weights_alone_say_how_to_run_them(self, tmp_path):
        model, images = made("constant"), many_images(4)
        export(model, tmp_path / "out", "safetensors", False, "made up")
        with safe_open(tmp_path / "out" / "depth-2.safetensors", framework="numpy") as file:
            facts, tensors = file.metadata(), {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}
        count = len(json.loads(facts["max_pool_before"]))
        layers = FoldedPuppet(
            kernels=tuple(tensors[f"layers.{n}.kernel"] for n in range(count)),
            biases=tuple(tensors[f"layers.{n}.bias"] for n in range(count)),
            classifier_kernel=tensors["classifier.kernel"],
            classifier_bias=tensors["classifier.bias"],
            pools=tuple(json.loads(facts["max_pool_before"])),
            adds=tuple(json.loads(facts["added_to_input"])),
        )
        assert_same_answers(run(layers, images / np.float32(255)), model.predictor()(images))
        assert json.loads(facts["class_names"]) == list(model.class_names)


class TestPlan:
    def test_first_complexities_choose_as_the_predictor_does(self):
        """Of trained depths with gaps: the nearest, of two the shallower."""
        model = make_model(
            dataclasses.replace(PUPPET, channels=(4,)), (1, 2, 5, 8), complexity=pj.CalibratedComplexity()
        )
        h = np.linspace(0, 12, 997).astype(np.float32)
        programs = plan(model)
        places = np.searchsorted([one.first for one in programs][1:], h, side="right")
        np.testing.assert_array_equal([programs[n].depth for n in places], pj.routing.nearest_depths(h, (1, 2, 5, 8)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A constant model in StableHLO."""
    folder = tmp_path_factory.mktemp("exports") / "constant"
    export(made("constant"), folder, "stablehlo", False, "made up")
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The same in ONNX."""
    folder = tmp_path_factory.mktemp("exports") / "constant"
    export(made("constant"), folder, "onnx", False, "made up")
    return folder


class TestPrograms:
    def test_convolutions_are_plain_and_run_everywhere(self, folder):
        program = jax_export.deserialize(bytearray((folder / "depth-2.stablehlo").read_bytes()))
        assert set(program.platforms) == {"cpu", "cuda", "rocm", "tpu"}
        module = program.mlir_module()
        assert module.count("stablehlo.convolution") >= 4
        # that of the classifier, at most once a platform: no convolution became a product
        assert module.count("stablehlo.dot_general") <= len(program.platforms)

    def test_a_generator_takes_fewer_bytes(self, tmp_path):
        model = load_model(pretrained_file("cifar10-c64-4bit"))
        export(model, tmp_path / "out", "stablehlo", True, "c64")
        size = (tmp_path / "out" / "depth-7.stablehlo").stat().st_size
        floats = 4 * pj.num_floats(model.params)
        assert floats < size < 3 * floats

    @pytest.mark.parametrize("images", [np.ones((2, 8, 9, 1)), np.ones((2, 8, 8, 3)), np.ones((8, 8, 1))])
    def test_images_of_another_size(self, folder, images):
        program = jax_export.deserialize(bytearray((folder / "depth-2.stablehlo").read_bytes()))
        with pytest.raises(ValueError, match="(?i)shape|dimension|rank"):
            program.call(images.astype(np.float32))

    def test_images_of_another_dtype(self, folder):
        program = jax_export.deserialize(bytearray((folder / "depth-2.stablehlo").read_bytes()))
        with pytest.raises(ValueError, match="dtype|uint8"):
            program.call(np.ones((2, 8, 8, 1), np.uint8))

    @pytest.mark.parametrize("value", [1.01, -0.01, 255, np.nan, np.inf])
    def test_values_that_are_none_of_an_image_give_no_answer(self, folder, value):
        images = np.full((2, 8, 8, 1), 0.5, np.float32)
        images[1, 3, 4] = value
        logits = np.asarray(jax_export.deserialize(bytearray((folder / "depth-2.stablehlo").read_bytes())).call(images))
        assert np.isfinite(logits[0]).all()
        assert np.isnan(logits[1]).all()

    @needs_onnx
    def test_the_same_of_graphs(self, graph):
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(graph / "depth-2.onnx", providers=["CPUExecutionProvider"])
        for images in (np.ones((2, 8, 9, 1), np.float32), np.ones((2, 8, 8, 1), np.uint8)):
            with pytest.raises(Exception, match="INVALID_ARGUMENT"):
                session.run(None, {"images": images})
        for value in (1.01, -0.01, 255, np.nan, np.inf):
            images = np.full((2, 8, 8, 1), 0.5, np.float32)
            images[1, 3, 4] = value
            (logits,) = session.run(None, {"images": images})
            assert np.isfinite(logits[0]).all()
            assert np.isnan(logits[1]).all()


class TestLoader:
    @pytest.mark.parametrize(
        ("images", "words"),
        [
            (np.zeros((2, 8, 9, 1), np.uint8), r"shape \(batch, 8, 8, 1\), got \(2, 8, 9, 1\)"),
            (np.zeros((8, 8, 1), np.uint8), r"got \(8, 8, 1\)"),
            (np.zeros((0, 8, 8, 1), np.uint8), r"got \(0, 8, 8, 1\)"),
            (np.zeros((2, 8, 8, 1), np.int64), "got dtype int64"),
            (np.full((2, 8, 8, 1), 255.0), "got 255.0 to 255.0; divide by 255"),
            (np.full((2, 8, 8, 1), np.nan), "got nan"),
        ],
    )
    def test_images(self, folder, images, words):
        with pytest.raises(ValueError, match=words):
            load.load(folder)(images)

    def test_folders(self, folder, tmp_path):
        with pytest.raises(ValueError, match=r"holds no model\.json"):
            load.load(tmp_path)
        facts = json.loads((folder / "model.json").read_text())
        for changes in ({"format": "safetensors"}, {"version": 2}):
            (tmp_path / "model.json").write_text(json.dumps(facts | changes))
            with pytest.raises(ValueError, match="format stablehlo or onnx, version 1, got"):
                load.load(tmp_path)

    def test_a_changed_file(self, folder, tmp_path):
        content = bytearray((folder / "depth-2.stablehlo").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "depth-2.stablehlo").write_bytes(content)
        (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
        with pytest.raises(ValueError, match="not as it was written"):
            load.load(tmp_path)


@pytest.fixture
def model_file(tmp_path):
    save_model(tmp_path / "model.safetensors", made("constant"))
    return tmp_path / "model.safetensors"


@pytest.fixture(autouse=True)
def no_cache_outside(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))


class TestCommand:
    def run(self, *argv):
        return run_command(command.Command, command.export, "experiments.export", "Exports.", list(map(str, argv)))

    def test_a_model_file(self, model_file, tmp_path, capsys):
        assert self.run(model_file, "--to", "safetensors", "--out", tmp_path / "out") == 0
        lines = capsys.readouterr().out.splitlines()
        files = sorted((tmp_path / "out").iterdir())
        assert lines == [f"{file}: {file.stat().st_size:,} bytes" for file in files]
        assert self.run(model_file, "--to", "safetensors", "--out", tmp_path / "out") == 1
        assert "exists already; name another --out" in capsys.readouterr().err

    def test_no_such_run(self, tmp_path, capsys):
        assert self.run("nothing", "--to", "safetensors", "--out", tmp_path / "out") == 2
        assert "nothing is neither the folder of a run" in capsys.readouterr().err
        assert self.run(tmp_path, "--to", "safetensors", "--out", tmp_path / "out") == 1
        assert "holds no config.json" in capsys.readouterr().err

    def test_wrong_usage(self, capsys):
        assert self.run("a", "--to", "tensorflow", "--out", "b") == 2
        assert "invalid choice 'tensorflow'" in capsys.readouterr().err
        assert self.run("a", "--to", "onnx", "--generate", "--out", "b") == 2
        assert "--generate needs --to stablehlo" in capsys.readouterr().err

    @pytest.mark.parametrize(("form", "package"), [("stablehlo", "flatbuffers"), ("onnx", "onnx")])
    def test_a_missing_package(self, model_file, tmp_path, monkeypatch, capsys, form, package):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert self.run(model_file, "--to", form, "--out", tmp_path / "out") == 1
        assert f'needs the package {package}, which is not installed; pip install -e ".[export]"' in (
            capsys.readouterr().err
        )

    def test_kernels_of_each_image_cannot_be_made_beforehand(self, tmp_path):
        with pytest.raises(RunError, match="kernels of its own .* give --generate"):
            export(made("own kernels"), tmp_path / "out", "stablehlo", False, "made up")
        assert not (tmp_path / "out").exists()

    def test_other_networks_are_refused_by_name(self, tmp_path):
        config = PuppetCNN(channels=(4,), depth=ByConfidence(layers=(2,), exit_layer=1), kernels=Generated())
        model = dataclasses.replace(made("constant"), network=config.make(10, (8, 8, 1)))
        with pytest.raises(RunError, match="kind early_exit cannot be exported; puppets"):
            export(model, tmp_path / "out", "stablehlo", False, "made up")

    def test_parameters_of_nan(self, tmp_path):
        model = made("constant")
        params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), model.params)
        with pytest.raises(RunError, match="not finite"):
            export(dataclasses.replace(model, params=params), tmp_path / "out", "safetensors", False, "made up")
