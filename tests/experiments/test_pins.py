"""Networks, presets and tables are what they were when they were recorded (`tests/pins`)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import quick
from pictures import photo

import puppet_jax as pj
from experiments import cifar10, cifar100, digits, mini_imagenet
from experiments.config import (
    Adaptive,
    Backbone,
    ByComplexity,
    ByConfidence,
    Config,
    DeepBackbone,
    FrozenBasis,
    Generated,
    OneDepth,
    Optim,
    Ordinary,
    PuppetCNN,
)
from experiments.fields import replace
from experiments.tables.definitions import TRAINED
from experiments.training.step import Data, init_state, make_train_step

FOLDER = Path(__file__).parents[1] / "pins"
STEPS, SNAPSHOT = (json.loads((FOLDER / f"{name}.json").read_text()) for name in ("steps", "snapshot"))
TABLES = {name: {row.label: row for row in table().rows} for name, table in TRAINED.items()}
EQUAL, ABLATION = ({label: row.config for label, row in TABLES[name].items()} for name in ("equal_bytes", "ablation"))

QUICK = ("digits", "slim, mirrored")
"""The others take minutes to compile in all."""
CASES: dict[str, Config] = {
    "digits": digits.DIGITS,
    "small": cifar10.SMALL,
    "best": cifar10.BEST,
    "ablation: initial state learned": ABLATION["initial state learned"],
    "ablation: initial state constant": ABLATION["initial state constant (Eq. 11)"],
    "ablation: none": ABLATION["adaptation none"],
    "ablation: depth": ABLATION["adaptation of depth"],
    "ablation: total": ABLATION["depth rule total"],
    "early exit": cifar10.EARLY_EXIT,
    "best, 4 bits": replace(cifar10.BEST, bits=4),
    "best, 8 bits": replace(cifar10.BEST, bits=8),
    "frozen basis": EQUAL["the same layers, frozen random basis"],
    "slim, mirrored": EQUAL["the same layers, slim, ordinary weights"],
    "residual": EQUAL["residual network of 8 layers, 24 kB"],
    "adaptive": cifar10.ADAPTIVE,
    "per sample": replace(cifar10.SMALL, sharing="sample"),
    "resnet20 generated": replace(
        EQUAL["residual network of 8 layers, 24 kB"],
        kernels=Adaptive(kernels_from="state", levels_per_batch=2),
    ),
    "generated classifier": replace(cifar10.SMALL, classifier="generated"),
    "crop_flip and cutout": replace(cifar10.BEST, augment="crop_flip", cutout=12),
    "vgg fixed": cifar10.PRESETS["vgg-fixed"],
    "alexnet puppet": cifar10.PRESETS["alexnet-puppet"],
    "cifar100 full": cifar100.FULL,
    "full": cifar10.FULL,
    "narrow": replace(cifar10.BEST, channels=(64, 128, 256), max_channels=512),
    "paper": cifar10.PAPER,
    "resnet adaptive": cifar10.PRESETS["resnet-adaptive"],
}


def first_step(config: Config, pin: dict, num_classes: int, shape: tuple[int, int, int]) -> tuple[int, float, float]:
    """Floats of the network; loss and gradient norm of its first step on eight images."""
    network = config.network.make(num_classes, shape)
    images = np.stack([np.roll(photo(*shape), i, axis=(0, 1)) for i in range(8)])
    data = Data(jnp.asarray(images), jnp.arange(8) % num_classes, jnp.asarray(pin["h"], jnp.float32))

    def update(grads, state, params=None):
        return jax.tree.map(jnp.zeros_like, grads), optax.tree.norm(grads)

    norm = optax.GradientTransformation(lambda params: jnp.zeros(()), update)
    state = init_state(config, network, (pin["depth"],), norm)
    floats = pj.num_floats(state.params)
    state, metrics = make_train_step(config, network, norm)(
        state, data, np.arange(8, dtype=np.int32), depth=pin["depth"]
    )
    return floats, float(metrics["loss"]), float(state.opt_state)


@pytest.mark.parametrize("name", quick(CASES, *QUICK))
def test_first_step(name):
    pin, config = STEPS[name], CASES[name]
    if isinstance(getattr(config.network, "kernels", None), Adaptive):
        config = replace(config, levels_per_batch=min(2, config.network.kernels.levels_per_batch))
    shape = (8, 8, 1) if name == "digits" else (32, 32, 3)
    floats, loss, norm = first_step(replace(config, batch_size=8), pin, 100 if name == "cifar100 full" else 10, shape)
    assert floats == pin["floats"]
    # other processors sum in another order; bfloat16 has eight bits
    rtol = 2e-2 if "full" in name else 2e-3
    np.testing.assert_allclose([loss, norm], [pin["loss"], pin["gradient_norm"]], rtol=rtol)


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


def of_02d1016(config: Config) -> dict:
    """The fields that commit 02d1016 had for this configuration, as far as they mean something for it."""
    network, data, optim = config.network, config.data, config.optim
    fields = vars(data) | vars(optim) | {"bits": config.bits, "seed": config.seed, "start_from": config.start_from}
    kernels = network.kernels
    kinds = {Generated: "generated", Adaptive: "generated", Ordinary: "stored", FrozenBasis: "combined"}
    fields["kernels"] = kinds[type(kernels)]
    if isinstance(kernels, Generated):
        names = ("initial_state", "pattern_seed", "scale", "kernels_from")
        fields |= {name: getattr(kernels, name) for name in names}
    if isinstance(kernels, Adaptive):
        fields |= {
            "num_levels": kernels.levels_per_batch, "num_slices": kernels.num_levels, "adaptation": kernels.sharing
        }  # fmt: skip
    if isinstance(network, Backbone):
        fields |= {"network": network.name, "max_channels": network.width}
        return fields | ({"num_layers": network.num_layers} if isinstance(network, DeepBackbone) else {})
    names = ("channels", "kernel_size", "residual", "dropout", "mirror", "affine", "classifier", "dtype")
    fields |= {name: getattr(network, name) for name in names} | {"network": "puppet"}
    if not isinstance(kernels, Ordinary):
        fields["max_channels"] = kernels.max_channels
    depth = network.depth
    if isinstance(depth, ByComplexity):
        return fields | {"depth_rule": depth.rule, "stem": depth.stem, "spread": depth.depths}
    if isinstance(depth, OneDepth):
        return fields | {"spread": (sum(depth.layers),) * 2, "adapt": "none"}
    assert isinstance(depth, ByConfidence)
    spread = (depth.exit_layer, sum(depth.layers))
    exits = {"deep_share": depth.fraction, "own_exit": True, "detach_exit": True, "depth_rule": "last"}
    return fields | exits | {"spread": spread, "adapt": "doubt"}


def differing(config: Config, recorded: dict) -> set[str]:
    fields = json.loads(json.dumps(of_02d1016(config)))
    return {name for name, value in fields.items() if recorded[name] != value}


@pytest.mark.parametrize("name", sorted(SNAPSHOT["presets"]))
def test_preset(name):
    assert differing(PRESETS[name], SNAPSHOT["presets"][name]) == set()


def test_early_exit_preset():
    recorded = SNAPSHOT["rows"]["exits64_last:layers 1-1-3, those in doubt on to 1-1-6"]["config"]
    assert differing(cifar10.EARLY_EXIT, recorded) == set()


# the depth that the mean complexity of CIFAR-10 has is written out now
MADE_EXPLICIT = {"ablation:adaptation none": {"spread"}, "ablation:adaptation of parameters": {"spread"}}
PAPERS = [name for name in SNAPSHOT["rows"] if name.split(":")[0] in TABLES]


@pytest.mark.parametrize("name", PAPERS)
def test_row_of_the_papers(name):
    table, label = name.split(":", 1)
    row, recorded = TABLES[table][label], SNAPSHOT["rows"][name]
    assert (row.experiment, row.paper) == (recorded["experiment"], recorded["paper"])
    assert differing(row.config, recorded["config"]) == MADE_EXPLICIT.get(name, set())


RECORDED_AS = {
    "Puppet-CNN, C = 64": "ring64:Puppet-CNN",
    "the same, kernels from the states": "ring64:the same, kernels from the states",
    "the same layers, frozen random basis": "ring64:the same, kernels combined from frozen ones",
    "the same layers, slim, ordinary weights": "ring64:its layers, slim, weights stored",
    "residual network of 8 layers, 24 kB": "ring64:residual network of 8 layers",
    "Puppet-CNN, C = 128": "ring128:Puppet-CNN",
    "its layers, slim, ordinary weights": "ring128:its layers, slim, weights stored",
    "residual network of 8 layers, 80 kB": "ring128:residual network of 8 layers",
    "Puppet-CNN, C = 512, kernels from the states": "narrow512:Puppet-CNN, kernels from the states",
}


@pytest.mark.parametrize("label", RECORDED_AS)
def test_row_of_equal_bytes(label):
    assert differing(EQUAL[label], SNAPSHOT["rows"][RECORDED_AS[label]]["config"]) == set()


def test_optim_is_all_of_training():
    """`of_02d1016` reads the fields of `Data` and `Optim` by their names."""
    assert vars(Optim()).keys() <= SNAPSHOT["presets"]["cifar10:best"].keys()
    assert isinstance(cifar10.BEST.network, PuppetCNN)
