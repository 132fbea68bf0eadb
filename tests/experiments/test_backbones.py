"""The papers' networks: sizes to the digit, shapes, growth with depth, refusals."""

import functools
import inspect
import itertools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import quick

from experiments.backbones import RECORDS
from experiments.config import DeepBackbone
from experiments.networks.backbones import BACKBONES, VGG, AlexNet, MobileNetV2, ResNet, ResNet20, blocks, make_backbone
from experiments.networks.macs import count_macs

# For 10 and for 100 classes. The first three, MobileNet-v1 and SqueezeNet are the sizes that the papers print.
SIZES = {
    "alexnet": (2_913_610, 2_959_780),
    "vgg": (9_753_674, 9_799_844),
    "resnet": (11_209_290, 11_255_460),
    "resnet20": (269_722, 275_572),
    "mobilenet_v1": (1_880_906, 1_927_076),
    "mobilenet_v2": (2_236_682, 2_351_972),
    "squeezenet": (990_282, 1_036_452),
}
IN_MEGABYTES = {"alexnet": (11.65, 11.84), "vgg": (39.01, 39.20), "resnet": (44.84, 45.02)}
WITH_NORM = [name for name in BACKBONES if name not in ("alexnet", "squeezenet")]


@functools.cache
def abstract(name, num_classes=10, **options):
    """A network whose parameters have shapes but no values. Tests must not change it."""
    with pytest.MonkeyPatch.context() as patch:
        for initializer in ("HE_NORMAL", "CLASSIFIER"):  # to trace the drawing of every kernel takes long
            patch.setattr(blocks, initializer, nnx.initializers.zeros)
        return nnx.eval_shape(lambda: make_backbone(name, num_classes, rngs=nnx.Rngs(0), **options))


def size(model):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def forward(model):
    """The network as a function of its state and images."""
    graph, state = nnx.split(model)
    return (lambda state, images: nnx.merge(graph, state)(images)), state


def images(batch=2, pixels=32, channels=3):
    return jax.ShapeDtypeStruct((batch, pixels, pixels, channels), jnp.float32)


def convolutions(model):
    return [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Conv)]


def filled(model, seed=0):
    """Gives an abstract network values, drawn with numpy: to compile the drawing of every shape takes long."""
    rng = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        shape = variable.shape
        if path[-1] == "kernel":
            value = rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape)
        else:
            value = np.ones(shape) if path[-1] in ("scale", "var") else rng.uniform(0, 0.1, shape)
        variable.set_value(jnp.asarray(value, jnp.float32))
    return model


REPEATED = {
    "mobilenet_v1": ("layers", (0, 1, 2, 3, 4, 7, 8, 11, 12)),
    "mobilenet_v2": ("blocks", (0, 1, 2, 3, 6, 10, 13, 16)),
    "squeezenet": ("fires", (0, 2, 4, 6)),
}
"""Where a network repeats its blocks, and one of every shape with one that is added to its input."""


def small(name):
    """A network with values that is quick to compile and to compute."""
    width = {"resnet20": 8, "squeezenet": 64}.get(name, 16)
    layers = {"resnet20": 8, "vgg": 8, "resnet": 10}
    model = nnx.clone(abstract(name, 3, max_channels=width, num_layers=layers.get(name)))
    if name in REPEATED:
        attribute, kept = REPEATED[name]
        setattr(model, attribute, nnx.List([getattr(model, attribute)[place] for place in kept]))
    return filled(model)


X = np.random.default_rng(1).normal(0, 1, (4, 32, 32, 3)).astype(np.float32)


@nnx.jit
def losses_and_gradients(model, x):
    return nnx.value_and_grad(lambda model: jnp.square(model(x) - jnp.arange(3.0)[None]).sum())(model)


class TestSizes:
    @pytest.mark.parametrize("name", BACKBONES)
    def test_to_the_digit(self, name):
        assert (size(abstract(name)), size(abstract(name, 100))) == SIZES[name]

    @pytest.mark.parametrize("name", IN_MEGABYTES)
    def test_are_those_the_papers_print(self, name):
        assert tuple(round(4 * count / 1e6, 2) for count in SIZES[name]) == IN_MEGABYTES[name]

    def test_mobilenet_v2_without_its_classifier(self):
        model = abstract("mobilenet_v2")
        assert size(model) - size(model.head) == 2_223_872

    def test_layers(self):
        """Convolutions by hand: 8 in VGG-11; 2 + 16 + 3 in ResNet-18; 1 + 18 in ResNet-20."""
        counts = {name: len(convolutions(abstract(name))) for name in BACKBONES}
        assert counts == {
            "alexnet": 5, "vgg": 8, "resnet": 21, "resnet20": 19, "mobilenet_v1": 23, "mobilenet_v2": 52,
            "squeezenet": 25,
        }  # fmt: skip

    def test_in_channels(self):
        assert size(abstract("alexnet", in_channels=1)) == SIZES["alexnet"][0] - 2 * 9 * 64

    @pytest.mark.parametrize("name", quick([name for name in BACKBONES if name != "resnet20"], "alexnet", "vgg"))
    def test_max_channels_scales_the_widths(self, name):
        """Halving the widths divides what is quadratic in them by four."""
        sizes = [size(abstract(name, **width)) for width in ({"max_channels": 1024}, {}, {"max_channels": 1})]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[1] == SIZES[name][0]
        assert 3.3 < sizes[0] / sizes[1] <= 4

    def test_max_channels_by_hand(self):
        model = abstract("alexnet", max_channels=8)  # 1, 3, 6, 4, 4 and 8, 8, 8
        convs = (27 * 1 + 1) + (9 * 3 + 3) + (27 * 6 + 6) + (54 * 4 + 4) + (36 * 4 + 4)
        assert size(model) == convs + (4 * 8 + 8) + 2 * (8 * 8 + 8) + (8 * 10 + 10)

    def test_slimmer_resnet20(self):
        model = nnx.eval_shape(lambda: ResNet20(10, max_channels=16, rngs=nnx.Rngs(0)))
        weights = 9 * (3 * 4 + 6 * 16 + 4 * 8 + 5 * 64 + 8 * 16 + 5 * 256)
        assert size(model) == weights + 2 * (7 * 4 + 6 * 8 + 6 * 16) + 170


class TestForward:
    @pytest.mark.parametrize("pixels", [32, 64])
    @pytest.mark.parametrize("name", quick(BACKBONES, "alexnet", "vgg", "resnet20"))
    def test_shapes(self, name, pixels):
        function, state = forward(abstract(name, 7))
        logits = jax.eval_shape(function, state, images(5, pixels))
        assert (logits.shape, logits.dtype) == ((5, 7), jnp.float32)

    @pytest.mark.parametrize("name", quick(BACKBONES, "vgg", "resnet20"))
    def test_evaluation(self, name):
        """Tells images apart, takes each on its own, and leaves the running statistics alone."""
        model = small(name)
        model.eval()
        function, state = forward(model)
        before = jax.device_get(state)
        function = jax.jit(function)
        logits = np.asarray(function(state, X))
        others = np.concatenate([X[:1], X[:0:-1]])
        assert np.ptp(logits, axis=0).max() > 1e-5
        np.testing.assert_allclose(logits[[0, 3, 2, 1]], function(state, others), rtol=1e-4, atol=1e-5)
        assert all(jax.tree.leaves(jax.tree.map(np.array_equal, before, jax.device_get(nnx.state(model)))))

    @pytest.mark.parametrize("name", quick(BACKBONES, "vgg", "resnet20"))
    def test_a_step_of_training(self, name):
        """Every kernel has a gradient, and all running statistics move."""
        model = small(name)
        before = jax.device_get(nnx.state(model, nnx.BatchStat))
        loss, gradients = losses_and_gradients(model, X)
        assert np.isfinite(loss)
        for path, gradient in nnx.to_flat_state(gradients):
            assert np.isfinite(gradient[...]).all(), path
            assert np.any(gradient[...] != 0) or path[-1] != "kernel", path
        after = jax.device_get(nnx.state(model, nnx.BatchStat))
        same = jax.tree.leaves(jax.tree.map(np.array_equal, before, after))
        assert bool(same) == (name in WITH_NORM)
        assert not any(same)

    def test_momentum(self):
        norm = small("resnet20").stem.norm
        norm.mean[...] = jnp.zeros(2)
        x = jnp.asarray(X[..., :2]) * 3 + 1
        norm(x)
        np.testing.assert_allclose(norm.mean[...], 0.1 * x.mean(axis=(0, 1, 2)), rtol=1e-4)
        np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * x.var(axis=(0, 1, 2)), rtol=1e-4)

    def test_shortcuts_of_resnet20_take_every_second_pixel(self):
        block = small("resnet20").blocks[1]
        block.second.norm.scale[...], block.second.norm.bias[...] = jnp.zeros(4), jnp.zeros(4)
        x = jnp.asarray(np.abs(X[:1, :6, :6, :2]))
        np.testing.assert_array_equal(block(x), jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (1, 1))))

    def test_initial_values(self):
        """He-normal by fan-in, classifiers uniform within 1 / sqrt(fan-in), biases at zero, the seed decides."""

        @nnx.jit
        def make(key):
            return nnx.state(AlexNet(10, max_channels=128, rngs=nnx.Rngs(key)), nnx.Param)

        first, again, other = (make(jax.random.key(seed)) for seed in (0, 0, 1))
        kernel = first["convs"][4]["kernel"][...]  # (3, 3, 64, 64)
        assert np.std(kernel) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
        assert np.std(first["head"]["hidden"][1]["kernel"][...]) == pytest.approx(math.sqrt(2 / 128), rel=0.02)
        assert np.abs(first["head"]["classifier"]["kernel"][...]).max() == pytest.approx(128**-0.5, rel=0.02)
        assert not any(np.any(leaf[...]) for path, leaf in nnx.to_flat_state(first) if path[-1] == "bias")
        np.testing.assert_array_equal(kernel, again["convs"][4]["kernel"][...])
        assert not np.array_equal(kernel, other["convs"][4]["kernel"][...])

    @pytest.mark.parametrize("name", ["alexnet", "squeezenet", "vgg", "resnet"])
    def test_too_small_images(self, name):
        pixels = {"alexnet": 7, "squeezenet": 7, "vgg": 31, "resnet": 1}[name]
        function, state = forward(abstract(name))
        with pytest.raises(ValueError, match="images are too small: 1x1"):
            jax.eval_shape(function, state, images(2, pixels))


class TestDepth:
    @pytest.mark.parametrize(
        ("num_layers", "counts"),
        [
            (8, [1, 1, 1, 1, 1]),
            (11, [1, 1, 2, 2, 2]),
            (13, [2, 2, 2, 2, 2]),
            (16, [2, 2, 3, 3, 3]),
            pytest.param(101, [19, 19, 20, 20, 20], marks=pytest.mark.slow),
        ],
    )
    def test_vgg(self, num_layers, counts):
        model = abstract("vgg", num_layers=num_layers)
        assert [len(stage) for stage in model.stages] == counts
        assert len(convolutions(model)) + 3 == num_layers

    @pytest.mark.parametrize(
        ("num_layers", "counts"),
        [
            (10, [1, 1, 1, 1]),
            (12, [1, 1, 1, 2]),
            (18, [2, 2, 2, 2]),
            (34, [4, 4, 4, 4]),
            pytest.param(102, [12, 12, 13, 13], marks=pytest.mark.slow),
        ],
    )
    def test_resnet(self, num_layers, counts):
        blocks = abstract("resnet", num_layers=num_layers).blocks
        widths = [block.first.conv.out_features for block in blocks]
        assert [widths.count(width) for width in (64, 128, 256, 512)] == counts
        assert widths == sorted(widths)
        assert 2 * len(blocks) + 2 == num_layers
        assert sum(block.shortcut is not None for block in blocks) == 3

    @pytest.mark.parametrize(
        ("num_layers", "count"),
        [(20, 269_722), (32, 464_154), (56, 853_018), pytest.param(110, 1_727_962, marks=pytest.mark.slow)],
    )
    def test_resnet20(self, num_layers, count):
        """Published counts of the family."""
        assert size(abstract("resnet20", num_layers=num_layers)) == count

    @pytest.mark.parametrize(("name", "layers"), [("vgg", (8, 9, 11, 13, 16)), ("resnet", (10, 12, 14, 18, 34))])
    def test_deeper_is_larger(self, name, layers):
        sizes = [size(abstract(name, num_layers=n)) for n in layers]
        assert all(one < two for one, two in itertools.pairwise(sizes))

    @pytest.mark.parametrize(
        ("name", "num_layers"),
        [("vgg", 16), ("resnet", 34), *(pytest.param(name, 100, marks=pytest.mark.slow) for name in ("vgg", "resnet"))],
    )
    def test_many_layers_take_images(self, name, num_layers):
        function, state = forward(abstract(name, num_layers=num_layers))
        assert jax.eval_shape(function, state, images()).shape == (2, 10)


class TestMacs:
    def test_resnet_against_the_papers(self):
        """11.40 G at a batch of 64, as the tool that the papers used counts: with the biases of the convolutions."""
        function, state = forward(abstract("resnet"))
        biases = 64 * 2 * 64 * 32 * 32
        assert round((count_macs(function, state, images(64)) + biases) / 1e9, 2) == 11.40

    @pytest.mark.parametrize("name", quick(BACKBONES, "alexnet", "resnet20"))
    def test_grow_with_the_batch_and_the_pixels(self, name):
        model = small(name)
        function, state = forward(model)
        one, three, large = (count_macs(function, state, images(*of)) for of in [(1, 32), (3, 32), (1, 64)])
        assert three == 3 * one
        head = size(model.head)  # once an image, whatever its pixels
        assert 4 * (one - head) < large < 4 * one

    def test_vgg_by_hand(self):
        function, state = forward(abstract("vgg"))
        convs = [27 * 64 * 1024, 576 * 128 * 256, 1152 * 256 * 64, 2304 * 256 * 64, 2304 * 512 * 16]
        convs += [4608 * 512 * 16, 2 * 4608 * 512 * 4]
        assert count_macs(function, state, images(1)) == sum(convs) + 2 * 512 * 512 + 512 * 10


class TestOptions:
    def test_every_network_has_a_record_of_its_options(self):
        """`DeepBackbone` has the option --num-layers; nothing else has."""
        assert RECORDS.keys() == BACKBONES.keys()
        deep = {
            name
            for name, network in BACKBONES.items()
            if "num_layers" in inspect.signature(network.__init__).parameters
        }
        assert {name for name, record in RECORDS.items() if record is DeepBackbone} == deep
        for name, record in RECORDS.items():
            assert record(name=name).name in typing.get_args(typing.get_type_hints(record)["name"])


class TestRefusals:
    def test_unknown_name(self):
        with pytest.raises(ValueError, match="one of alexnet, vgg, .*, got 'lenet'"):
            make_backbone("lenet", 10, rngs=nnx.Rngs(0))

    @pytest.mark.parametrize(
        ("name", "option"),
        [(name, "num_layers") for name in ("alexnet", "mobilenet_v1", "mobilenet_v2", "squeezenet")],
    )
    def test_options_that_a_network_lacks(self, name, option):
        with pytest.raises(ValueError, match=f"{option} is no option of {name}, got 20"):
            make_backbone(name, 10, rngs=nnx.Rngs(0), **{option: 20})

    @pytest.mark.parametrize("number", ["num_classes", "in_channels", "max_channels"])
    @pytest.mark.parametrize("network", [AlexNet, VGG, ResNet, ResNet20, MobileNetV2])
    def test_numbers_below_one(self, network, number):
        with pytest.raises(ValueError, match=f"{number} must be at least 1, got 0"):
            network(**({"num_classes": 10} | {number: 0}), rngs=nnx.Rngs(0))

    @pytest.mark.parametrize(
        ("name", "num_layers", "message"),
        [
            ("vgg", 7, "at least 8.*got 7"),
            ("resnet", 8, "even and at least 10.*got 8"),
            ("resnet", 11, "even and at least 10.*got 11"),
            ("resnet", 101, "even and at least 10.*got 101"),
            ("resnet20", 18, "6 n .*got 18"),
            ("resnet20", 2, "6 n .*got 2"),
        ],
    )
    def test_num_layers(self, name, num_layers, message):
        with pytest.raises(ValueError, match=message):
            make_backbone(name, 10, num_layers=num_layers, rngs=nnx.Rngs(0))
