"""Checkpoints of a run: the newest and the best, written off the training thread (orbax)."""

import json
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from experiments.errors import RunError
from experiments.training.parallel import by_first, is_first, told

State = TypeVar("State")


class Checkpoints:
    """The checkpoints of one run, by step. A context manager: leaving it waits for what is being written.

    Several processes that train together share the folder, and call each method together.

    Args:
        folder: where they are kept; made if absent.
    """

    def __init__(self, folder: Path):
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics["validation_top1"], n=1, keep_checkpoints_without_metrics=False
        )
        self.folder = folder.resolve()
        self._writing: Any = None
        by_first(self._remove_damaged_metrics)
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            # The loop decides when to save.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),
            cleanup_tmp_directories=True,
        )

    def _remove_damaged_metrics(self) -> None:
        """Orbax reads them at once, and would stop."""
        for path in self.folder.glob("[0-9]*"):
            if not _has_sound_metrics(path):
                shutil.rmtree(path / "metrics")
                print(f"{path / 'metrics'} was damaged and removed; that checkpoint may not be kept as the best")

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

    def wait(self) -> None:
        """Waits for what is being written."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def save(self, step: int, state: State, validation_top1: float | None = None) -> None:
        """Copies `state` and writes it in the background; a step that is there already is left alone."""
        if step != self.latest_step:
            metrics = None if validation_top1 is None else {"validation_top1": validation_top1}
            self._writing = self._checkpointer.save_async(step, state, metrics=metrics)

    def restore(self, like: State) -> State:
        """The newest state that can be read, with the structure, shapes and dtypes of `like`.

        A newer one that is damaged is removed, which is said on standard output.

        Raises:
            RunError: if none can be read.
        """
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
        damaged = []
        for step in sorted((found.step for found in self._checkpointer.checkpoints), reverse=True):
            try:
                state = self._checkpointer.load(step, abstract)
            except Exception as error:  # whatever a damaged file makes of orbax and tensorstore
                damaged.append((step, error))
                continue
            for bad, _ in damaged if is_first() else ():
                shutil.rmtree(self.folder / str(bad), ignore_errors=True)
                print(f"the checkpoint of step {bad} is damaged and was removed; going on from step {step}", flush=True)
            if damaged:
                told(None)  # nobody looks before all are removed
                self._checkpointer.reload()
            return state
        if not damaged:
            raise RunError(
                f"no checkpoint in {self.folder} can be read. Restore one, or train anew in another --workdir."
            )
        newest, cause = damaged[0]
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
        raise RunError(
            f"no checkpoint in {self.folder} can be read; the newest, {self.folder / str(newest)}, is damaged "
            f"({reason}). Restore it, or train anew in another --workdir."
        )


def _has_sound_metrics(path: Path) -> bool:
    """Whether the metrics of a checkpoint can be read, or it has none."""
    if not (path / "metrics").exists():
        return True
    try:
        float(json.loads((path / "metrics" / "metrics").read_text())["validation_top1"])
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return True
