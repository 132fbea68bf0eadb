"""The model file: round trips, and refusals of what is no model."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers import signed
from safetensors import safe_open
from safetensors.numpy import save_file

import puppet_jax as pj
from experiments.config import FrozenBasis, OneDepth, PuppetCNN
from experiments.errors import RunError
from experiments.model import Model, load_model, save_model
from experiments.networks.puppet import PuppeteerSettings, PuppetNetwork

PUPPET = pj.Puppet(channels=(4, 8), num_classes=3, in_channels=1, affine=True)


def make_model(puppet=PUPPET, depths=(1, 2), **puppeteer):
    """Of random floats everywhere."""
    usual = {"max_channels": 8, "kernel_size": 3, "seed": 0, "scale": 0.1}
    settings = PuppeteerSettings(**{"initial_state": "seeded", "kernels_from": "state"} | usual | puppeteer)
    network = PuppetNetwork(puppet=puppet, puppeteer=settings, image_size=(8, 6))
    shapes = jax.eval_shape(
        lambda: (network.init(0, depths), {depth: network.init_stats(depth) for depth in depths}),
    )
    rng = np.random.Generator(np.random.PCG64(0))
    params, batch_stats = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
    return Model(
        network=network,
        params=params,
        batch_stats=batch_stats,
        class_names=("zero", "one", "zwö"),
        adaptation="sample",
        num_levels=5,
        complexity=pj.CalibratedComplexity(1.1, -0.3, 0.2, 1 / 3),
        step=42,
    )


def contents(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, make_model())
    return path


@pytest.mark.parametrize(
    ("puppet", "puppeteer"),
    [
        (PUPPET, {}),
        (pj.Puppet(channels=(4, 8), num_classes=3, in_channels=1, residual=True, depth_rule="total"), {"scale": 0.3}),
        (pj.Puppet(channels=(4, 8), num_classes=3, in_channels=1, classifier="generated"), {"seed": 2**32 + 1}),
        (PUPPET, {"initial_state": "learned", "kernel_size": 5}),
        (PUPPET, {"initial_state": "constant"}),
        (PUPPET, {"kernels_from": "velocity"}),
    ],
    ids=["affine", "total", "generated", "learned", "constant", "velocity"],
)
def test_round_trip_is_exact(tmp_path, puppet, puppeteer):
    model = make_model(puppet, **puppeteer)
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    for field in ("network", "class_names", "adaptation", "num_levels", "complexity", "step", "bits", "threshold"):
        assert getattr(loaded, field) == getattr(model, field)
    for field in ("params", "batch_stats"):
        got, expected = getattr(loaded, field), getattr(model, field)
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert one.dtype == np.float32
            assert np.asarray(one).tobytes() == other.tobytes()
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_an_unbounded_measure_survives(tmp_path):
    model = make_model()
    model = dataclasses.replace(model, complexity=pj.CalibratedComplexity())  # its upper bound is infinite
    save_model(tmp_path / "model", model)
    assert load_model(tmp_path / "model").complexity == pj.CalibratedComplexity()


def test_size_is_a_header_and_four_bytes_a_float(path):
    model = make_model()
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == 8 + header + 4 * pj.num_floats((model.params, model.batch_stats))


def test_holds_no_pattern(path):
    """What a seed gives is not stored."""
    arrays, _ = contents(path)
    assert not any("initial" in name or "pattern" in name for name in arrays)
    assert {"puppeteer.pointwise_kernel", "norm_scale.0", "classifier_bias"} <= set(arrays)


def test_predicts_as_before(tmp_path):
    images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (2, 8, 6, 1), np.uint8)
    model = make_model(depths=(1,))
    save_model(tmp_path / "model", model)
    before, after = model.predictor(), load_model(tmp_path / "model").predictor()
    assert (before.num_levels, before.depths) == (None, (1,))
    np.testing.assert_array_equal(after(images), before(images))


class TestRefusals:
    def test_missing(self, tmp_path):
        with pytest.raises(RunError, match="nothing.* does not exist"):
            load_model(tmp_path / "nothing")

    @pytest.mark.parametrize("keep", [0, 4, 100, -1, -100])
    def test_truncated(self, path, keep):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(RunError, match="damaged or no model"):
            load_model(path)

    @pytest.mark.parametrize("content", [b"PNG" * 100, b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"{}"])
    def test_something_else(self, path, content):
        path.write_bytes(content)
        with pytest.raises(RunError, match="damaged or no model"):
            load_model(path)

    def test_damaged_header(self, path):
        content = bytearray(path.read_bytes())
        content[20] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(RunError, match="damaged or no model"):
            load_model(path)

    @pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"puppet_jax": "[]"}, {"puppet_jax": "{"}])
    def test_of_another_project(self, path, metadata):
        save_file({"weight": np.zeros(3, np.float32)}, path, metadata=metadata)
        with pytest.raises(RunError, match="damaged or no model"):
            load_model(path)

    def test_says_the_file_and_what_to_do(self, path):
        """The reader of the library says what is wrong; here it is an error that a person can mend."""
        arrays, metadata = contents(path)
        meta = json.loads(metadata["puppet_jax"])
        for change, message in (
            ({"format": 4}, "written by a later version of puppet-jax .*; upgrade the package"),
            ({"format": 0}, "format must be one of 2, 3"),
            ({"extra": 1}, "the field extra is unknown"),
            ({"num_levels": 0}, "num_levels must be an integer of at least 1, got 0"),
            ({"adaptation": "both"}, "adaptation must be one of 'level', 'sample'"),
            ({"sha256": "0" * 64}, "it is not as it was written"),
            ({"pattern_sha256": "0" * 64}, "another seeded pattern"),
            ({"network": {"kind": "perceptron"}}, "the kind of a network is one of puppet, .*, got 'perceptron'"),
            ({"network": meta["network"] | {"image_size": [1, 1]}}, "Images of 1 x 1 pixels are too small"),
        ):
            described = meta | change if "sha256" in change else signed(meta | change, arrays)
            save_file(arrays, path, metadata={"puppet_jax": json.dumps(described)})
            with pytest.raises(RunError, match=f"model.safetensors.*{message}.*train or copy it again"):
                load_model(path)

    def test_each_missing_tensor(self, path):
        arrays, metadata = contents(path)
        for name in arrays:
            rest = {key: value for key, value in arrays.items() if key != name}
            self.refused(path, rest, json.loads(metadata["puppet_jax"]), f"the tensor {name} is missing")

    def test_tensor_of_another_shape(self, path):
        arrays, metadata = contents(path)
        other = arrays | {"classifier_bias": np.zeros(4, np.float32)}
        message = r"classifier_bias must be float32 of shape \(3,\), got float32 of shape \(4,\)"
        self.refused(path, other, json.loads(metadata["puppet_jax"]), message)

    def test_each_missing_field(self, path):
        arrays, metadata = contents(path)
        meta = json.loads(metadata["puppet_jax"])
        for name in meta.keys() - {"format", "sha256"}:
            rest = {key: value for key, value in meta.items() if key != name}
            save_file(arrays, path, metadata={"puppet_jax": json.dumps(rest)})
            with pytest.raises(RunError, match=f"the field {name} is missing"):
                load_model(path)

    def refused(self, path, arrays, meta, message):
        """With the checksum of the tensors that are there, so that the reader looks at each."""
        save_file(arrays, path, metadata={"puppet_jax": json.dumps(signed(meta, arrays))})
        with pytest.raises(RunError, match=message):
            load_model(path)


class TestFrozenBasis:
    """The signs that coefficients mean nothing without."""

    @pytest.fixture
    def model(self):
        kernels = FrozenBasis(max_channels=16, pattern_seed=3)
        network = PuppetCNN(channels=(8,), depth=OneDepth(layers=(2,)), kernels=kernels).make(10, (8, 8, 3))
        shapes = jax.eval_shape(lambda: (network.init(0, (2,)), {2: network.init_stats(2)}))
        params, stats = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
        return dataclasses.replace(
            make_model(), network=network, params=params, batch_stats=stats, class_names=tuple("0123456789")
        )

    def test_pattern(self, model, tmp_path):
        path = tmp_path / "model.safetensors"
        save_model(path, model)
        loaded = load_model(path)
        assert (loaded.network, loaded.params.puppeteer.seed) == (model.network, 3)
        arrays, metadata = contents(path)
        meta = json.loads(metadata["puppet_jax"])
        assert len(meta["pattern_sha256"]) == 64
        save_file(
            arrays, path, metadata={"puppet_jax": json.dumps(signed(meta | {"pattern_sha256": "0" * 64}, arrays))}
        )
        with pytest.raises(RunError, match="another frozen pattern .*; use the version of puppet-jax that wrote it"):
            load_model(path)
