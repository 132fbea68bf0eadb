"""Tables that need no training: every network's size, sizes by channels, size against depth (v1 figure 4)."""

from typing import Any

import jax
from flax import nnx

import puppet_jax as pj
from experiments.networks.backbones import BACKBONES, make_backbone
from experiments.tables import papers

LAYERS = {"vgg": (11, 29, 47, 65, 83, 101), "resnet": (12, 30, 48, 66, 84, 102)}
"""Depths of figure 4; the blocks of a ResNet have two layers, so that its counts are even."""


def floats(model: Any) -> int:
    """Trainable floats of a model, which may be abstract."""
    return pj.num_floats(nnx.state(model, nnx.Param))


def abstract(name: str, num_classes: int = 10, generated: bool = False, **options: Any) -> Any:
    """A backbone without arrays, puppetized if asked for."""

    def make():
        model = make_backbone(name, num_classes, rngs=nnx.Rngs(0), **options)
        return pj.puppetize(model, max_channels=512) if generated else model

    return nnx.eval_shape(make)


def networks() -> list[dict[str, Any]]:
    """Every network that is built here: trainable floats, MB, the papers' MB and what is between them."""
    rows = []
    for name in BACKBONES:
        rows.append(_size(name, floats(abstract(name)), papers.SIZES_MB.get(name)))
    for name in ("alexnet", "vgg", "resnet"):
        printed = papers.DATASETS["cifar100", name][2]
        rows.append(_size(f"{name}, 100 classes", floats(abstract(name, 100)), printed))
    puppeteer = jax.eval_shape(lambda: pj.init_puppeteer(jax.random.key(0), max_channels=512))
    rows.append(_size("puppeteer, C = 512", pj.num_floats(puppeteer), papers.MODEL_MB["puppet"]))
    for name in ("alexnet", "vgg", "resnet"):
        model = abstract(name, generated=True)
        rows.append(_size(f"puppeteer of {name}", pj.num_floats(model.puppeteer), 1.08))
        rows.append(_size(f"puppeteer of {name} and all else it trains", floats(model), None))
    return rows


def channels() -> list[dict[str, Any]]:
    """v1 table 5, v2 table 7: floats and MB by the largest number of channels, from real pytrees."""
    rows = []
    for c, (millions, mb) in papers.CHANNELS.items():
        puppeteer = jax.eval_shape(lambda c=c: pj.init_puppeteer(jax.random.key(0), max_channels=c))
        state = puppeteer.state_shape
        total = pj.num_floats(puppeteer) + state[0] * state[1] * state[2]
        row = _size(f"C = {c}", pj.num_floats(puppeteer), mb)
        rows.append(row | {"channels": c, "with_state_m": total / 1e6, "paper_with_state_m": millions})
    return rows


def depths() -> list[dict[str, Any]]:
    """v1 figure 4: stored bytes of VGG and ResNet by depth, with kernels of their own and generated ones.

    A puppet without affine norms stores the same bytes at any depth; with them, two floats a channel and layer more.
    """
    rows = []
    for name, counts in LAYERS.items():
        for layers in counts:
            plain = abstract(name, generated=True, num_layers=layers, affine=False)
            rows.append(
                {
                    "network": name,
                    "layers": layers,
                    "fixed_bytes": 4 * floats(abstract(name, num_layers=layers)),
                    "puppet_affine_bytes": 4 * floats(abstract(name, generated=True, num_layers=layers)),
                    "puppet_bytes": 4 * floats(plain),
                    "puppeteer_bytes": pj.num_bytes(plain.puppeteer),
                }
            )
    return rows


def _size(label: str, count: int, printed: float | None) -> dict[str, Any]:
    mb = 4 * count / 1e6
    residual = None if printed is None else mb - printed
    return {"label": label, "floats": count, "mb": mb, "paper_mb": printed, "residual_mb": residual}
