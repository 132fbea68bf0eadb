"""Model files of formats 1 and 2 mean what they meant."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from model_files import contents, parent, refused, rewrite
from pictures import photo

import puppet_jax as pj
from puppet_jax.model_file import FORMAT, read_puppet, upgrade
from puppet_jax.puppeteer import idle_leaves

FORMAT_1 = Path(__file__).parent / "pins" / "format1"
OLD = sorted(path.stem for path in FORMAT_1.glob("*.json"))
PINS = json.loads((Path(__file__).parent / "pins" / "models.json").read_text())


class TestFormat1:
    """Files without a version mean what they meant, whatever the defaults become."""

    @staticmethod
    def old(name="cifar10-c64"):
        return json.loads((FORMAT_1 / f"{name}.json").read_text())

    def test_all_ten_are_here(self):
        assert len(OLD) == 10

    @pytest.mark.parametrize("name", OLD)
    def test_upgrade(self, name):
        old = self.old(name)
        new = upgrade(old)
        puppet, described = read_puppet(new["network"]), old["network"]["puppet"]
        (depth,) = old["depths"]
        layers = {7: (1, 3, 3), 12: (1, 3, 4, 4)}[depth]
        assert puppet.layers == layers and puppet.only_depth == depth
        kept = set(described) - {"channels", "depth_rule", "stem", "max_depth", "exit_depth"}
        assert kept >= {"num_classes", "kernel_size", "residual", "dropout", "mirror", "affine", "classifier"}
        assert {field: getattr(puppet, field) for field in kept} == {field: described[field] for field in kept}
        assert puppet.channels == tuple(described["channels"])
        velocity = name not in ("cifar10-c512", "cifar10-narrow", "cifar10-narrow-4bit")  # which do not say
        widths = {"c64": 64, "c128": 128}
        assert new["network"]["puppeteer"] == {
            "max_channels": widths.get(name.split("-")[1], 512),
            "kernel_size": 3,
            "initial_state": "seeded",
            "seed": 0,
            "scale": 0.03 if velocity else 0.1,
            "kernels_from": "velocity" if velocity else "state",
        }
        assert new["format"] == FORMAT and new["network"]["kind"] == "puppet" and new["threshold"] is None
        same = set(old) - {"network", "threshold", "num_slices"}
        assert new["num_levels"] == old["num_slices"]
        assert {field: new[field] for field in same} == {field: old[field] for field in same}
        assert upgrade(new) == new

    @pytest.mark.parametrize("name", sorted(path.stem for path in FORMAT_1.glob("*.safetensors")))
    def test_reads_what_it_holds(self, name):
        """As `test_pins` asks of files of today."""
        pin, model = PINS[f"format1/{name}"], pj.load_pretrained(FORMAT_1 / f"{name}.safetensors")
        shapes = model.puppet.kernel_shapes(pin["depth"])
        kernels = pj.generate_kernels(model.params.puppeteer, pin["h"], shapes)
        entries = [[kernel.reshape(-1)[i] for i in (0, kernel.size // 3, kernel.size - 1)] for kernel in kernels]
        np.testing.assert_allclose(entries, pin["kernels"], atol=2e-4)
        logits = model.predictor()(photo(*model.image_shape)[None])[0]
        np.testing.assert_allclose(logits, pin["logits"], atol=5e-3)
        assert contents(FORMAT_1 / f"{name}.safetensors")[1] == self.old(name)

    def test_the_shipped_file_holds_nearly_the_same(self):
        """Format 3 stores vectors in 8 bits: matrices and statistics are the same to the bit, vectors nearly."""
        files = [path / "cifar10-c64-4bit.safetensors" for path in (pj.pretrained.FOLDER, FORMAT_1)]
        new, old = (contents(file)[0] for file in files)
        shared = new.keys() & old.keys()
        assert {"puppeteer.pointwise_kernel.codes", "classifier_kernel.scale", "7.6.variance"} <= shared
        for name in shared:
            np.testing.assert_array_equal(new[name], old[name])
        params, exact = (pj.load_pretrained(file).params for file in files)
        for near, leaf, idle in zip(*map(jax.tree.leaves, (params, exact, idle_leaves(exact))), strict=True):
            most = 0.0 if idle else np.abs(leaf).max()
            np.testing.assert_allclose(near, np.zeros_like(leaf) if idle else leaf, atol=most / 200)

    def test_fields_that_came_later_have_their_first_meaning(self):
        old = self.old()
        for name in set(old["network"]["puppet"]) - {"channels"}:
            del old["network"]["puppet"][name]
        for name in set(old["network"]["generator"]):
            del old["network"]["generator"][name]
        for name in ("kernels", "exits"):
            del old["network"][name]
        del old["threshold"]
        network = upgrade(old | {"depths": [3, 4]})["network"]
        assert network["puppet"] == {
            "channels": [64, 64, 64],
            "layers": None,
            "depth_rule": "per_stage",
            "stem": False,
            "num_classes": 10,
            "in_channels": 3,
            "kernel_size": 3,
            "residual": False,
            "dropout": 0.0,
            "mirror": False,
            "affine": False,
            "classifier": "linear",
        }
        assert network["puppeteer"] == {
            "max_channels": 64,
            "kernel_size": 3,
            "initial_state": "seeded",
            "seed": 0,
            "scale": 0.1,
            "kernels_from": "state",
        }

    @pytest.mark.parametrize(
        ("rule", "stem", "depths", "expected"),
        [
            ("total", False, [7], ([2, 2, 3], "per_stage", False)),
            ("total", True, [2], (None, "total", True)),  # three layers, and the complexity of depth 2
            ("total", True, [5, 7], (None, "total", True)),
            ("per_stage", False, [3], (None, "per_stage", False)),  # nine layers, and the complexity of depth 3
            ("last", True, [7], ([1, 1, 5], "per_stage", False)),
        ],
    )
    def test_one_depth_becomes_layers(self, rule, stem, depths, expected):
        old = self.old()
        old["depths"] = depths
        old["network"]["puppet"] |= {"depth_rule": rule, "stem": stem}
        puppet = upgrade(old)["network"]["puppet"]
        assert (puppet["layers"], puppet["depth_rule"], puppet["stem"]) == expected

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("network.puppet.max_depth", 7, r"a nested puppet \(max_depth 7\) is read no more; commit 02d1016"),
            ("network.exits", [5, 7], r"exits \[5, 7\] is read no more; commit 02d1016"),
            ("network.kernels", "stored", "a puppet of stored kernels .* read no more; commit 02d1016"),
            ("network.kind", "backbone", "a backbone .* read no more; commit 02d1016"),
            (
                "network.puppet.depth_rule",
                "each",
                "network.puppet.depth_rule must be one of 'per_stage', 'total', 'last'",
            ),
            ("network.puppet.unheard", 1, "the field network.puppet.unheard is unknown"),
            ("network.generator.unheard", 1, "the field network.generator.unheard is unknown"),
            ("network.unheard", 1, "the field network.unheard is unknown"),
            ("unheard", 1, "the field unheard is unknown"),
            ("bits", 16, "bits must be one of 32, 8, 4, got 16"),
        ],
    )
    def test_refuses(self, tmp_path, field, value, message):
        path = tmp_path / "file"
        shutil.copy(FORMAT_1 / "cifar10-c64-4bit.safetensors", path)

        def change(arrays, description):
            owner, last = parent(description, field)
            owner[last] = value

        rewrite(path, change)
        refused(path, message)

    def test_refuses_several_depths_by_the_rule_last(self):
        old = self.old()
        old["network"]["puppet"]["depth_rule"] = "last"
        with pytest.raises(ValueError, match="the depth rule 'last' is read no more; commit 02d1016"):
            upgrade(old | {"depths": [5, 7]})

    @pytest.mark.parametrize("field", ["network", "depths", "bits", "step", "complexity.low", "network.puppet"])
    def test_a_field_missing(self, tmp_path, field):
        path = tmp_path / "file"
        shutil.copy(FORMAT_1 / "cifar10-c64-4bit.safetensors", path)

        def change(arrays, description):
            owner, last = parent(description, field)
            del owner[last]

        rewrite(path, change)
        refused(path, rf"the field {field} is missing\.")
