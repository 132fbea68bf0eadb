"""What a run keeps in its folder as it goes, and goes on from: rows of metrics, the model, checkpoints."""

from pathlib import Path
from typing import Any, NamedTuple

from experiments.errors import RunError
from experiments.model import Model, save_model
from experiments.runs import folder as run_folder
from experiments.training.checkpoint import Checkpoints
from experiments.training.parallel import by_first, is_first, told
from experiments.training.step import TrainState


class Resumed(NamedTuple):
    """Where a run goes on.

    Attributes:
        rows: of the epochs before.
        before: the steps of the epoch that a signal cut.
    """

    rows: list[dict[str, Any]]
    before: run_folder.Unfinished


class Keeper:
    """The files of a run. Of several processes that train together all call each method, and the first one writes.

    Args:
        folder: of the run.
        checkpoints: in it.
    """

    def __init__(self, folder: Path, checkpoints: Checkpoints):
        self.folder = folder
        self.checkpoints = checkpoints

    def restore(self, state: TrainState, per_epoch: int, steps: int) -> tuple[TrainState, Resumed]:
        """The state of the newest checkpoint, and what was booked before it; `state` if there is none.

        Raises:
            RunError: if rows of metrics are missing, or no checkpoint can be read.
        """
        if self.checkpoints.latest_step is not None:
            state = self.checkpoints.restore(state)
            if is_first():
                print(f"resumed at step {int(state.step)} of {steps}", flush=True)
        step = int(state.step)
        rows, before = told(by_first(lambda: self._booked(step, per_epoch)))
        return state, Resumed(rows, run_folder.Unfinished(*before))

    def _booked(self, step: int, per_epoch: int) -> Resumed:
        run_folder.drop_metrics_after(self.folder, step)
        rows = run_folder.read_metrics(self.folder)
        finished, begun = divmod(step, per_epoch)
        before = run_folder.read_unfinished(self.folder, step) if begun else run_folder.NOT_BEGUN
        if [row["epoch"] for row in rows] != list(range(1, finished + 1)):
            raise RunError(
                f"{self.folder / run_folder.METRICS} must have one row for each of the {finished} epochs before the "
                f"checkpoint of step {step}, got epochs {[row['epoch'] for row in rows]}; restore it, or train anew in "
                "another --workdir."
            )
        return Resumed(rows, before)

    def epoch(self, step: int, state: TrainState, row: dict[str, Any], model: Model | None) -> None:
        """Books an epoch: its model if that is the one to keep, its row, its checkpoint."""
        self.checkpoints.wait()  # so that at most one row has no checkpoint yet
        by_first(lambda: self._book(row, model))
        self.checkpoints.save(step, state, row["validation_top1"])

    def _book(self, row: dict[str, Any], model: Model | None) -> None:
        if model is not None:
            save_model(self.folder / run_folder.MODEL, model)
        run_folder.append_metrics(self.folder, row)

    def stop(self, step: int, state: TrainState, unfinished: run_folder.Unfinished | None) -> None:
        """Saves the state, and what was taken of an epoch that is not finished."""
        if unfinished is not None:
            by_first(lambda: run_folder.write_unfinished(self.folder, step, unfinished))
        self.checkpoints.save(step, state)

    def kept(self) -> str:
        """Which checkpoint there is, in words."""
        latest = self.checkpoints.latest_step
        return "no checkpoint was saved yet" if latest is None else f"the checkpoint of step {latest} is kept"
