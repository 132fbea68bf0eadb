"""The model of a run at some step, and how well it does on validation images."""

import dataclasses
from typing import Any

import numpy as np

from experiments.config import Adaptive, Config
from experiments.evaluation.accuracy import accuracy
from experiments.model import Model
from experiments.networks import Network
from experiments.networks.contract import answers_of
from experiments.training.complexity import Complexities
from experiments.training.parallel import shared_out


def make_model(
    config: Config,
    network: Network,
    params: Any,
    stats: dict[int, Any],
    complexities: Complexities,
    class_names: tuple[str, ...],
    step: int,
) -> Model:
    """The model of a run at some step."""
    kernels = getattr(config.network, "kernels", None)
    adaptive = kernels if isinstance(kernels, Adaptive) else None
    return Model(
        network=network,
        params=params,
        batch_stats=stats,
        class_names=class_names,
        adaptation=adaptive.sharing if adaptive else "level",
        num_levels=adaptive.num_levels if adaptive else 1,
        complexity=complexities.measure,
        step=step,
        bits=config.bits,
    )


def validated(model: Model, images: np.ndarray, labels: np.ndarray, h: np.ndarray) -> tuple[Model, dict[str, float]]:
    """The model, with the threshold of its early exits if it has such, and its accuracy on validation images."""
    predictor: Any = model.predictor(max_sets=1)
    if model.network.exit_fraction is None:
        logits = shared_out(lambda part: predictor(images[part], h[part]), len(images))
        return model, accuracy(logits, labels)
    exits = predictor.exits(images)
    threshold = predictor.choose(exits, model.network.exit_fraction)
    logits = answers_of(exits, predictor.leave(exits, threshold))
    return dataclasses.replace(model, threshold=threshold), accuracy(logits, labels)
