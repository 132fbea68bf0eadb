"""Model files, and the trained models in the package."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import puppet_jax as pj
from puppet_jax.model_file import load_tree, save_tree
from puppet_jax.seeded import pattern_hash

PUPPET = pj.Puppet(channels=(4, 6), num_classes=3, in_channels=1, affine=True, stem=True)
META = {
    "network": {
        "kind": "puppet",
        "puppet": {"channels": [4, 6], "num_classes": 3, "in_channels": 1, "affine": True, "stem": True},
        "generator": {"max_channels": None, "kernel_size": None, "initial_state": "seeded", "seed": 7, "scale": 0.3},
        "image_size": [8, 5],
        "kernels": "generated",
    },
    "pattern_sha256": pattern_hash(6, 3, 7),
    "depths": [2, 1],
    "class_names": ["a", "b", "c"],
    "adaptation": "level",
    "num_slices": 3,
    "complexity": {"scale": 0.5, "offset": 0.25, "low": 0.5, "high": 2.0},
    "step": 1,
    "bits": 32,
}


def make_tree():
    """Of random floats."""
    rng = np.random.Generator(np.random.PCG64(0))
    key = jax.random.key(0)

    def make():
        params = pj.init_puppet(key, PUPPET, pj.init_puppeteer(key, max_channels=6, seed=7, scale=0.3), max_depth=2)
        return params, {depth: pj.init_batch_stats(PUPPET, depth) for depth in (1, 2)}

    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), jax.eval_shape(make))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    save_tree(path, make_tree(), META)
    return path


class TestTree:
    def test_round_trip(self, tmp_path):
        tree = (
            {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": (np.ones(2, np.int8),)},
            {"c": np.zeros((), np.float32)},
        )
        save_tree(tmp_path / "file", tree, {"x": [1, None, "ü"]})
        loaded, meta = load_tree(tmp_path / "file", lambda meta: tree)
        assert meta == {"x": [1, None, "ü"]}
        assert jax.tree.structure(loaded) == jax.tree.structure(tree)
        for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree), strict=True):
            np.testing.assert_array_equal(one, other)
        assert [file.name for file in tmp_path.iterdir()] == ["file"]

    def test_whoever_may_read_a_new_file_may_read_the_model(self, path, tmp_path):
        (tmp_path / "other").write_text("")
        assert path.stat().st_mode == (tmp_path / "other").stat().st_mode

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing does not exist"):
            load_tree(tmp_path / "nothing", lambda meta: ())

    def test_a_failure_while_writing_leaves_the_old_file(self, path, monkeypatch):
        before = path.read_bytes()

        def fail(old, new):
            raise OSError("no space left")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            save_tree(path, make_tree(), {})
        assert path.read_bytes() == before


class TestModelFile:
    def test_holds_what_was_stored(self, path):
        model = pj.load_pretrained(path)
        assert model.puppet == PUPPET
        assert model.image_shape == (8, 5, 1)
        assert model.class_names == ("a", "b", "c")
        assert model.complexity == pj.CalibratedComplexity(0.5, 0.25, 0.5, 2.0)
        assert (model.params.puppeteer.seed, model.params.puppeteer.scale) == (7, 0.3)
        params, stats = make_tree()
        for one, other in zip(
            jax.tree.leaves((model.params, model.batch_stats)), jax.tree.leaves((params, stats)), strict=True
        ):
            np.testing.assert_array_equal(one, other)

    def test_predicts_what_its_puppet_gives(self, path):
        model = pj.load_pretrained(str(path))
        images = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (5, 8, 5, 1), np.uint8)
        predictor = model.predictor(adaptation="sample")
        assert predictor.depths == (1, 2)
        h = model.complexity(images)
        for image, level, logits in zip(images, h, predictor(images), strict=True):
            depth = int(pj.nearest_depths(np.asarray(level)[None], (1, 2))[0])
            kernels = pj.generate_kernels(model.params.puppeteer, level, PUPPET.kernel_shapes(depth))
            expected, _ = pj.apply_puppet(
                PUPPET, model.params, model.batch_stats[depth], kernels, image[None], depth=depth
            )
            np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("bits", [8, 4])
    def test_few_bits_are_those_that_training_sees(self, tmp_path, bits):
        params, stats = make_tree()
        chosen = pj.choose_bits(params, pj.puppet_matrices(params), bits)
        save_tree(tmp_path / "few", (pj.quantize_tree(params, chosen), stats), META | {"bits": bits})
        model = pj.load_pretrained(tmp_path / "few")
        assert model.bits == bits
        expected = pj.fake_quantize(jax.tree.map(np.asarray, params), chosen)
        assert jax.tree.structure(model.params) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(model.params), jax.tree.leaves(expected), strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=1e-6)
        assert not np.array_equal(model.params.puppeteer.pointwise_kernel, params.puppeteer.pointwise_kernel)
        assert model.predictor()(np.zeros((2, 8, 5, 1), np.uint8)).shape == (2, 3)

    def test_no_such_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no pretrained model .*nothing.*; the package has"):
            pj.load_pretrained(tmp_path / "nothing")

    @pytest.mark.parametrize(
        ("where", "value", "complaint"),
        [
            ("bits", 8, "damaged or no model"),  # holds floats
            ("bits", 5, "bits must be 8 or 4, got 5"),
            ("pattern_sha256", "0" * 64, "another seeded pattern"),
            ("depths", [1, 2, 3], "damaged or no model"),
            ("network.kind", "backbone", "got a backbone"),
            ("network.kernels", "stored", "of stored kernels"),
            ("network.puppet.channels", [4, 8], "damaged or no model"),
            ("network.puppet.unheard", 1, "damaged or no model"),
        ],
    )
    def test_refuses_another_kind(self, path, where, value, complaint):
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        meta = json.loads(json.dumps(META))
        *parents, last = where.split(".")
        place = meta
        for parent in parents:
            place = place[parent]
        place[last] = value
        save_file(arrays, path, metadata={"puppet_jax": json.dumps(meta)})
        with pytest.raises(ValueError, match=complaint):
            pj.load_pretrained(path)

    @pytest.mark.parametrize("keep", [0, 7, 300, -1])
    def test_refuses_damage(self, path, keep):
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(ValueError, match="damaged or no model"):
            pj.load_pretrained(path)


class TestPackaged:
    """What comes with the package needs no network and no data."""

    def test_the_default_is_there(self):
        assert pj.pretrained_file().is_file()

    @pytest.mark.parametrize("name", pj.pretrained_models())
    def test_each_has_its_card_and_its_log(self, name):
        card = pj.pretrained_file(name).with_suffix(".md").read_text()
        assert name in card
        runs = Path(__file__).parents[1] / "docs" / "runs"
        summary = json.loads((runs / name / "summary.json").read_text())
        assert f"**{100 * summary['top1']:.2f} %** top-1" in card
        assert f"{summary['trainable_bytes']:,}" in card
        assert f"{summary['file_bytes']:,}" in card
        assert summary["config"]["bits"] == pj.load_pretrained(name).bits
        trained = runs / name
        if not (trained / "metrics.jsonl").exists():  # rounded without further training
            trained = runs / name.removesuffix("-4bit")
        assert len((trained / "metrics.jsonl").read_text().splitlines()) == summary["config"]["epochs"]
