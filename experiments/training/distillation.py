"""Distillation: what trained networks, the teachers, answer to the images of a run."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.config import Config
from experiments.errors import RunError
from experiments.networks import Network
from experiments.runs.load import Run, check_unseen, run_of_flag
from experiments.training.parallel import is_first, shared_out

BATCH = 256
"""Images that a teacher answers at once."""


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("params", "stats"), meta_fields=("network", "complexity")
)
@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network of one depth whose kernels are the same for all images, as an argument of a compiled program.

    Attributes:
        network: static.
        params: trainable floats.
        stats: of the norms.
        complexity: at which its kernels are generated, nats; static.
    """

    network: Network
    params: Any
    stats: Any
    complexity: float

    def __call__(self, images: Array) -> Array:
        """Logits (batch, classes) of images (batch, height, width, channels) uint8."""
        network, h = self.network, jnp.full(1, self.complexity, jnp.float32)
        assert network.depth is not None
        outputs, _ = network.apply(self.params, self.stats, images, h, network.depth)
        return network.loss(outputs, jnp.zeros((len(images), network.num_classes)))[1]


def load_teachers(config: Config, data: dict[str, Any], chosen: np.ndarray, validation: np.ndarray) -> list[Run]:
    """The teachers of a run.

    Args:
        config: of the run.
        data: what identifies its data.
        chosen: images of the training set that it trains on.
        validation: those that it is validated on.

    Raises:
        RunError: if one is no run, has learnt other data, or was trained on images that this run is validated on.
    """
    runs = [run_of_flag("--teachers", folder) for folder in config.distillation.teachers]
    for run in runs:
        if run.data["sha256"] != data["sha256"]:
            raise RunError(f"the teacher {run.folder} was trained on other data; give --teachers of the same data.")
        check_unseen(run.folder, run.train_indices, validation, "give a teacher of the same --seed and images")
        others = len(np.setdiff1d(run.train_indices, chosen))
        more = f", {others:,} of which this run does not train on" if others else ""
        if is_first():
            print(f"teacher: {run.folder}, trained on {len(run.train_indices):,} images{more}", flush=True)
    return runs


def answers_or_teachers(
    config: Config, runs: Sequence[Run], images: np.ndarray
) -> tuple[np.ndarray | None, tuple[Teacher, ...]]:
    """What a run's `Data` has of its teachers: their answers where no step changes an image, else themselves.

    Args:
        config: of the run.
        runs: the teachers.
        images: (N, height, width, channels) uint8, the training images.

    Raises:
        RunError: if a teacher cannot answer within a step.
    """
    if not runs:
        return None, ()
    if config.data.augment == "none" and not config.data.cutout:
        return answers_to(runs, images, config.distillation.teacher_temperature), ()
    return None, tuple(map(in_step, runs))


def answers_to(runs: Sequence[Run], images: np.ndarray, temperature: float) -> np.ndarray:
    """The mean probabilities (N, classes) float32 of runs for images (N, height, width, channels) uint8."""
    predictors = [run.model.predictor(max_sets=1) for run in runs]

    def answer(chosen: np.ndarray) -> np.ndarray:
        parts = np.split(chosen, range(BATCH, len(chosen), BATCH))
        logits = [np.concatenate([predictor(images[part]) for part in parts]) for predictor in predictors]
        return np.asarray(mean_probabilities(logits, temperature))

    return shared_out(answer, len(images))


def in_step(run: Run) -> Teacher:
    """A teacher that can answer within a training step.

    Raises:
        RunError: if its kernels or its depth follow the image.
    """
    model = run.model
    depth = model.network.depth
    if depth is None or model.complexity.scale:
        raise RunError(
            f"the kernels or the depth of the teacher {run.folder} follow the image, so it cannot answer to augmented "
            "images; give another teacher, or train with --augment none and --cutout 0."
        )
    return Teacher(model.network, model.params, model.batch_stats[depth], model.complexity.offset)


def mean_probabilities(logits: Sequence[Any], temperature: float) -> Array:
    """Mean over teachers of their probabilities, from logits (batch, classes) each, at a temperature.

    References:
        Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, 2015.
    """
    return jnp.mean(jnp.stack([jax.nn.softmax(jnp.asarray(one) / temperature) for one in logits]), axis=0)
