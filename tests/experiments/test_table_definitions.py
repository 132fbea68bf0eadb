"""What the tables are made of, and what the papers print."""

import jax
import pytest

import puppet_jax as pj
from experiments.baselines import BASELINES
from experiments.cifar10 import BEST, PAPER, SMALL
from experiments.config import Adaptive, FrozenBasis, Generated, Ordinary, PuppetCNN
from experiments.fields import as_json, flat, replace
from experiments.model import bits_of
from experiments.networks.puppetized import PuppetizedNetwork
from experiments.tables import papers
from experiments.tables.__main__ import Command
from experiments.tables.definitions import TRAINED
from experiments.tables.rows import scaled
from puppet_jax import extras


class TestScaled:
    def test_the_whole_budget_is_the_protocol(self):
        for config in (PAPER, SMALL, BEST):
            assert scaled(config, 1, 0) == config
            assert scaled(config, 1, 7) == replace(config, seed=7)

    @pytest.mark.parametrize(("budget", "epochs"), [(0.5, 400), (0.00125, 1), (0.002, 2)])
    def test_a_share_of_the_epochs(self, budget, epochs):
        assert scaled(PAPER, budget, 3) == replace(PAPER, epochs=epochs, seed=3)

    def test_less_than_an_epoch_is_a_share_of_the_images(self):
        expected = replace(PAPER, epochs=1, num_images=3_200, num_validation=800, num_test=1_000)
        assert scaled(PAPER, 0.0005, 0) == expected
        assert scaled(replace(PAPER, epochs=1), 0.5, 0).data.num_images == 4_000

    def test_never_less_than_a_batch(self):
        config = scaled(PAPER, 1e-9, 0)
        assert (config.data.num_images, config.data.num_validation, config.optim.epochs) == (64, 64, 1)

    def test_is_never_more_than_the_protocol(self):
        config = replace(PAPER, num_validation=10, num_images=70)
        small = scaled(config, 1e-9, 0)
        assert small.data.num_validation <= 10
        assert small.data.num_images == 64


class TestDefinitions:
    ALL = [(name, row) for name, table in TRAINED.items() for row in table().rows]
    CLASSES = {"cifar10": (10, (32, 32, 3)), "cifar100": (100, (32, 32, 3)), "mini_imagenet": (100, (64, 64, 3))}
    AVAILABLE = {"cifar10": 50_000, "cifar100": 50_000, "mini_imagenet": 54_000}

    def test_every_row_has_a_network(self):
        wanted = {(row.config.network, row.experiment) for _, row in self.ALL}
        networks = {config.make(*self.CLASSES[experiment]) for config, experiment in wanted}
        assert len(networks) > 20
        baselines = {record.make(10, (32, 32, 3)) for record in BASELINES.values()}  # see test_baselines
        for network in networks - baselines:
            if isinstance(network, PuppetizedNetwork):  # see test_puppetized
                continue
            height, width, _ = network.image_shape
            if isinstance(puppet := getattr(network, "puppet", None), pj.Puppet):
                puppet.check_image_size(height, width)
            assert network.depth is None or network.depth > 0

    def test_every_row_has_its_images(self):
        for name, row in self.ALL:
            for budget in (1, 0.5, TRAINED[name]().smoke):
                config = scaled(row.config, budget, 0)
                left = self.AVAILABLE[row.experiment] - config.data.num_validation
                images = config.data.num_images or left  # None: all that are left
                assert config.optim.batch_size <= images <= left

    @pytest.mark.parametrize("name", TRAINED)
    def test_rows_differ(self, name):
        rows = TRAINED[name]().rows
        assert len({row.label for row in rows}) == len(rows)
        assert len({(row.experiment, row.config) for row in rows}) == len(rows)

    def test_are_those_of_the_command(self):
        names = set(Command.__annotations__["name"].__args__[0].__args__)
        assert names == {*TRAINED, "channels", "sizes", "depths"}

    def test_smoke_runs_are_small(self):
        """Some tens of thousands of images a table of backbones; an epoch of the ablation is cheap."""
        for table in (TRAINED[name]() for name in ("backbones", "operations", "training_sets", "datasets")):
            configs = [scaled(row.config, table.smoke, 0) for row in table.rows]
            assert all(config.optim.epochs == 1 for config in configs)
            assert sum(config.data.num_images for config in configs) < 60_000

    def test_regimes(self):
        rows = {row.label: row.config for row in TRAINED["backbones"]().rows}
        assert len(rows) == 9
        regimes = [(config.network.name, type(config.network.kernels)) for config in rows.values()]
        assert regimes[:3] == [("alexnet", Ordinary), ("alexnet", Generated), ("alexnet", Adaptive)]
        for config in rows.values():
            assert (config.optim.epochs, config.data.num_images, config.optim.batch_size) == (800, 8_000, 64)

    def test_full_training_sets(self):
        rows = {row.label: row.config for row in TRAINED["training_sets"]().rows}
        for label, config in rows.items():
            images = (8_000, 2_000) if label.endswith("partial") else (45_000, 5_000)
            assert (config.data.num_images, config.data.num_validation) == images

    def test_shared_rows_share_runs(self):
        """So that nothing is trained twice."""
        backbones = {row.config for row in TRAINED["backbones"]().rows}
        partial = {row.config for row in TRAINED["training_sets"]().rows if row.label.endswith("partial")}
        assert partial < backbones

    EQUAL = TRAINED["equal_bytes"]().rows
    SIZES = {"C = 64": EQUAL[:5], "C = 128": EQUAL[5:9], "C = 512": EQUAL[9:]}

    @pytest.mark.parametrize("size", SIZES)
    def test_equal_bytes_is_fair(self, size):
        """As many floats within a tenth; the same images, as often, in the same batches."""
        rows = self.SIZES[size]
        assert size in rows[0].label
        floats = []
        for row in rows:
            network = row.config.network.make(10, (32, 32, 3))
            params = jax.eval_shape(lambda network=network: network.init(0, [network.depth]))
            floats.append(pj.num_floats(params))
        assert max(floats) < 1.1 * min(floats)
        assert len({(row.config.data, row.config.optim.epochs, row.config.optim.batch_size) for row in rows}) == 1
        assert len({row.config.optim.label_smoothing for row in rows}) == 1

    def stored(self, row):
        """Bytes of a row's trainable floats in its bits, and multiply-accumulates of its network."""
        network = row.config.network.make(10, (32, 32, 3))
        params = jax.eval_shape(lambda: network.init(0, [network.depth]))
        size = extras.quantized_bytes(params, bits_of(network, params, row.config.bits))
        return size, network.macs(params, network.depth)[1]

    def test_few_products_is_fair(self):
        """No more than 23.4 kB and 20 million multiply-accumulates; as many images, as often, in the same batches."""
        rows = TRAINED["few_products"]().rows
        sizes, products = zip(*map(self.stored, rows), strict=True)
        assert sizes[0] == min(sizes) and max(sizes) <= 23_400  # nobody has fewer than the puppet
        assert max(products) <= 20e6
        configs = [replace(row.config, augment="none") for row in rows]
        assert len({(config.data, config.optim.epochs, config.optim.batch_size) for config in configs}) == 1

    def test_few_bytes_is_fair(self):
        """As many bytes within 3 %; the same images, as often, in the same batches and bits."""
        rows = TRAINED["few_bytes"]().rows
        sizes, products = zip(*map(self.stored, rows), strict=True)
        assert 0.97 * 7_010 < min(sizes) <= max(sizes) <= 7_010
        assert max(products) <= 25e6
        alike = {
            (row.config.data, row.config.optim.epochs, row.config.optim.batch_size, row.config.bits) for row in rows
        }
        assert len(alike) == 1

    @pytest.mark.parametrize("size", SIZES)
    def test_equal_bytes_compares_every_kind(self, size):
        rows = self.SIZES[size]
        puppets = [row.config.network for row in rows if isinstance(row.config.network, PuppetCNN)]
        assert {type(puppet.kernels) for puppet in puppets} == {Generated, FrozenBasis, Ordinary}
        assert len({puppet.depth for puppet in puppets}) == 1
        (residual,) = (row.config.network for row in rows if not isinstance(row.config.network, PuppetCNN))
        assert (residual.name, type(residual.kernels)) == ("resnet20", Ordinary)

    def test_ablation_changes_one_thing(self):
        """An option; or of what adapts, kernels or depth or both, with the options that go with them."""
        first, *others = TRAINED["ablation"]().rows
        before = flat(as_json(first.config))
        of_kernels = {"kernels", "sharing", "num_levels", "levels_per_batch"}
        adaptations = {"none": {*of_kernels, "depths"}, "of parameters": {"depths"}, "of depth": of_kernels}
        seen = set()
        for row in others:
            after = flat(as_json(row.config))
            changed = {name for name in before | after if before.get(name) != after.get(name)}
            if row.label.startswith("adaptation "):
                what = row.label.removeprefix("adaptation ")
                assert changed == adaptations[what]
                seen.add(what)
                kernels, depths = type(row.config.network.kernels), row.config.network.depth.depths
                assert kernels is (Adaptive if what == "of parameters" else Generated)
                assert depths is None if what == "of depth" else depths[0] == depths[1]
            else:
                assert len(changed) == 1
        assert seen == adaptations.keys()

    @pytest.mark.parametrize(
        ("table", "label", "printed"),
        [
            ("backbones", "AlexNet", (0.6586, 0.9205, 11.65)),
            ("backbones", "AlexNet + puppeteer-puppet", (0.6933, 0.9405, 1.08)),
            ("backbones", "VGG + parameter adaptation", (0.6842, 0.9013, 1.08)),
            ("backbones", "ResNet + parameter adaptation", (0.6825, 0.9431, 1.08)),
            ("operations", "ResNet", (0.6894, 0.9517, 44.84)),
            ("operations", "Puppet-CNN", (0.7251, 0.9685, 1.08)),
            ("training_sets", "VGG, full", (0.8105, 0.9537, 39.01)),
            ("training_sets", "ResNet + puppeteer-puppet, full", (0.8047, 0.9670, 1.08)),
            ("training_sets", "ResNet + puppeteer-puppet, partial", (0.6669, 0.9546, 1.08)),
            ("datasets", "AlexNet, CIFAR-100", (0.4146, 0.6767, 11.84)),
            ("datasets", "Puppet-CNN, CIFAR-100", (0.5326, 0.7963, 1.08)),
            ("datasets", "VGG, mini-ImageNet", (0.3295, 0.5994, 39.20)),
            ("datasets", "Puppet-CNN, mini-ImageNet", (0.4646, 0.7438, 1.08)),
        ],
    )
    def test_the_papers_figures(self, table, label, printed):
        (row,) = (row for row in TRAINED[table]().rows if row.label == label)
        assert (row.paper["top1"], row.paper["top5"], row.paper["mb"]) == printed

    def test_the_papers_operations(self):
        rows = {row.label: row.paper for row in TRAINED["operations"]().rows}
        assert {label: (row["gmacs"], row["s_per_image"]) for label, row in rows.items()} == {
            "ResNet": (11.40, 0.0019),
            "Puppet-ResNet": (23.44, 0.0061),
            "Puppet-CNN": (12.34, 0.0039),
        }


def test_the_papers_sizes_are_those_they_print():
    assert papers.SIZES_MB == {
        **{"alexnet": 11.65, "vgg": 39.01, "resnet": 44.84, "puppet": 1.08},
        **{"mobilenet_v1": 7.52, "mobilenet_v2": 8.90, "squeezenet": 3.96},
    }
    assert papers.CHANNELS[128] == (0.17, 0.07)
    assert papers.CHANNELS[256] == (0.66, 0.28)
    assert papers.CHANNELS[1024] == (10.50, 4.26)
    assert papers.CHANNELS[2048] == (41.97, 16.90)
