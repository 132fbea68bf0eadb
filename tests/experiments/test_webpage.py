"""What `experiments.webpage` writes; tests/browser sees that the page answers as the predictor does."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import puppet_jax as pj
from experiments.cli import run_command
from experiments.errors import UsageError
from experiments.runs.puppet import find_model, open_puppet
from experiments.web import weights
from experiments.web.weights import check_puppet, describe, folded_norms, pack
from experiments.webpage import Command, webpage
from puppet_jax.puppeteer import IDLE_BIASES

MODEL = "cifar10-c64-4bit"
FORMAT_1 = Path(__file__).parents[1] / "pins" / "format1" / "cifar10-c64-4bit.safetensors"
SCRIPTS = sorted((Path(__file__).parents[2] / "experiments" / "web").glob("*.js"))


@pytest.fixture(scope="module")
def model():
    return open_puppet(MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "new" / "folder"
    webpage(Command(out=folder))
    return folder


def unpacked(data, tensors):
    """The floats of each tensor, by plain NumPy."""
    place, found = 0, {}

    def take(dtype, count):
        nonlocal place
        values = np.frombuffer(data, dtype, count, place)
        place += values.nbytes
        return values

    for tensor in tensors:
        kind, size = tensor["kind"], tensor["size"]
        if kind == "4":
            pairs = take("u1", (size + 1) // 2)
            values = np.stack([pairs % 16, pairs // 16], axis=-1).ravel()[:size].astype(int)
            values = np.where(values > 7, values - 16, values)
        else:
            values = take({"8": "i1", "float16": "<f2", "float32": "<f4"}[kind], size)
        scale = take("<f2", tensor["channels"]).astype(float) if tensor["channels"] else np.ones(1)
        found[tensor["name"]] = values * np.tile(scale, size // len(scale))
    assert place == len(data)
    return found


def test_the_weights_are_those_of_the_model_in_less_than_six_kilobytes(folder, model):
    data = (folder / "weights.bin").read_bytes()
    assert len(data) == 5222
    found = unpacked(data, pack(find_model(MODEL), model)[1])
    wanted = {name: leaf for name, leaf in vars(model.params.puppeteer).items() if hasattr(leaf, "shape")}
    wanted |= {name: getattr(model.params, name) for name in ("classifier_kernel", "classifier_bias")}
    wanted = {name: leaf for name, leaf in wanted.items() if name not in IDLE_BIASES}
    assert len(found) == len(wanted) + 2 * 7
    for name, leaf in wanted.items():
        np.testing.assert_allclose(found[name], np.ravel(leaf), rtol=1e-6, err_msg=name)


def test_the_biases_that_are_left_out_change_nothing(model):
    puppeteer, shapes = pj.load_pretrained(FORMAT_1).params.puppeteer, model.puppet.kernel_shapes(7)
    assert np.abs(puppeteer.depthwise_bias).max() > 0.01
    without = dataclasses.replace(puppeteer, **{name: 0 * getattr(puppeteer, name) for name in IDLE_BIASES})
    for kernel, other in zip(*(pj.generate_kernels(p, 7.4, shapes) for p in (puppeteer, without)), strict=True):
        np.testing.assert_allclose(kernel, other, atol=1e-5)


def test_a_norm_becomes_a_factor_and_a_shift(model):
    x = np.random.default_rng(0).normal(size=(5, 32))
    factor, shift = folded_norms(model)[3]
    mean, variance = map(np.asarray, model.batch_stats[7][3])
    scale, bias = np.asarray(model.params.norm_scale[1][2]), np.asarray(model.params.norm_bias[1][2])
    expected = (x - mean) / np.sqrt(variance + 1e-5) * scale + bias
    np.testing.assert_allclose(x * factor + shift, expected, rtol=1e-4, atol=1e-5)


def test_the_same_model_gives_the_same_files(folder, tmp_path):
    webpage(Command(out=tmp_path))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["index.html", "model.js", "network.js", "page.js", "weights.bin"]
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_what_the_page_knows(folder, model):
    text = (folder / "model.js").read_text()
    known = json.loads(re.fullmatch(r'"use strict";\nconst MODEL = (.*);\n', text)[1])
    assert {name: known[name] for name in describe(model)} == json.loads(json.dumps(describe(model)))
    predictor = model.predictor()
    predictor(np.zeros((1, 32, 32, 3), np.uint8))
    predictor.bank(7, known["h"])
    assert len(predictor.bank) == 1  # the predictor has generated kernels at this complexity, and at no other
    assert [layer["inputs"] for layer in known["layers"]] == [3, *[64] * 6]
    assert [n for n, layer in enumerate(known["layers"]) if layer["pooled"]] == [1, 4]
    assert [n for n, layer in enumerate(known["layers"]) if layer["added"]] == [2, 3, 5, 6]


def test_the_program_is_short_and_names_no_server():
    assert sum(len(path.read_text().splitlines()) for path in SCRIPTS) < 200
    for path in [*SCRIPTS, SCRIPTS[0].with_name("index.html")]:
        assert not re.search("https?:|//[a-z]|import |@import", path.read_text().replace("// ", "")), path
        assert max(map(len, path.read_text().splitlines())) <= 120


def test_another_puppet_is_refused_in_words(tmp_path, capsys):
    argv = ["cifar10-adaptive", "--out", str(tmp_path / "page")]
    assert run_command(Command, webpage, "experiments.webpage", "Makes.", argv) == 2
    assert "one depth and one complexity" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_a_puppet_that_would_take_minutes_is_refused(model, monkeypatch):
    cost = pj.generator_macs(model.params.puppeteer, 7) + pj.puppet_macs(model.puppet, 7, (32, 32))
    monkeypatch.setattr(weights, "MAX_MACS", cost)
    check_puppet(model)
    monkeypatch.setattr(weights, "MAX_MACS", cost - 1)
    with pytest.raises(UsageError, match="at most 57 million multiply-accumulates"):
        check_puppet(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel_size": 1}, "kernels of 3 x 3"),
        ({"mirror": False}, "mirrored channels"),
        ({"affine": False}, "affine norms"),
        ({"classifier": "generated"}, "a linear classifier"),
        ({"channels": (128, 64, 64)}, "an even C no smaller"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_program_does_not_run(model, changes, message):
    check_puppet(model)
    with pytest.raises(UsageError, match=message):
        check_puppet(dataclasses.replace(model, puppet=dataclasses.replace(model.puppet, **changes)))
