"""What can be trained: sizes, statistics, descriptions, model files and predictions of puppets and backbones."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import signed
from safetensors import safe_open
from safetensors.numpy import save_file

import puppet_jax as pj
from experiments.backbones import RECORDS
from experiments.config import (
    Adaptive,
    ByComplexity,
    ByConfidence,
    Config,
    FrozenBasis,
    Generated,
    HyperWRN,
    OneDepth,
    Ordinary,
    OtherGenerator,
    PuppetCNN,
    Puppetized,
    ResNet8,
    Transformer,
)
from experiments.errors import RunError
from experiments.model import Model, load_model, pattern_hash, save_model
from experiments.networks import describe_network, read_network
from experiments.networks.backbones import make_backbone
from experiments.networks.controls import GENERATORS
from experiments.networks.macs import count_macs
from experiments.training.complexity import measure_complexities
from experiments.training.run import check_apply
from puppet_jax.puppet import centred

REGIMES = {"fixed": Ordinary(), "puppet": Generated(), "adaptive": Adaptive()}
SHAPE = (32, 32, 3)


def network_of(name, regime="adaptive", num_classes=10, shape=SHAPE, kernels=None, **options):
    record = RECORDS[name](name=name, kernels=kernels or REGIMES[regime], **options)
    return record.make(num_classes, shape)


def small_vgg(regime):
    """Five convolutions of 1, 2, 4, 8 and 8 channels."""
    return network_of("vgg", regime, num_layers=8, width=8)


@functools.cache
def abstract(network):
    return jax.eval_shape(lambda: network.init(0, (1,)))


def random_params(network):
    """Drawn with numpy: to compile the drawing of every kernel takes long."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32), abstract(network))


def random_images(count, shape=SHAPE):
    return np.random.default_rng(2).integers(0, 256, (count, *shape), np.uint8)


@functools.cache
def forward(network):
    return jax.jit(lambda params, stats, images, h: network.apply(params, stats, images, h, 0))


def own_stats(network, params, images):
    """Logits and statistics of a batch."""
    return forward(network)(params, None, images, np.float32([4.2]))


@pytest.fixture(scope="module")
def vgg():
    """A small network with generated kernels, its floats, and statistics."""
    network = small_vgg("adaptive")
    params = random_params(network)
    return network, params, own_stats(network, params, random_images(4))[1]


@pytest.fixture(scope="module")
def wide(vgg):
    """A predictor of one level a depth, which takes every image for one of 4.2 nats."""
    network, params, stats = vgg
    return network.predictor(params, {5: stats}, num_levels=1, complexity=lambda images: jnp.full(len(images), 4.2))


@pytest.fixture(scope="module")
def sample(vgg):
    """A predictor with kernels of each image's own."""
    network, params, stats = vgg
    return network.predictor(params, {5: stats}, adaptation="sample")


class TestFloats:
    @pytest.mark.parametrize(("name", "c"), [("alexnet", 512), ("vgg", 512), ("resnet", 512)])
    @pytest.mark.parametrize("regime", REGIMES)
    def test_backbones(self, name, c, regime):
        """Those of the network itself; or C² + 15 C in place of its convolution kernels."""
        model = nnx.eval_shape(lambda: make_backbone(name, 10, rngs=nnx.Rngs(0)))
        whole = pj.num_floats(nnx.state(model, nnx.Param))
        kernels = sum(node.kernel.size for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Conv))
        network = network_of(name, regime)
        expected = whole if regime == "fixed" else c**2 + 15 * c + whole - kernels
        assert pj.num_floats(abstract(network)) == expected

    @pytest.mark.parametrize(
        ("initial_state", "more"), [("seeded", 0), ("constant", 0), ("learned", 9 * 8**2)], ids=lambda value: str(value)
    )
    def test_initial_states(self, initial_state, more):
        base = pj.num_floats(abstract(small_vgg("adaptive")))
        network = network_of("vgg", num_layers=8, width=8, kernels=Adaptive(initial_state=initial_state))
        assert pj.num_floats(abstract(network)) == base + more

    def test_puppet(self):
        network = PuppetCNN(classifier="generated").make(10, SHAPE)
        assert pj.num_floats(jax.eval_shape(lambda: network.init(0, (3, 5)))) == 512**2 + 15 * 512

    def test_options_of_a_backbone(self):
        """More classes, grey images and more layers change what they should."""
        plain = abstract(network_of("vgg", "fixed"))
        more = abstract(network_of("vgg", "fixed", num_classes=100))
        assert pj.num_floats(more) - pj.num_floats(plain) == 90 * 513
        grey = abstract(network_of("vgg", "fixed", shape=(32, 32, 1)))
        assert pj.num_floats(plain) - pj.num_floats(grey) == 2 * 9 * 64
        deeper = abstract(network_of("vgg", "fixed", num_layers=12))
        assert len(deeper) - len(plain) == 3  # a kernel, a scale, a bias


class TestForward:
    def test_one_and_several_sets(self, vgg):
        """Sets of one complexity are one set; of two complexities, each serves its half of the batch."""
        network, params, stats = vgg
        run, images = forward(network), random_images(4)
        low, high = (np.asarray(run(params, stats, images, np.float32([h]))[0]) for h in (4.0, 5.3))
        same, mixed = (np.asarray(run(params, stats, images, np.float32(h))[0]) for h in ([4.0, 4.0], [4.0, 5.3]))
        np.testing.assert_allclose(same, low, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mixed, np.concatenate([low[:2], high[2:]]), rtol=1e-4, atol=1e-5)
        assert np.abs(low - high).max() > 1e-3

    @pytest.mark.parametrize("regime", ["fixed", "adaptive"])
    def test_statistics(self, regime):
        """In training the batch's own, which in evaluation give the same logits; in evaluation those that are given."""
        network = small_vgg(regime)
        params, images, h = random_params(network), random_images(4), np.float32([4.2])
        logits, own = own_stats(network, params, images)
        assert jax.tree.structure(own) == jax.tree.structure(network.init_stats(0))
        assert len(own) == 5
        again, used = forward(network)(params, own, images, h)
        np.testing.assert_allclose(again, logits, rtol=1e-4, atol=1e-5)
        assert all(np.array_equal(one, other) for one, other in zip(*map(jax.tree.leaves, (used, own)), strict=True))
        others, _ = forward(network)(params, jax.tree.map(lambda leaf: 2 * leaf, own), images, h)
        assert np.abs(others - logits).max() > 1e-3

        if regime == "fixed":
            (kernel,) = (leaf for name, leaf in params.items() if "stages.0.0.conv" in name)
        else:
            (kernel,) = pj.generate_kernels(network.generator(params), h[0], [(3, 3, 3, 1)])
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(centred(images), kernel, (1, 1), "SAME", dimension_numbers=dimensions)
        first = own[min(own)]
        np.testing.assert_allclose(first.mean, x.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(first.variance, x.var(axis=(0, 1, 2)), rtol=1e-4)

    def test_without_batch_norm(self):
        """AlexNet has no statistics, and computes the same in training and in evaluation."""
        network = network_of("alexnet", "fixed", width=8)
        params, images, h = random_params(network), random_images(2), np.float32([1])
        assert network.init_stats(5) == {}
        training, none = forward(network)(params, None, images, h)
        evaluation, also_none = forward(network)(params, {}, images, h)
        assert none == also_none == {}
        np.testing.assert_allclose(training, evaluation, rtol=1e-6)
        assert np.ptp(training, axis=0).max() > 1e-3


class TestParts:
    def test_the_puppeteer_generates_the_kernels(self, vgg):
        network, params, _ = vgg
        puppeteer = network.generator(params)
        mine = {name: leaf for name, leaf in params.items() if name.startswith("puppeteer.")}
        assert sorted(map(jnp.shape, jax.tree.leaves(puppeteer))) == sorted(map(jnp.shape, mine.values()))
        np.testing.assert_array_equal(puppeteer.pointwise_kernel, params["puppeteer.pointwise_kernel"])
        kernels = jax.jit(network.generate)(params, jnp.float32(4.5))
        in_order = pj.generate_kernels(puppeteer, 4.5, [kernel.shape for kernel in kernels])
        for one, other in zip(kernels, in_order, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert small_vgg("fixed").generator({}) is None

    def test_matrices(self, vgg):
        network, params, _ = vgg
        decaying = {name.split(".", 1)[1] for name, matrix in network.matrices(params).items() if matrix}
        heads = {name.split(".", 1)[1] for name in params if name.endswith("kernel") and "head" in name}
        assert len(heads) == 3
        assert decaying == {"depthwise_kernel", "pointwise_kernel"} | heads

    @pytest.mark.parametrize("config", [Transformer(name="vit"), HyperWRN()], ids=["vit", "hyper-wrn"])
    def test_biases_are_no_matrices(self, config):
        """Those of attention have two axes, (heads, floats of a head), those of a hypernetwork (groups, floats)."""
        network = config.make(10, (32, 32, 3))
        params = jax.eval_shape(lambda: network.init(0, (network.depth,)))
        matrices = network.matrices(params)
        biases = [name for name in params if name.endswith("bias")]
        assert any(params[name].ndim > 1 for name in biases)
        assert not any(matrices[name] for name in biases)
        assert all(matrices[name] for name, leaf in params.items() if leaf.ndim > 1 and name not in biases)

    def test_matrices_of_a_puppet(self):
        network = PuppetCNN(channels=(4, 8), affine=True).make(10, SHAPE)
        matrices = network.matrices(jax.eval_shape(lambda: network.init(0, (2,))))
        assert matrices.puppeteer.pointwise_kernel
        assert matrices.classifier_kernel
        assert not matrices.classifier_bias
        assert not any(jax.tree.leaves((matrices.norm_scale, matrices.norm_bias)))

    @pytest.mark.parametrize("puppetized", [False, True], ids=["layers", "puppetized"])
    @pytest.mark.parametrize("kind", sorted(GENERATORS))
    def test_matrices_of_generators(self, kind, puppetized):
        """Weight decay and few bits are for most of the floats of each, those of vectors among them."""
        size = {"max_channels": 40}
        kernels = FrozenBasis(**size) if kind == "frozen_basis" else OtherGenerator(generator=kind, **size)
        layers = PuppetCNN(channels=(8, 16), kernels=kernels, depth=OneDepth(layers=(1, 1)))
        config = Puppetized(plain=ResNet8(width=24), kernels=kernels) if puppetized else layers
        network = config.make(10, SHAPE)
        params = jax.eval_shape(lambda: network.init(0, (network.depth,)))
        matrices = network.matrices(params)
        sizes = jax.tree.map(lambda leaf, matrix: leaf.size if matrix else 0, params, matrices)
        if puppetized:
            assert not matrices["gains"]
            own = {name: size for name, size in sizes.items() if name.startswith("puppeteer.")}
        else:
            own = sizes.puppeteer
        assert sum(jax.tree.leaves(own)) > 0.9 * pj.num_floats(network.generator(params))

    def test_matrices_of_an_early_exit(self):
        network = CONFIGS["early exit"].make(10, SHAPE)
        matrices = network.matrices(jax.eval_shape(lambda: network.init(0, (3,))))
        assert matrices.puppet.puppeteer.pointwise_kernel
        assert matrices.exit.kernel
        assert not matrices.exit.bias
        assert not matrices.puppet.classifier_bias

    @pytest.mark.parametrize("regime", ["fixed", "puppet"])
    def test_macs(self, regime):
        """AlexNet of 1, 3, 6, 4, 4 channels, by hand; five steps of a state of 8 channels."""
        network = network_of("alexnet", regime, width=8)
        params = random_params(network)
        convs = 27 * 1 * 32**2 + 9 * 3 * 16**2 + (27 * 6 + 54 * 4 + 36 * 4) * 8**2
        generator, own = network.macs(params, network.depth)
        assert own == convs + 4 * 8 + 2 * 8 * 8 + 8 * 10
        assert generator == (0 if regime == "fixed" else 5 * (8**2 + 11 * 8) * 8 * 9)
        if regime == "puppet":
            kernels = jax.eval_shape(lambda: network.generate(params, jnp.float32(4)))
            run = lambda kernels, image: network.apply_with(params, {}, kernels, image)  # noqa: E731
            assert count_macs(run, kernels, random_images(1)) == own

    def test_macs_of_kernels_wider_than_the_state(self):
        """Of 6 channels that a state of 4 is read for, in two steps each: 1, 1, 2, 2 and 1 steps."""
        network = network_of("alexnet", kernels=Generated(max_channels=4), width=8)
        assert network.macs(abstract(network), network.depth)[0] == 7 * (4**2 + 11 * 4) * 4 * 9

    def test_depth_is_the_number_of_convolutions(self):
        assert [network_of(name).depth for name in ("alexnet", "vgg", "resnet")] == [5, 8, 21]
        images = np.stack([np.zeros(SHAPE, np.uint8), random_images(1)[0]])
        config = Config(network=RECORDS["vgg"](name="vgg", kernels=Adaptive()))
        found = measure_complexities(config, network_of("vgg"), images)
        assert found.depths.tolist() == [8, 8]
        assert np.ptp(found.h) > 4

    def test_depth_of_a_puppet(self):
        assert PuppetCNN().make(10, SHAPE).depth is None
        assert PuppetCNN(depth=OneDepth(layers=(1, 2, 3, 4))).make(10, SHAPE).depth == 10


class TestCheck:
    @pytest.mark.parametrize(
        ("name", "regime", "pixels"),
        [
            ("vgg", "adaptive", 31),
            ("alexnet", "fixed", 7),
            *(pytest.param(*case, marks=pytest.mark.slow) for case in [("vgg", "fixed", 31), ("resnet", "puppet", 1)]),
        ],
    )
    def test_images_that_are_too_small(self, name, regime, pixels):
        network = network_of(name, regime, width=8, shape=(pixels + 1, pixels + 1, 3))
        check_apply(network, 0, (network.depth,))
        network = network_of(name, regime, width=8, shape=(pixels, pixels, 3))
        with pytest.raises((RunError, ValueError), match="too small"):
            check_apply(network, 0, (network.depth,))

    def test_of_a_puppet(self):
        check_apply(PuppetCNN().make(10, (8, 8, 3)), 0, (1, 2))
        with pytest.raises(RunError, match="7"):
            check_apply(PuppetCNN().make(10, (7, 7, 3)), 0, (1, 2))

    @pytest.mark.parametrize(
        ("name", "num_layers", "message"), [("resnet", 11, "even"), ("vgg", 7, "at least 8"), ("resnet20", 9, "6 n")]
    )
    @pytest.mark.parametrize("regime", ["fixed", "adaptive"])
    def test_numbers_of_layers_that_a_network_refuses(self, name, num_layers, message, regime):
        with pytest.raises((RunError, ValueError), match=message):
            check_apply(network_of(name, regime, num_layers=num_layers), 0, (5,))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"depth": OneDepth(layers=(1, 2))}, "layers"),
            ({"channels": (7, 8), "mirror": True, "depth": OneDepth(layers=(1, 2))}, "mirror"),
            (
                {"channels": (8,), "depth": OneDepth(layers=(4,)), "kernels": FrozenBasis(max_channels=1)},
                "num_floats must be at least 64 for 4 kernels",
            ),
        ],
        ids=["layers", "mirror", "coefficients"],
    )
    def test_puppets_that_cannot_be(self, options, message):
        with pytest.raises((RunError, ValueError), match=message):
            network = PuppetCNN(**options).make(10, (8, 8, 3))
            check_apply(network, 0, (network.depth,))


PUPPET = {"channels": (4, 8), "depth": OneDepth(layers=(1, 2))}
CONFIGS = {
    "puppet": PuppetCNN(
        channels=(4, 8),
        depth=ByComplexity(rule="total"),
        kernels=Adaptive(max_channels=9),
        kernel_size=5,
        affine=True,
        residual=True,
    ),
    "generated classifier": PuppetCNN(
        channels=(4, 8), classifier="generated", kernels=Adaptive(initial_state="learned", scale=0.3)
    ),
    "velocity": PuppetCNN(**PUPPET, kernels=Generated(kernels_from="velocity")),
    "early exit": PuppetCNN(
        channels=(4, 8), depth=ByConfidence(layers=(1, 2), exit_layer=2, fraction=0.3), kernels=Generated()
    ),
    "ordinary": PuppetCNN(**PUPPET, kernels=Ordinary()),
    "frozen basis": PuppetCNN(**PUPPET, kernels=FrozenBasis(pattern_seed=5)),
    "fixed": RECORDS["vgg"](name="vgg", kernels=Ordinary(), width=8, num_layers=8),
    "adaptive": RECORDS["vgg"](name="vgg", width=8, num_layers=8, kernels=Adaptive(pattern_seed=7, scale=0.3)),
}


class TestDescriptions:
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    def test_round_trip(self, config):
        """All that is stored; how a network is trained is not."""
        network = config.make(7, (32, 34, 3))
        restored = read_network(json.loads(json.dumps(describe_network(network))))
        trained = {field.name for field in dataclasses.fields(network) if not field.metadata.get("stored", True)}
        assert trained <= {"dtype", "exit_fraction"}
        assert dataclasses.replace(restored, **{name: getattr(network, name) for name in trained}) == network
        assert read_network(describe_network(restored)) == restored
        assert hash(read_network(describe_network(restored))) == hash(restored)
        assert (restored.num_classes, restored.image_shape) == (7, (32, 34, 3))

    def test_regimes_share_a_network(self):
        """What follows complexity is a matter of training, not of the network."""
        assert small_vgg("puppet") == small_vgg("adaptive") != small_vgg("fixed")

    @pytest.mark.parametrize("change", [{"kind": "perceptron"}, {"name": None, "extra": 1}, {"puppeteer": {"x": 1}}])
    def test_of_nothing(self, change):
        with pytest.raises((TypeError, ValueError)):
            read_network(describe_network(small_vgg("adaptive")) | change)
        with pytest.raises(ValueError, match="the kind of a network is one of puppet, early_exit, .*, got None"):
            read_network({})


def make_model(regime, name="vgg"):
    network = small_vgg(regime) if name == "vgg" else network_of(name, regime, width=8)
    return Model(
        network=network,
        params=random_params(network),
        batch_stats={network.depth: jax.tree.map(lambda leaf: leaf + 0.25, network.init_stats(0))},
        class_names=tuple("0123456789"),
        adaptation="level",
        num_levels=3,
        complexity=pj.CalibratedComplexity(0.0, 1.0) if regime == "fixed" else pj.CalibratedComplexity(),
        step=4,
    )


class TestModelFile:
    @pytest.mark.parametrize(("regime", "name"), [("fixed", "vgg"), ("adaptive", "vgg"), ("fixed", "alexnet")])
    def test_round_trip_is_exact(self, tmp_path, regime, name):
        model = make_model(regime, name)
        path = tmp_path / "model.safetensors"
        save_model(path, model)
        loaded = load_model(path)
        for field in dataclasses.fields(Model):
            if field.name not in ("params", "batch_stats"):
                assert getattr(loaded, field.name) == getattr(model, field.name)
        for one, other in ((loaded.params, model.params), (loaded.batch_stats, model.batch_stats)):
            assert jax.tree.structure(one) == jax.tree.structure(other)
            pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
            assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)

        with safe_open(path, framework="numpy") as file:
            meta = json.loads(file.metadata()["puppet_jax"])
            stored = sum(file.get_tensor(key).size for key in file.keys())
        assert stored == pj.num_floats((model.params, model.batch_stats))
        puppeteer = model.network.generator(model.params)
        assert meta["pattern_sha256"] == pattern_hash(puppeteer)
        assert (puppeteer is None) == (regime == "fixed")

    @pytest.mark.parametrize("bits", [32, 8, 4])
    @pytest.mark.parametrize("kind", ["puppet", "layers", "backbone"])
    def test_reported_bytes_are_those_of_the_file(self, tmp_path, kind, bits):
        """Of the generator and of all trainable floats; in few bits without biases that no kernel depends on."""
        kernels = Generated(max_channels=16)
        config = {
            "puppet": PuppetCNN(channels=(64,), depth=OneDepth(layers=(2,)), kernels=kernels),
            "layers": Puppetized(plain=ResNet8(width=32), kernels=kernels),
            "backbone": RECORDS["vgg"](name="vgg", num_layers=8, width=8, kernels=kernels),
        }[kind]
        network = config.make(100, SHAPE)  # a classifier larger than the matrix of the puppeteer
        params, depth = network.init(0, (network.depth,)), network.depth
        model = dataclasses.replace(
            make_model("fixed"),
            network=network,
            params=params,
            batch_stats={depth: network.init_stats(depth)},
            class_names=tuple(map(str, range(100))),
            bits=bits,
        )
        save_model(tmp_path / "model", model)
        with safe_open(tmp_path / "model", framework="numpy") as file:
            sizes = {name: file.get_tensor(name).nbytes for name in file.keys()}
        parameters = {name: size for name, size in sizes.items() if not name.endswith(("mean", "var", "variance"))}
        own = sum(size for name, size in parameters.items() if name.startswith("puppeteer."))
        assert model.stored_bytes() == (own, sum(parameters.values()))
        idle = any(name.startswith("puppeteer.norm1_bias") for name in parameters)
        assert idle == (bits == 32)

    def test_another_pattern(self, tmp_path):
        path = tmp_path / "model.safetensors"
        save_model(path, make_model("adaptive"))
        with safe_open(path, framework="numpy") as file:
            arrays, meta = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()["puppet_jax"]
        meta = json.loads(meta)
        save_file(arrays, path, metadata={"puppet_jax": json.dumps(signed(meta | {"pattern_sha256": None}, arrays))})
        with pytest.raises(RunError, match="another frozen pattern"):
            load_model(path)
        meta["network"]["num_layers"] = 7
        save_file(arrays, path, metadata={"puppet_jax": json.dumps(signed(meta, arrays))})
        with pytest.raises(RunError, match="num_layers must be at least 8"):
            load_model(path)


class TestPredictor:
    H = np.float32([4.0, 5.2, 4.03, 4.6])

    def test_order(self, sample):
        logits, depths = sample.route(random_images(4), self.H)
        assert depths.tolist() == [5] * 4
        assert (logits.shape, logits.dtype) == ((4, 10), np.float32)
        order = np.array([3, 0, 1, 2])
        again = sample(random_images(4)[order], self.H[order])
        np.testing.assert_allclose(again, logits[order], rtol=1e-4, atol=1e-5)
        assert np.ptp(logits, axis=0).max() > 1e-2

    @pytest.mark.parametrize("h", [H[:1], H[:3], np.float32(4.5)])
    def test_as_many_complexities_as_images(self, wide, sample, h):
        for predictor in (wide, sample):
            with pytest.raises(ValueError, match=r"one complexity per image, shape \(4,\), got shape"):
                predictor.route(random_images(4), h)

    def test_each_image_on_its_own(self, wide):
        logits = wide(random_images(4), self.H)
        for i in (0, 1):
            alone = wide(random_images(4)[i : i + 1], self.H[i : i + 1])
            np.testing.assert_allclose(alone, logits[i : i + 1], rtol=1e-4, atol=1e-5)

    def test_a_level_has_the_kernels_of_its_centre(self, wide, sample):
        logits = wide(random_images(4), self.H)
        centres = np.float32([np.mean(pj.depth_interval(depth)) for depth in np.asarray(pj.depth(self.H)).tolist()])
        np.testing.assert_allclose(logits, sample(random_images(4), centres), rtol=1e-3, atol=1e-4)
        assert np.abs(logits - sample(random_images(4), self.H)).max() > 1e-3

    def test_measures_what_is_not_given(self, wide):
        np.testing.assert_array_equal(wide(random_images(4)), wide(random_images(4), np.full(4, 4.2, np.float32)))

    def test_stored_kernels_ignore_complexity(self):
        network = network_of("alexnet", "fixed", width=8)
        images = random_images(3)

        def refuses(images):
            raise AssertionError("complexity was measured")

        predictor = network.predictor(random_params(network), {5: {}}, adaptation="sample", complexity=refuses)
        logits = predictor(images)
        np.testing.assert_array_equal(predictor(images, np.float32([0.1, 4, 5.5])), logits)
        np.testing.assert_allclose(predictor(images[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)
        assert np.ptp(logits, axis=0).max() > 1e-3

    def test_unknown_adaptation(self, vgg):
        network, params, stats = vgg
        with pytest.raises(ValueError, match="'level' or 'sample', got 'both'"):
            network.predictor(params, {5: stats}, adaptation="both")
