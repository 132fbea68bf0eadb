"""Trained puppets: those that come with the package, and the model files of runs of one's own."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from puppet_jax.complexity import CalibratedComplexity
from puppet_jax.model_file import load_tree
from puppet_jax.puppet import BatchStats, Puppet, PuppetParams, init_batch_stats, init_puppet
from puppet_jax.puppeteer import init_puppeteer
from puppet_jax.routing import Adaptation, Predictor
from puppet_jax.seeded import pattern_hash

FOLDER = Path(__file__).parent / "models"
"""Where the package keeps model files, each beside its model card."""


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
    """

    puppet: Puppet
    params: PuppetParams
    batch_stats: dict[int, tuple[BatchStats, ...]]
    complexity: CalibratedComplexity
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    adaptation: Adaptation
    num_slices: int

    def predictor(self, **settings: Any) -> Predictor:
        """From images (batch, *image_shape) to logits (batch, classes); `settings` override those of `Predictor`."""
        trained = {"adaptation": self.adaptation, "num_slices": self.num_slices, "complexity": self.complexity}
        return Predictor(self.puppet, self.params, self.batch_stats, **trained | settings)


def load_pretrained(model: str | Path = "cifar10-c128") -> PretrainedPuppet:
    """Reads a trained puppet: one of those in the package, which needs no network, or a model file.

    Args:
        model: a name among `pretrained_models()`; or the path of the `model.safetensors` that a run of
            `experiments` wrote, if its kernels are generated and stored in 32 bits.

    Returns:
        A `PretrainedPuppet`. What it was trained on, how accurate it is and under which licence it comes is said in
        the model card, `MODEL.md` beside the model file in `puppet_jax/models`.

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
    (params, batch_stats), meta = load_tree(path, _expected)
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
    )


def pretrained_models() -> tuple[str, ...]:
    """Names of the models in the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.safetensors")))


def pretrained_file(model: str | Path) -> Path:
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


def _expected(meta: dict[str, Any]) -> Any:
    """Shapes of the trainable floats and statistics that the model file of a puppet holds."""
    network = meta["network"]
    if network["kind"] != "puppet" or network["kernels"] != "generated" or meta["bits"] != 32:
        raise ValueError(
            "a puppet of generated kernels in 32 bits is expected, got a "
            f"{network['kind']} of {network.get('kernels', 'other')} kernels in {meta['bits']} bits; "
            "python -m experiments.evaluate and experiments.predict take it"
        )
    puppet, generator = _puppet(meta), dict(network["generator"])
    generator["max_channels"] = generator["max_channels"] or puppet.max_channels
    generator["kernel_size"] = generator["kernel_size"] or puppet.kernel_size
    depths = [int(depth) for depth in meta["depths"]]

    def make() -> Any:
        puppeteer = init_puppeteer(jax.random.key(0), **generator)
        params = init_puppet(jax.random.key(0), puppet, puppeteer, max_depth=max(depths))
        return params, {depth: init_batch_stats(puppet, depth) for depth in depths}

    return jax.eval_shape(make)
