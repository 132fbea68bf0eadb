"""Trained puppets: those that come with the package, and the model files of runs of one's own."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from puppet_jax.complexity import CalibratedComplexity
from puppet_jax.early_exit import EarlyExitPredictor
from puppet_jax.model_file import load_tree
from puppet_jax.puppet import (
    BatchStats,
    Puppet,
    PuppetParams,
    fitting_settings,
    init_batch_stats,
    init_puppet,
    puppet_matrices,
)
from puppet_jax.puppeteer import init_puppeteer
from puppet_jax.quantization import choose_bits, dequantize_tree, quantize_tree
from puppet_jax.routing import Adaptation, Predictor
from puppet_jax.seeded import pattern_hash

FOLDER = Path(__file__).parent / "models"
"""Where the package keeps model files and their model cards."""
DEFAULT = "cifar10-full"
"""The model that is meant where none is named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedPuppet:
    """A trained Puppet-CNN with all that its use needs.

    Attributes:
        puppet: the architecture.
        params: its trainable floats; `params.puppeteer` generates kernels in models of your own.
        batch_stats: running statistics of each depth that it was trained at.
        complexity: the measure that it was trained with.
        class_names: of each logit.
        image_shape: (height, width, channels) of the images that it was trained on.
        adaptation: "level" or "sample", see `Predictor`.
        num_slices: slices of complexity in a depth bucket.
        bits: of a weight in the file, 32, 8 or 4; `params` are float32 in any case.
        threshold: the doubt that sends an image on to the deep puppet, of nested puppets; else None.
    """

    puppet: Puppet
    params: PuppetParams
    batch_stats: dict[int, tuple[BatchStats, ...]]
    complexity: CalibratedComplexity
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    adaptation: Adaptation
    num_slices: int
    bits: int
    threshold: float | None = None

    def predictor(self, **settings: Any) -> Predictor | EarlyExitPredictor:
        """From images (batch, *image_shape) to logits (batch, classes).

        `settings` override those of `Predictor`, or, with a threshold, of `EarlyExitPredictor`.
        """
        if self.threshold is not None:
            exits = {"h": self.complexity.offset, "threshold": self.threshold}
            return EarlyExitPredictor(self.puppet, self.params, self.batch_stats, **exits | settings)
        trained = {"adaptation": self.adaptation, "num_slices": self.num_slices, "complexity": self.complexity}
        return Predictor(self.puppet, self.params, self.batch_stats, **trained | settings)


def load_pretrained(model: str | Path = DEFAULT) -> PretrainedPuppet:
    """Reads a trained puppet: one of those in the package, which needs no network, or a model file.

    Args:
        model: a name among `pretrained_models()`; or the path of the `model.safetensors` that a run of
            `experiments` wrote, if its kernels are generated.

    Returns:
        A `PretrainedPuppet`. What it was trained on, how accurate it is and under which licence it comes is said in
        its model card, NAME.md beside the model file in `puppet_jax/models`.

    Raises:
        FileNotFoundError: if there is neither such a name nor such a file.
        ValueError: if the file is damaged, holds another kind of model, or was trained with another seeded pattern
            than this version generates.

    Example:
        >>> import numpy as np, puppet_jax as pj
        >>> model = pj.load_pretrained()
        >>> images = np.zeros((2, *model.image_shape), np.uint8)
        >>> model.predictor()(images).shape
        (2, 10)
    """
    path = pretrained_file(model)
    (stored, batch_stats), meta = load_tree(path, lambda meta: _expected(meta)[1])
    params = stored
    if meta["bits"] < 32:
        like, _ = _expected(meta)
        params = dequantize_tree(stored, like, _bits(like, meta))
    one = params.puppeteer
    if pattern_hash(one.max_channels, one.kernel_size, one.seed) != meta["pattern_sha256"]:
        raise ValueError(
            f"{path} was trained with another seeded pattern than this version of puppet-jax generates, so its kernels "
            "cannot be regenerated; use the version that wrote it."
        )
    puppet = _puppet(meta)
    return PretrainedPuppet(
        puppet=puppet,
        params=params,
        batch_stats=batch_stats,
        complexity=CalibratedComplexity(**meta["complexity"]),
        class_names=tuple(meta["class_names"]),
        image_shape=(*meta["network"]["image_size"], puppet.in_channels),
        adaptation=meta["adaptation"],
        num_slices=meta["num_slices"],
        bits=meta["bits"],
        threshold=meta["threshold"] if meta["network"].get("exits") else None,
    )


def pretrained_models() -> tuple[str, ...]:
    """Names of the models in the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def pretrained_file(model: str | Path = DEFAULT) -> Path:
    """The model file of that name in the package, or else of that path.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if str(model) in pretrained_models():
        return FOLDER / f"{model}.safetensors"
    if Path(model).is_file():
        return Path(model)
    raise FileNotFoundError(
        f"there is no pretrained model {str(model)!r} and no model file of that path; "
        f"the package has {', '.join(pretrained_models()) or 'none'}."
    )


def _puppet(meta: dict[str, Any]) -> Puppet:
    described = meta["network"]["puppet"]
    return Puppet(**described | {"channels": tuple(described["channels"])})


def _expected(meta: dict[str, Any]) -> tuple[Any, Any]:
    """Shapes: of the trainable floats; and of what the model file of a puppet holds, those as stored and statistics."""
    network = meta["network"]
    if network["kind"] != "puppet" or network["kernels"] != "generated":
        raise ValueError(
            f"a puppet of generated kernels is expected, got a {network['kind']} of "
            f"{network.get('kernels', 'other')} kernels; python -m experiments.evaluate and experiments.predict take it"
        )
    if network.get("exits"):
        meta["threshold"]  # must be there
    puppet = _puppet(meta)
    generator = fitting_settings(puppet, network["generator"])
    depths = [int(depth) for depth in meta["depths"]]

    def make() -> Any:
        puppeteer = init_puppeteer(jax.random.key(0), **generator)
        params = init_puppet(jax.random.key(0), puppet, puppeteer, max_depth=max(depths))
        return params, {depth: init_batch_stats(puppet, depth) for depth in depths}

    params, stats = jax.eval_shape(make)
    if meta["bits"] == 32:
        return params, (params, stats)
    bits = _bits(params, meta)
    return params, (jax.eval_shape(lambda params: quantize_tree(params, bits), params), stats)


def _bits(params: Any, meta: dict[str, Any]) -> Any:
    return choose_bits(params, puppet_matrices(params), meta["bits"])
