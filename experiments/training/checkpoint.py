"""Checkpoints of a run: the newest and the best, written off the training thread (orbax)."""

from pathlib import Path
from typing import TypeVar

import jax
from orbax.checkpoint import v1 as ocp

State = TypeVar("State")


class Checkpoints:
    """The checkpoints of one run, by step. A context manager: leaving it waits for what is being written.

    Args:
        folder: where they are kept; made if absent.
    """

    def __init__(self, folder: Path):
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics["validation_top1"], n=1, keep_checkpoints_without_metrics=False
        )
        self._checkpointer = ocp.training.Checkpointer(
            folder.resolve(),
            # The loop decides when to save.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
            cleanup_tmp_directories=True,
        )

    def __enter__(self):
        """Returns the checkpoints."""
        return self

    def __exit__(self, *exception):
        """Waits for what is being written."""
        self._checkpointer.close()

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, or None."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: State, validation_top1: float | None = None) -> None:
        """Copies `state` and writes it in the background; a step that is there already is left alone."""
        if step != self.latest_step:
            metrics = None if validation_top1 is None else {"validation_top1": validation_top1}
            self._checkpointer.save_async(step, state, metrics=metrics)

    def restore(self, like: State, step: int | None = None) -> State:
        """The state at `step` (the newest if None), with the structure, shapes and dtypes of `like`."""
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        return self._checkpointer.load(step, abstract)
