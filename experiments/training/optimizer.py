"""Optimisers and their schedule."""

from typing import Any

import jax
import optax

from experiments.config import Optim
from experiments.networks import Network

MATRICES = {
    2: optax.contrib.MuonDimensionNumbers(),
    4: optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3),
}
"""What Muon takes for a matrix, by number of axes: matrices, and HWIO kernels from window and input to output."""


def make_optimizer(optim: Optim, network: Network, num_steps: int) -> optax.GradientTransformation:
    """Adam or Muon with a warm-up and a cosine decay to zero over `num_steps`, and decoupled weight decay.

    Muon's updates are scaled to unit root mean square, about that of Adam's, so that both take the same learning rates
    at every size of a matrix.

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, 2019. Jordan et al., Muon: an optimizer for hidden
        layers in neural networks, 2024; its scale: Liu et al., Muon is scalable for LLM training, 2025.
    """
    warmup = min(num_steps // 20, 500)
    schedule = optax.warmup_cosine_decay_schedule(0.0, optim.learning_rate, warmup, max(num_steps, warmup + 1))
    if optim.optimizer == "adam":
        return optax.adamw(schedule, weight_decay=optim.weight_decay, mask=network.matrices)

    def dimensions(params: Any) -> Any:
        return jax.tree.map(
            lambda leaf, matrix: MATRICES.get(leaf.ndim) if matrix else None, params, network.matrices(params)
        )

    return optax.contrib.muon(
        schedule,
        weight_decay=optim.weight_decay,
        adam_learning_rate=schedule,
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=1.0,
    )
