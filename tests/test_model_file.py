"""Model files: what they hold, and what damage does."""

import dataclasses
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import apply_puppet, signed
from model_files import contents, parent, refused, rewrite
from safetensors.numpy import save_file

import puppet_jax as pj
from experiments import model as experiments_model
from experiments.errors import RunError
from puppet_jax import extras
from puppet_jax.model_file import FORMAT, describe_puppet, load_model, save_model
from puppet_jax.pretrained import like_puppet
from puppet_jax.puppet import puppet_matrices
from puppet_jax.routing import nearest_depths
from puppet_jax.seeded import pattern_hash

PUPPET = pj.Puppet(channels=(4, 6), num_classes=3, in_channels=1, affine=True, stem=True)
LAYERS = pj.Puppet(channels=(4, 6), layers=(1, 2), num_classes=3, in_channels=1)


def described(puppet=PUPPET, depths=(1, 2), kind="puppet", **more):
    puppeteer = jax.eval_shape(lambda: pj.init_puppeteer(jax.random.key(0), max_channels=6, seed=7, scale=0.3))
    return {
        "network": describe_puppet(puppet, puppeteer, (8, 5)) | {"kind": kind} | more,
        "depths": list(depths),
        "class_names": ["a", "b", "c"],
        "complexity": {"scale": 0.5, "offset": 0.25, "low": 0.5, "high": 2.0},
        "adaptation": "level",
        "num_levels": 3,
        "step": 1,
        "bits": 32,
        "threshold": 0.5 if kind == "early_exit" else None,
        "pattern_sha256": pattern_hash(6, 3, 7),
    }


def random_floats(shapes):
    rng = np.random.Generator(np.random.PCG64(0))
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)


def in_json(value):
    return json.loads(json.dumps(value))


DESCRIPTION = described()
TREE = random_floats(like_puppet(in_json(DESCRIPTION)))
IN_JAX = jax.tree.map(jnp.asarray, TREE)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, TREE, DESCRIPTION)
    return path


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def answer(read, path, refusal):
    try:
        read(path)
    except refusal as error:
        assert str(path) in str(error)
        return "refused"
    return "read"


READERS = [
    (functools.partial(answer, pj.load_pretrained), ValueError),
    (functools.partial(answer, experiments_model.load_model), RunError),
]


class TestWriting:
    def test_round_trip(self, path, tmp_path):
        tree, description = load_model(path, like_puppet)
        assert_same(tree, TREE)
        assert description == in_json(DESCRIPTION) | {
            "format": FORMAT,
            "sha256": description["sha256"],
        }
        assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]

    def test_names_say_what_a_tensor_is(self, path):
        names = contents(path)[0].keys()
        assert {"puppeteer.pointwise_kernel", "norm_scale.1", "classifier_bias", "2.0.mean", "1.1.variance"} <= names

    @pytest.mark.parametrize("kind", ["backbone", "stored"])
    def test_other_kinds_are_their_writers(self, tmp_path, kind):
        network = {"kind": kind, "width": [3, None]}
        tree = ({"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, {7: (np.zeros((), np.float32),)})
        save_model(tmp_path / "file", tree, DESCRIPTION | {"network": network, "pattern_sha256": None})
        loaded, description = load_model(tmp_path / "file", lambda description: tree)
        assert_same(loaded, tree)
        assert description["network"] == network

    def test_whoever_may_read_a_new_file_may_read_the_model(self, path, tmp_path):
        (tmp_path / "other").write_text("")
        assert path.stat().st_mode == (tmp_path / "other").stat().st_mode

    def test_a_failure_while_writing_leaves_the_old_file(self, path, monkeypatch):
        before = path.read_bytes()

        def fail(old, new):
            raise OSError("no space left")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            save_model(path, TREE, DESCRIPTION)
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]

    def test_two_writers_do_not_meet(self, path, monkeypatch):
        replace, others = os.replace, [{"step": 2}, {"step": 3}]

        def late(old, new):
            if others:
                save_model(path, TREE, DESCRIPTION | others.pop())
            replace(old, new)

        monkeypatch.setattr(os, "replace", late)
        save_model(path, TREE, DESCRIPTION)
        assert load_model(path, like_puppet)[1]["step"] == 1
        assert list(path.parent.iterdir()) == [path]

    def test_links_are_not_written_through(self, path, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("mine")
        for name in ("linked", "other.partial"):
            (tmp_path / name).symlink_to(victim)
        for name in ("linked", "other"):
            save_model(tmp_path / name, TREE, DESCRIPTION)
            assert load_model(tmp_path / name, like_puppet)[1]["step"] == 1
        assert victim.read_text() == "mine"

    def test_a_bad_description_is_not_written(self, tmp_path):
        with pytest.raises(ValueError, match="step must be an integer of at least 0, got -1"):
            save_model(tmp_path / "file", TREE, DESCRIPTION | {"step": -1})
        assert not list(tmp_path.iterdir())

    def test_an_infinite_limit_of_complexity(self, path):
        limits = DESCRIPTION["complexity"] | {"high": float("inf")}
        save_model(path, TREE, DESCRIPTION | {"complexity": limits})
        assert pj.load_pretrained(path).complexity.high == float("inf")

    @pytest.mark.usefixtures("without_type_checks")
    def test_settings_that_are_scalars_of_numpy(self, path):
        puppet = dataclasses.replace(
            PUPPET, stem=np.True_, affine=np.bool_(True), mirror=np.False_, dropout=np.float32(0.25)
        )
        puppeteer = pj.init_puppeteer(
            jax.random.key(0), np.int64(6), np.int32(3), seed=np.int64(7), scale=np.float64(0.3)
        )
        measure = pj.CalibratedComplexity(*np.float32([0.5, 0.25, 0.5, 2.0]))
        network = json.loads(json.dumps(describe_puppet(puppet, puppeteer, (8, 5))))
        assert network["puppet"] == in_json(DESCRIPTION["network"]["puppet"]) | {"dropout": 0.25}
        assert network["puppeteer"] == DESCRIPTION["network"]["puppeteer"]
        assert json.loads(json.dumps(dataclasses.asdict(measure))) == DESCRIPTION["complexity"]
        save_model(path, TREE, DESCRIPTION | {"network": network})
        assert pj.load_pretrained(path).puppet == puppet


class TestReading:
    def test_holds_what_was_stored(self, path):
        model = pj.load_pretrained(path)
        assert model.puppet == PUPPET
        assert model.image_shape == (8, 5, 1)
        assert model.class_names == ("a", "b", "c")
        assert model.complexity == pj.CalibratedComplexity(0.5, 0.25, 0.5, 2.0)
        assert (model.params.puppeteer.seed, model.params.puppeteer.scale) == (7, 0.3)
        assert_same((model.params, model.batch_stats), TREE)

    def test_predicts_what_its_puppet_gives(self, path):
        model = pj.load_pretrained(str(path))
        images = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (5, 8, 5, 1), np.uint8)
        predictor = model.predictor(adaptation="sample")
        assert predictor.depths == (1, 2)
        h = model.complexity(images)
        for image, level, logits in zip(images, h, predictor(images), strict=True):
            depth = int(nearest_depths(np.asarray(level)[None], (1, 2))[0])
            kernels = pj.generate_kernels(model.params.puppeteer, level, PUPPET.kernel_shapes(depth))
            expected, _ = apply_puppet(PUPPET, model.params, model.batch_stats[depth], kernels, image[None], depth)
            np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("bits", [8, 4])
    def test_few_bits_are_those_that_training_sees(self, tmp_path, bits):
        params, stats = IN_JAX
        chosen = extras.choose_bits(params, puppet_matrices(params), bits)
        save_model(tmp_path / "few", (extras.quantize_tree(params, chosen), stats), DESCRIPTION | {"bits": bits})
        model = pj.load_pretrained(tmp_path / "few")
        assert model.bits == bits
        expected = extras.fake_quantize(params, chosen)
        assert jax.tree.structure(model.params) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(model.params), jax.tree.leaves(expected), strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=1e-6)
        assert not np.array_equal(model.params.puppeteer.pointwise_kernel, params.puppeteer.pointwise_kernel)
        assert model.predictor()(np.zeros((2, 8, 5, 1), np.uint8)).shape == (2, 3)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no pretrained model .*nothing.*; the package has"):
            pj.load_pretrained(tmp_path / "nothing")
        with pytest.raises(FileNotFoundError, match="nothing does not exist or is no file"):
            load_model(tmp_path / "nothing", like_puppet)


class TestEarlyExit:
    @pytest.fixture
    def made(self):
        description = described(LAYERS, (3,), "early_exit", exit_layer=2)
        description["complexity"] |= {"scale": 0.0}
        params, stats = random_floats(like_puppet(in_json(description)))
        head = random_floats(jax.eval_shape(lambda: extras.init_exit(jax.random.key(0), LAYERS, 2)))
        return (extras.EarlyExitParams(params, head), stats), description

    def test_round_trip(self, made, tmp_path):
        tree, description = made
        save_model(tmp_path / "file", tree, description)
        assert {"puppet.puppeteer.depthwise_bias", "exit.kernel", "exit.bias", "3.2.mean"} <= contents(
            tmp_path / "file"
        )[0].keys()
        predictor = extras.load_early_exit(tmp_path / "file")
        assert (predictor.depths, predictor.threshold, predictor.h) == (
            (2, 3),
            0.5,
            0.5,
        )  # of the offset 0.25 and the limit 0.5
        assert_same((extras.EarlyExitParams(predictor.params, predictor.head), {3: predictor.batch_stats}), tree)
        assert predictor(np.zeros((2, 8, 5, 1), np.uint8)).shape == (2, 3)
        assert extras.load_early_exit(tmp_path / "file", threshold=2.0).threshold == 2.0

    def test_a_complexity_that_is_not_of_all_images(self, made, tmp_path):
        tree, description = made
        save_model(tmp_path / "file", tree, description | {"complexity": DESCRIPTION["complexity"]})
        with pytest.raises(ValueError, match=r"file: complexity\.scale must be 0, .* got 0\.5; give h="):
            extras.load_early_exit(tmp_path / "file")
        assert extras.load_early_exit(tmp_path / "file", h=1.5).h == 1.5

    def test_each_reader_names_the_other(self, made, path, tmp_path):
        save_model(tmp_path / "file", *made)
        refused(tmp_path / "file", "puppet_jax.extras.load_early_exit reads it")
        with pytest.raises(ValueError, match="an early exit is expected, got the kind 'puppet'; load_pretrained"):
            extras.load_early_exit(path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"threshold": None}, "threshold must be a number for the kind early_exit, got None"),
            ({"threshold": [0.5]}, r"threshold must be a number for the kind early_exit, got \[0.5\]"),
            ({"threshold": 1.5}, r"threshold must be a number in \[0, 1\], or null, or a list .*, got 1.5"),
            ({"network": {"exit_layer": 3}}, "network.exit_layer must be less than 3, got 3"),
            ({"network": {"exit_layer": 0}}, "network.exit_layer must be an integer of at least 1, got 0"),
            ({"depths": [2]}, r"the only depth of layers \(1, 2\) is 3, got 2"),
        ],
    )
    def test_refuses(self, made, tmp_path, changes, message):
        tree, description = made
        network = description["network"] | changes.get("network", {})
        with pytest.raises(ValueError, match=message):
            save_model(tmp_path / "file", tree, description | changes | {"network": network})


FIELDS = [
    *DESCRIPTION,
    *(f"network.{name}" for name in DESCRIPTION["network"] if name != "kind"),
    *(f"network.{part}.{name}" for part in ("puppet", "puppeteer") for name in DESCRIPTION["network"][part]),
    *(f"complexity.{name}" for name in DESCRIPTION["complexity"]),
]


class TestDamage:
    @pytest.mark.parametrize("keep", [0, 7, 300, -1])
    def test_cut_off(self, path, keep):
        path.write_bytes(path.read_bytes()[:keep])
        refused(path, "is damaged or no model file of puppet-jax")

    def test_another_safetensors_file(self, path):
        arrays, _ = contents(path)
        for metadata in (None, {"puppet_jax": "[1, 2]"}, {"other": "{}"}):
            save_file(arrays, path, metadata=metadata)
            refused(path, "is damaged or no model file of puppet-jax")

    @pytest.mark.parametrize("place", [1, 1_000, -1_000])
    def test_a_flipped_bit(self, path, place):
        """In the tensors, which are the end of the file."""
        size = sum(array.nbytes for array in contents(path)[0].values())
        stored = bytearray(path.read_bytes())
        stored[-(place % size)] ^= 4
        path.write_bytes(stored)
        refused(path, r"it is not as it was written \(sha256\)")

    def test_flipped_bits_of_the_header(self, path):
        """Never another model, and never another error than the reader's own."""
        whole, size = path.read_bytes(), int.from_bytes(path.read_bytes()[:8], "little")
        for place in range(0, 8 + size, 53):
            stored = bytearray(whole)
            stored[place] ^= 1 << place % 8
            path.write_bytes(stored)
            try:
                assert_same(load_model(path, like_puppet)[0], TREE)  # a bit that means nothing
            except ValueError as error:
                assert str(path) in str(error)

    @pytest.mark.parametrize("field", ["sha256", *FIELDS])
    def test_a_field_missing(self, path, field):
        def change(arrays, description):
            owner, last = parent(description, field)
            del owner[last]

        rewrite(path, change)
        refused(path, rf"the field {field} is missing\.")

    @pytest.mark.parametrize("owner", ["", "network.", "network.puppet.", "network.puppeteer.", "complexity."])
    def test_a_field_too_many(self, path, owner):
        def change(arrays, description):
            parent(description, f"{owner}unheard")[0]["unheard"] = 1

        rewrite(path, change)
        refused(path, rf"the field {owner}unheard is unknown\.")

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("format", 4, r"written by a later version of puppet-jax \(format 4, .* up to 3\); upgrade the package"),
            ("format", 0, "format must be one of 2, 3, got 0"),
            ("format", "2", "format must be one of 2, 3, got '2'"),
            ("format", True, "format must be one of 2, 3, got True"),
            ("format", None, "format must be one of 2, 3, got None"),
            ("network", [], "network must be an object with a kind"),
            ("network.kind", "backbone", r"a puppet is expected, got the kind 'backbone'; python -m experiments"),
            ("network.puppet", 3, "network.puppet must be an object, got 3"),
            ("network.puppet.channels", [4, "6"], r"channels must be a list of integers of at least 1, got \[4, '6'\]"),
            ("network.puppet.channels", [4, 8], r"the tensor .* must be float32 of shape"),
            ("network.puppet.channels", [4, 6, 6, 6], "too small for 3 poolings"),
            ("network.puppet.layers", [1, 2], "give either layers or those"),
            ("network.puppet.stem", 1, "network.puppet.stem must be true or false, got 1"),
            ("network.puppet.dropout", 1.5, r"dropout must be in \[0, 1\), got 1.5"),
            ("network.puppet.depth_rule", "last", "depth_rule must be one of 'per_stage', 'total', got 'last'"),
            ("network.puppet.num_classes", 4, "class_names must name 4, got 3"),
            ("network.puppet.num_classes", 2**40, "num_classes must be an integer of at least 1"),
            ("network.puppet.channels", [2**31, 6], "channels must be a list of integers"),
            ("network.puppet.kernel_size", 10001, r"kernel_size must be an odd integer in \[1, 31\], got 10001"),
            ("network.puppeteer.kernel_size", 10001, r"kernel_size must be an odd integer in \[1, 31\], got 10001"),
            ("network.puppeteer.max_channels", 2**30, "make a state of more than 2\\*\\*32 floats"),
            ("network.puppeteer.seed", 2**64, "seed must be an integer in"),
            ("network.puppeteer.scale", 10**400, "scale must be a number in"),
            ("depths", [1_000_000], "depths must be a list of integers of at least 1 and at most 10000"),
            ("depths", [1, 9_999], r"depths must be of no more than \d+ layers, as many as it has, got"),
            ("complexity.offset", 10**400, "complexity.offset must be a number in"),
            ("complexity.low", 3.0, "complexity.low must be at most complexity.high"),
            ("network.puppet.kernel_size", 5, "kernel_size of at least 5 is needed, got 3"),
            ("network.puppet.affine", False, "the tensor norm_bias.0 too many"),
            ("network.puppeteer.kernel_size", 2, "kernel_size must be an odd integer in"),
            ("network.puppeteer.scale", 0, "scale must be positive"),
            ("network.puppeteer.seed", 8, "another seeded pattern"),
            ("network.puppeteer.initial_state", "learned", "the tensor puppeteer.initial_state is missing"),
            ("network.image_size", [8], "image_size must be a pair"),
            ("depths", [], "depths must be a list of integers of at least 1 .* in rising order"),
            ("depths", [2, 1], "depths must be a list of integers of at least 1 .* in rising order"),
            ("depths", [1, 2, 3], r"the tensor (norm_scale.1|3.0.mean) (is missing|must be)"),
            ("depths", [2], "the tensor 1.0.mean too many"),
            ("class_names", ["a", "b", 3], "class_names must be a list of names"),
            ("complexity.scale", float("nan"), "complexity.scale must be a number of at least 0"),
            ("complexity.low", -1.0, "complexity.low must be a number of at least 0"),
            ("complexity.high", "inf", "complexity.high must be a number of at least 0"),
            ("adaptation", "each", "adaptation must be one of 'level', 'sample', got 'each'"),
            ("num_levels", 0, "num_levels must be an integer of at least 1"),
            ("bits", 5, "bits must be one of 32, 8, 4, got 5"),
            ("bits", 8, r"the tensor .* must be float16 of shape .*, got float32"),
            ("threshold", 0.5, "threshold must be null for the kind puppet, got 0.5"),
            ("pattern_sha256", "0" * 64, "another seeded pattern"),
            ("pattern_sha256", None, "another seeded pattern"),
            ("pattern_sha256", "none", "pattern_sha256 must be 64 hexadecimal digits"),
            ("sha256", None, "sha256 must be 64 hexadecimal digits"),
            ("sha256", "0" * 64, "it is not as it was written"),
        ],
    )
    def test_a_value_of_another_kind_or_out_of_range(self, path, field, value, message):
        def change(arrays, description):
            owner, last = parent(description, field)
            owner[last] = value

        rewrite(path, change)
        refused(path, message)

    def test_hostile_values(self, path):
        """Each value of a file by something else, with the right checksum: both readers answer alike, and soon."""
        arrays, description = contents(path)
        values = [None, True, -1, 0, 1, 2.5, 10**400, float("nan"), float("inf"), "", "x", [], [1, 2], [[]], {}, 2**31]
        cases = [(field, value) for field in ["format", *FIELDS] for value in values]
        seen = 0
        for place in np.random.default_rng(0).permutation(len(cases))[:250]:
            changed = json.loads(json.dumps(description))
            owner, last = parent(changed, cases[place][0])
            owner[last] = cases[place][1]
            save_file(arrays, path, metadata={"puppet_jax": json.dumps(signed(changed, arrays))})
            answers = [read(path, refusal) for read, refusal in READERS]
            assert answers[0] == answers[1], cases[place]
            seen += answers[0] == "refused"
        assert seen > 200

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda arrays: arrays.pop("2.0.mean"), "the tensor 2.0.mean is missing"),
            (lambda arrays: arrays.update(more=np.zeros(2, np.float32)), "it has the tensor more too many"),
            (lambda arrays: arrays.update({"1.0.mean": np.zeros(4)}), "1.0.mean must be float32 .* got float64"),
            (lambda arrays: arrays.update({"1.0.mean": np.zeros(4, np.float16)}), "float32 .*, got float16"),
            (lambda arrays: arrays.update({"1.0.mean": np.zeros(5, np.float32)}), r"shape \(4,\), got .* \(5,\)"),
            (
                lambda arrays: arrays.update({"puppeteer.pointwise_kernel.scale": np.ones(6, np.float16)}),
                "puppeteer.pointwise_kernel.scale too many",
            ),
        ],
        ids=["missing", "too many", "float64", "float16", "shape", "scale"],
    )
    def test_tensors(self, path, change, message):
        """Written with a checksum of its own: what is stored is not what the description says."""
        arrays, description = contents(path)
        change(arrays)
        tree = ({name: array for name, array in arrays.items()}, {})
        save_model(path, tree, DESCRIPTION)
        refused(path, message)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("puppeteer.pointwise_kernel", np.nan, "holds NaN or infinity"),
            ("classifier_bias", np.inf, "holds NaN or infinity"),
            ("2.1.mean", -np.inf, "holds NaN or infinity"),
            ("1.0.variance", -0.5, "holds a negative variance, -0.5"),
        ],
    )
    def test_values(self, path, name, value, message):
        """Neither read, whoever wrote them, nor written."""
        arrays, description = contents(path)
        arrays[name] = arrays[name].copy()
        arrays[name].flat[-1] = value
        save_file(arrays, path, metadata={"puppet_jax": json.dumps(signed(description, arrays))})
        refused(path, f"the tensor {name} {message}")
        with pytest.raises(ValueError, match=f"the tensor {name} {message}"):
            save_model(path, (arrays, {}), DESCRIPTION)

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("codes", lambda x: x.astype(np.int16), "codes must be int8 .* got int16"),
            ("codes", lambda x: x[:-1], r"codes must be uint8 of shape \(18,\), got uint8 of shape \(17,\)"),
            ("scale", lambda x: x.astype(np.float32), "scale must be float16 .* got float32"),
            ("scale", None, "pointwise_kernel.scale is missing"),
            ("codes", None, "pointwise_kernel.codes is missing"),
        ],
        ids=["int16", "short", "float32", "no scale", "no codes"],
    )
    def test_tensors_of_few_bits(self, tmp_path, name, change, message):
        params, stats = IN_JAX
        chosen = extras.choose_bits(params, puppet_matrices(params), 4)
        description = DESCRIPTION | {"bits": 4}
        save_model(tmp_path / "few", (extras.quantize_tree(params, chosen), stats), description)
        arrays, _ = contents(tmp_path / "few")
        name = f"puppeteer.pointwise_kernel.{name}"
        array = arrays.pop(name)
        save_model(tmp_path / "few", (arrays | ({name: change(array)} if change else {}), {}), description)
        refused(tmp_path / "few", message)
