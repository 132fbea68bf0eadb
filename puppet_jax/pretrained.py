"""Trained puppets: those that come with the package, and the model files of runs of one's own."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
from jax.typing import ArrayLike

from puppet_jax.any_depth import estimate_batch_stats
from puppet_jax.architecture import Puppet
from puppet_jax.complexity import CalibratedComplexity
from puppet_jax.model_file import load_model
from puppet_jax.model_format import read_puppet
from puppet_jax.predictor import Predictor
from puppet_jax.puppet import BatchStats, PuppetParams, init_batch_stats, init_puppet
from puppet_jax.puppeteer import init_puppeteer
from puppet_jax.routing import Adaptation, complexities

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
        num_levels: levels of complexity in each depth bucket whose images share kernels.
        bits: of a weight in the file, 32, 8 or 4; `params` are float32 in any case.
    """

    puppet: Puppet
    params: PuppetParams
    batch_stats: dict[int, tuple[BatchStats, ...]]
    complexity: CalibratedComplexity
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    adaptation: Adaptation
    num_levels: int
    bits: Literal[32, 8, 4]

    def predictor(self, **settings: Any) -> Predictor:
        """From images `(batch, *image_shape)` to logits (batch, classes); `settings` override those of `Predictor`."""
        trained = {
            "adaptation": self.adaptation,
            "num_levels": self.num_levels,
            "complexity": self.complexity,
            "image_size": self.image_shape[:2],
        }
        return Predictor(self.puppet, self.params, self.batch_stats, **trained | settings)

    def at_depth(self, depth: int, images: ArrayLike) -> "PretrainedPuppet":
        """The same with statistics of one more depth, which it need not have been trained at.

        Args:
            depth: see `estimate_batch_stats`.
            images: `(batch, *image_shape)`, uint8 or floating in [0, 1]; a few hundred like those to come.
        """
        stats = estimate_batch_stats(self.puppet, self.params, depth, images, complexities(images, self.complexity))
        return dataclasses.replace(self, batch_stats=self.batch_stats | {depth: stats})


def load_pretrained(model: str | Path = DEFAULT) -> PretrainedPuppet:
    """Reads a trained puppet: one of those in the package, which needs no network, or a model file.

    Args:
        model: a name among `pretrained_models()`; or the path of the `model.safetensors` that a run of
            `experiments` wrote, if its kernels are generated.

    Returns:
        A `PretrainedPuppet`. Its model card, NAME.md beside the model file in `puppet_jax/models`, says what it was
        trained on, how accurate it is and under which licence it comes.

    Raises:
        FileNotFoundError: if there is neither such a name nor such a file.
        ValueError: if the file is damaged or of another version, holds another kind of model, or was trained with
            another seeded pattern than this version generates.

    Example:
        >>> import numpy as np, puppet_jax as pj
        >>> model = pj.load_pretrained("cifar10-c64-4bit")
        >>> images = np.zeros((2, *model.image_shape), np.uint8)
        >>> model.predictor()(images).shape
        (2, 10)
    """
    (params, batch_stats), description = load_model(pretrained_file(model), _expected)
    puppet = read_puppet(description["network"])
    return PretrainedPuppet(
        puppet=puppet,
        params=params,
        batch_stats=batch_stats,
        complexity=CalibratedComplexity(**description["complexity"]),
        class_names=tuple(description["class_names"]),
        image_shape=(*description["network"]["image_size"], puppet.in_channels),
        adaptation=description["adaptation"],
        num_levels=description["num_levels"],
        bits=description["bits"],
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


def like_puppet(description: dict[str, Any]) -> tuple[PuppetParams, dict[int, tuple[BatchStats, ...]]]:
    """Shapes of the trainable floats and statistics of a puppet, from the description in its model file."""
    network, depths = description["network"], description["depths"]
    puppet = read_puppet(network)

    def make() -> Any:
        puppeteer = init_puppeteer(jax.random.key(0), **network["puppeteer"])
        params = init_puppet(jax.random.key(0), puppet, puppeteer, max_depth=max(depths))
        return params, {depth: init_batch_stats(puppet, depth) for depth in depths}

    return jax.eval_shape(make)


def _expected(description: dict[str, Any]) -> Any:
    kind = description["network"]["kind"]
    if kind == "early_exit":
        raise ValueError("a puppet is expected, got an early exit; puppet_jax.extras.load_early_exit reads it.")
    if kind != "puppet":
        raise ValueError(
            f"a puppet is expected, got the kind {kind!r}; python -m experiments.evaluate and experiments.predict take "
            "it."
        )
    return like_puppet(description)
