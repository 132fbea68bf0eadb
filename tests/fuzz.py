"""Calls of every public function with wrong arguments: one or two of those of a sound call are replaced."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import puppet_jax as pj
from puppet_jax import extras
from puppet_jax.predictor import KernelBank
from puppet_jax.projection import adaptive_average_pool
from puppet_jax.routing import GROUP_SIZES, level_centre, make_groups, nearest_depths, run_groups

ANSWERS = (ValueError, TypeError, FileNotFoundError)
"""What a wrong argument may raise."""
WRONG = (
    *(None, True, -1, 0, 1, 3, 2.5, -0.5, 1e300, 10**400, 2**31, 2**64, math.nan, math.inf, -math.inf, 1j),
    *("", "state", "speed", b"x", [], (), [1, 2], (3, 3, 3, 8), (2.5,), (0, -1), {}, {"a": 1}, object(), len),
    *(np.int32(3), np.float64(0.5), np.uint8(2), np.bool_(True), jnp.int32(2), jnp.float32(2.5)),
    *(np.zeros(3), np.zeros((0, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 200), np.full((1, 8, 8, 3), np.nan)),
    *(np.array(["a"]), np.array(None), np.zeros((2, 3, 8, 8), np.float32), np.ones((2, 2), bool)),
    *(np.array(1 + 1j), np.float16(0.1), jnp.bfloat16(0.1), Path("nowhere"), [[1.0], [1.0, 2.0]], [(3, 3, -1, 8)]),
)

PUPPET = pj.Puppet(channels=(4,), layers=(2,), num_classes=3)
PUPPETEER = pj.init_puppeteer(jax.random.key(0), max_channels=4)
PARAMS = pj.init_puppet(jax.random.key(1), PUPPET, PUPPETEER)
STATS = pj.init_batch_stats(PUPPET, 2)
HEAD = extras.init_exit(jax.random.key(2), PUPPET, 1)
SHAPES = PUPPET.kernel_shapes(2)
KERNELS = pj.generate_kernels(PUPPETEER, 4.5, SHAPES)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
LOGITS = np.array([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], np.float32)
PREDICTOR = pj.Predictor(PUPPET, PARAMS, {2: STATS})
EXIT = extras.EarlyExitPredictor(PUPPET, PARAMS, HEAD, STATS, exit_layer=1, h=4.5)
GENERATED = pj.puppetize(nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0)), IMAGES / np.float32(255))


class Call(NamedTuple):
    """A sound call, and those of its arguments that are replaced (all if none is named)."""

    function: Callable[..., Any]
    arguments: dict[str, Any]
    replaced: tuple[str, ...] = ()


def _predict(images, h):
    return PREDICTOR(images, h)


def _call(images, h):
    return GENERATED(images, h=h)


CALLS = {
    "Puppet": Call(
        pj.Puppet,
        {
            "channels": (4, 8),
            "layers": (1, 2),
            "num_classes": 3,
            "in_channels": 3,
            "kernel_size": 3,
            "dropout": 0.1,
            "mirror": False,
            "classifier": "linear",
        },
    ),
    "layers_per_stage": Call(pj.Puppet(channels=(4,)).layers_per_stage, {"depth": 2}),
    "kernel_shapes": Call(pj.Puppet(channels=(4,)).kernel_shapes, {"depth": 2}),
    "CalibratedComplexity": Call(pj.CalibratedComplexity, {"scale": 1.0, "offset": 0.0, "low": 0.0, "high": 5.0}),
    "Predictor": Call(
        pj.Predictor,
        {
            "puppet": PUPPET,
            "params": PARAMS,
            "batch_stats": {2: STATS},
            "adaptation": "level",
            "num_levels": 2,
            "dtype": jnp.float32,
            "max_sets": 2,
        },
        ("adaptation", "num_levels", "dtype", "max_sets"),
    ),
    "Predictor.__call__": Call(_predict, {"images": IMAGES, "h": np.array([4.0, 4.5])}),
    "KernelBank": Call(KernelBank, {"puppet": PUPPET, "puppeteer": PUPPETEER, "max_sets": 2}, ("max_sets",)),
    "apply_puppet": Call(
        pj.apply_puppet,
        {
            "puppet": PUPPET,
            "params": PARAMS,
            "batch_stats": STATS,
            "kernels": KERNELS,
            "images": IMAGES,
            "depth": 2,
        },
        ("images", "depth"),
    ),
    "calibrate": Call(pj.calibrate, {"h": np.linspace(3, 5, 9), "min_depth": 2, "max_depth": 4, "quantile": 0.01}),
    "complexities": Call(pj.complexities, {"images": IMAGES}),
    "complexity": Call(pj.complexity, {"images": IMAGES}),
    "depth": Call(pj.depth, {"h": 4.5}),
    "depth_interval": Call(pj.depth_interval, {"depth": 4}),
    "field": Call(pj.field, {"puppeteer": PUPPETEER, "state": jnp.ones((4, 4, 9))}, ()),
    "generate_kernels": Call(
        pj.generate_kernels, {"puppeteer": PUPPETEER, "h": 4.5, "shapes": SHAPES}, ("h", "shapes")
    ),
    "generator_macs": Call(pj.generator_macs, {"puppeteer": PUPPETEER, "num_steps": 2}, ("num_steps",)),
    "init_batch_stats": Call(pj.init_batch_stats, {"puppet": PUPPET, "depth": 2}, ("depth",)),
    "init_puppet": Call(
        pj.init_puppet,
        {"key": jax.random.key(0), "puppet": PUPPET, "puppeteer": PUPPETEER, "max_depth": 2},
        ("max_depth",),
    ),
    "init_puppeteer": Call(
        pj.init_puppeteer,
        {
            "key": jax.random.key(0),
            "max_channels": 4,
            "kernel_size": 3,
            "initial_state": "seeded",
            "seed": 0,
            "scale": 0.1,
            "kernels_from": "state",
        },
        ("max_channels", "kernel_size", "initial_state", "seed", "scale", "kernels_from"),
    ),
    "initial_level": Call(pj.initial_level, {"h": 4.5}),
    "load_pretrained": Call(pj.load_pretrained, {"model": "cifar10-c64-4bit"}),
    "num_steps": Call(pj.num_steps, {"shapes": SHAPES, "max_channels": 4}),
    "project": Call(pj.project, {"state": jnp.ones((4, 4, 9)), "shape": (3, 3, 2, 4)}),
    "adaptive_average_pool": Call(adaptive_average_pool, {"x": jnp.ones((4, 6)), "shape": (2, 3)}),
    "puppet_macs": Call(pj.puppet_macs, {"puppet": PUPPET, "depth": 2, "image_size": (8, 8)}, ("depth", "image_size")),
    "PuppetModel.__call__": Call(_call, {"images": IMAGES / np.float32(255), "h": 4.5}, ("h",)),
    "seeded_pattern": Call(pj.seeded_pattern, {"max_channels": 4, "kernel_size": 3, "seed": 0}),
    "step_size": Call(pj.step_size, {"h": 4.5}),
    "trajectory": Call(pj.trajectory, {"puppeteer": PUPPETEER, "h": 4.5, "num_steps": 2}, ("h", "num_steps")),
    "nearest_depths": Call(nearest_depths, {"h": np.array([3.0, 4.0]), "depths": (2, 3)}),
    "level_centre": Call(level_centre, {"h": np.array([3.0, 4.0]), "depth": 3, "num_levels": 2}),
    "make_groups": Call(
        make_groups, {"h": np.array([3.0, 4.0]), "depths": (2, 3), "num_levels": 2, "sizes": GROUP_SIZES}
    ),
    "run_groups": Call(
        run_groups, {"groups": make_groups(np.array([3.0, 4.0]), (2, 3), 2), "run": lambda group: jnp.ones(group.size)}
    ),
    "init_exit": Call(extras.init_exit, {"key": jax.random.key(0), "puppet": PUPPET, "exit_layer": 1}, ("exit_layer",)),
    "confidence": Call(extras.confidence, {"logits": LOGITS}),
    "exit_threshold": Call(extras.exit_threshold, {"confidences": np.array([0.1, 0.5]), "fraction": 0.5}),
    "combine_exits": Call(extras.combine_exits, {"exit_logits": LOGITS, "logits": LOGITS, "threshold": 0.5}),
    "exit_macs": Call(
        extras.exit_macs, {"puppet": PUPPET, "exit_layer": 1, "image_size": (8, 8)}, ("exit_layer", "image_size")
    ),
    "EarlyExitPredictor": Call(
        extras.EarlyExitPredictor,
        {
            "puppet": PUPPET,
            "params": PARAMS,
            "head": HEAD,
            "batch_stats": STATS,
            "exit_layer": 1,
            "h": 4.5,
            "threshold": 0.5,
            "adaptation": "level",
            "dtype": jnp.float32,
        },
        ("exit_layer", "h", "threshold", "adaptation", "dtype"),
    ),
    "EarlyExitPredictor.route": Call(EXIT.route, {"images": IMAGES}),
    "ensemble": Call(extras.ensemble, {"predictors": [PREDICTOR], "images": IMAGES, "threshold": 0.5}),
    "quantize": Call(extras.quantize, {"x": np.ones((2, 2), np.float32), "bits": 8}),
}
"""By name; a sound call of each of them answers."""


class Case(NamedTuple):
    """A call with wrong arguments."""

    name: str
    wrong: dict[str, Any]

    def run(self) -> Any:
        """What it answers; raises what it raises."""
        call = CALLS[self.name]
        return call.function(**call.arguments | self.wrong)


def cases(count: int, seed: int = 0) -> Iterator[Case]:
    """`count` different calls: first single wrong arguments, in an order of the seed, then pairs of them."""
    rng = np.random.default_rng(seed)
    singles = [
        Case(name, {argument: value})
        for name, call in CALLS.items()
        for argument in call.replaced or call.arguments
        for value in WRONG
    ]
    for place in rng.permutation(len(singles))[:count]:
        yield singles[place]
    names = [name for name, call in CALLS.items() if len(call.replaced or call.arguments) > 1]
    for _ in range(count - len(singles)):
        name = names[rng.integers(len(names))]
        arguments = list(CALLS[name].replaced or CALLS[name].arguments)
        chosen = rng.choice(len(arguments), 2, replace=False)
        yield Case(name, {arguments[place]: WRONG[rng.integers(len(WRONG))] for place in chosen})
