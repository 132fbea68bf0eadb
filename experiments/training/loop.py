"""The training loop: epochs of steps, when what is saved, how a signal stops it."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.errors import Interrupted, RunError
from experiments.model import Model
from experiments.runs.folder import NOT_BEGUN, Unfinished
from experiments.training.batching import Bucket, epoch_batches, steps_per_epoch
from experiments.training.interrupts import Interrupts
from experiments.training.keeper import Keeper, Resumed
from experiments.training.parallel import is_first
from experiments.training.progress import Progress
from experiments.training.step import Data, TrainState
from puppet_jax.checks import are_finite

CHECK_EVERY = 50
"""Steps between two looks at the loss; each look fetches the losses of the window before the last."""
RUN_AHEAD = 2
"""Steps that may wait for the device: enough to keep it busy, few enough that Ctrl-C is answered soon."""
ADVICE = "Lower --learning-rate, or train in float32, in a new --workdir."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Which batches a run takes; all follows from the seed.

    Attributes:
        buckets: of the training images, by depth.
        h: (images,) their complexities, nats.
        batch_size: images a step.
        epochs: of the run.
        seed: of the run.
    """

    buckets: list[Bucket]
    h: np.ndarray
    batch_size: int
    epochs: int
    seed: int

    @property
    def per_epoch(self) -> int:
        """Steps an epoch."""
        return steps_per_epoch(self.buckets, self.batch_size)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.per_epoch * self.epochs

    def batches(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """Depth and indices of each batch of an epoch."""
        return epoch_batches(self.buckets, self.h, self.batch_size, self.seed, epoch)


def train_loop(
    state: TrainState,
    data: Data,
    schedule: Schedule,
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    validate: Callable[[TrainState, list[tuple[int, np.ndarray]]], tuple[Model, dict[str, float]]],
    resumed: Resumed,
    keeper: Keeper,
    num_validation: int,
) -> None:
    """Takes the steps of a schedule that `state` has not taken.

    Args:
        state: before the first of them.
        data: the training set, on the device.
        schedule: which batches, in which order.
        train_step: from `make_train_step`.
        validate: from a state and the batches of its epoch to the model, and its `accuracy` on validation images.
        resumed: what was booked before.
        keeper: of the run's files.
        num_validation: number of validation images.

    Raises:
        RunError: if a loss or a parameter is not finite.
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    step, rows, before = int(state.step), list(resumed.rows), resumed.before

    def stop(signum: int, unfinished: Unfinished | None = None) -> None:
        keeper.stop(step, state, unfinished)
        raise Interrupted(
            signum,
            f"stopped after step {step} of {schedule.steps}; the state is saved. To go on, give the same command with "
            f"--resume (its folder: --workdir {keeper.folder}).",
        )

    with Interrupts() as interrupts, Progress(schedule.steps, step, quiet=not is_first()) as bar:
        for epoch in range(step // schedule.per_epoch, schedule.epochs):
            started, first, last = time.perf_counter(), step, (epoch + 1) * schedule.per_epoch
            batches = schedule.batches(epoch)
            losses, before = Losses(first, keeper, before), NOT_BEGUN
            for depth, indices in batches[step - epoch * schedule.per_epoch :]:
                state, metrics = train_step(state, data, indices, depth=depth)
                step += 1
                losses.add(metrics)
                bar.update()
                if step < last and (signum := interrupts.agreed(step)):  # else once the epoch is booked
                    losses.check(state.params)
                    stop(signum, losses.taken(time.perf_counter() - started))
            train_loss, train_top1 = losses.check(state.params)
            seconds = time.perf_counter() - started
            try:
                model, validation = validate(state, batches)
            except FloatingPointError as error:
                raise RunError(f"after step {step} {error} {ADVICE}") from None
            row = {
                "epoch": epoch + 1,
                "step": step,
                "train_loss": train_loss,
                "train_top1": train_top1,
                **{f"validation_{name}": value for name, value in validation.items()},
                "images_per_s": (step - first) * schedule.batch_size / seconds,
                "seconds": losses.before.seconds + time.perf_counter() - started,
            }
            if not np.isfinite(row["validation_loss"]):
                raise RunError(f"the validation loss became {row['validation_loss']} after step {step}. {ADVICE}")
            rows.append(row)
            keeper.epoch(step, state, row, model if chosen_epoch(rows, num_validation) is row else None)
            bar.report(row, schedule.epochs)
            if signum := interrupts.agreed():
                stop(signum)


def chosen_epoch(rows: Sequence[dict[str, Any]], num_images: int) -> dict[str, Any]:
    """The epoch whose model is kept: the latest that is within one standard error of the best on validation images.

    The best of many epochs is the luckiest as well, and as the rate decays a later one is more likely to be better.

    Args:
        rows: of `metrics.jsonl`, at least one.
        num_images: validation images, of which the standard error is that of an accuracy.

    References:
        The one-standard-error rule of Breiman et al., Classification and regression trees, 1984, Sec. 3.4.3.
    """
    best = max(row["validation_top1"] for row in rows)
    least = best - (best * (1 - best) / num_images) ** 0.5
    return [row for row in rows if row["validation_top1"] >= least][-1]


class Losses:
    """Metrics of the steps of one epoch, left on the device; looked at late, so that the device is never idle.

    Args:
        first_step: the step before the first.
        keeper: names its checkpoint where a loss is not finite.
        before: the steps of this epoch that were taken before a stop.
    """

    def __init__(self, first_step: int, keeper: Keeper, before: Unfinished = NOT_BEGUN):
        self.first_step = first_step
        self.keeper = keeper
        self.before = before
        self.metrics: list[dict[str, jax.Array]] = []
        self.checked = 0

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of one more step."""
        self.metrics.append(metrics)
        if len(self.metrics) > RUN_AHEAD:
            self.metrics[-1 - RUN_AHEAD]["loss"].block_until_ready()
        if len(self.metrics) % CHECK_EVERY == 0:
            self._look(len(self.metrics) - CHECK_EVERY)

    def check(self, params: Any) -> tuple[float, float]:
        """Looks at all, and at the parameters after them; returns mean loss and accuracy.

        The loss alone does not tell: compiled for a CPU, a maximum (ReLU, pooling) may drop NaN, and it is finite.
        """
        self._look(len(self.metrics))
        if not np.asarray(are_finite(params)).all():
            step = self.first_step + len(self.metrics)
            raise RunError(f"a parameter is not finite after step {step}; {self.keeper.kept()}. {ADVICE}")
        losses, correct, _ = self.taken()
        return float(np.mean(losses)), float(np.mean(correct))

    def taken(self, seconds: float = 0.0) -> Unfinished:
        """All steps of the epoch so far, of which those after the stop took so many seconds."""
        found = jax.device_get(self.metrics)
        losses, correct = ([float(row[name]) for row in found] for name in ("loss", "correct"))
        before = self.before
        return Unfinished(before.losses + losses, before.correct + correct, before.seconds + seconds)

    def _look(self, stop: int) -> None:
        losses = np.array(jax.device_get([row["loss"] for row in self.metrics[self.checked : stop]]))
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            step = self.first_step + self.checked + int(bad[0]) + 1
            raise RunError(f"the loss became {losses[bad[0]]} at step {step}; {self.keeper.kept()}. {ADVICE}")
        self.checked = max(self.checked, stop)
