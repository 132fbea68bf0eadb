"""Measures a trained model on its test set: accuracy, depths, sizes, multiply-accumulates, speed.

    python -m experiments.evaluate RUN [--data-dir DIR] [--adaptation level|sample] [--num-levels N] [--agreement N]
    python -m experiments.evaluate RUN --sweep [--data-dir DIR]
    python -m experiments.evaluate RUN [--shifted-views] [--with RUN...] [--fraction F] [--data-dir DIR]
    python -m experiments.evaluate MODEL [--data-dir DIR]

RUN is the folder of a run, MODEL a model file or the name of a model that comes with the package, such as cifar10-full.
Prints the figures; writes those of a run to RUN/summary.json, but for those of another --adaptation or --num-levels
than it was trained with. With --sweep, of a run with early exits: accuracy against cost for several thresholds, in
RUN/sweep.json and RUN/sweep.png. With --shifted-views or --with, of a finished run: accuracy if an ensemble answers the
images that its model is least confident of, and what that costs; added to the summary.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.cli import main, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.evaluate`."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, a model file, or the name of a model of the package."""
    data_dir: Path | None = None
    """Folder that holds the data; the one a run was trained from if not given."""
    adaptation: Literal["level", "sample"] | None = None
    """Shared kernels for each level of complexity, or kernels of each image's own; as trained if not given."""
    num_levels: int | None = None
    """Levels of complexity within a depth; as trained if not given."""
    agreement: int = 0
    """Also compare the classes that "level" and "sample" give to this many test images."""
    sweep: tyro.conf.FlagCreatePairsOff[bool] = False
    """Accuracy against cost for several thresholds of the early exits."""
    shifted_views: tyro.conf.FlagCreatePairsOff[bool] = False
    """Test-time augmentation: every model sees the image shifted by a pixel in four directions as well."""
    others: Annotated[tuple[Path, ...], tyro.conf.arg(name="with")] = ()
    """Ensemble: the models of these runs answer too."""
    fraction: float = 1.0
    """Fraction of the validation images that the ensemble answers, those of least confidence."""

    def __post_init__(self):
        """Refuses values outside their range."""
        if self.agreement < 0:
            raise ValueError(f"--agreement must be at least 0, got {self.agreement}.")
        if self.num_levels is not None and self.num_levels < 1:
            raise ValueError(f"--num-levels must be at least 1, got {self.num_levels}.")
        if self.num_levels is not None and self.adaptation == "sample":
            raise ValueError(f"--adaptation sample has no levels; leave out --num-levels {self.num_levels}.")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"--fraction must be in (0, 1], got {self.fraction}.")
        if self.fraction != 1 and not (self.shifted_views or self.others):
            raise ValueError(f"--fraction needs --shifted-views or --with, got --fraction {self.fraction} alone.")
        if (self.shifted_views or self.others) and (self.adaptation or self.num_levels or self.agreement):
            raise ValueError("--shifted-views and --with go with --fraction and --data-dir alone.")
        others = (self.adaptation, self.num_levels, self.agreement, self.shifted_views, self.others)
        if self.sweep and any(others):
            raise ValueError("--sweep goes with --data-dir alone.")


def evaluate(command: Command) -> None:
    """Carries out the command."""
    from experiments.config import Adaptive
    from experiments.devices import start_jax
    from experiments.errors import RunError
    from experiments.evaluation.accuracy import agreement
    from experiments.evaluation.report import measure, summarise, summarise_ensemble
    from experiments.evaluation.summary import describe
    from experiments.runs import folder as run_folder
    from experiments.runs.load import load_run
    from experiments.runs.puppet import find_model

    start_jax()
    path = find_model(command.run)
    if path != Path(command.run) / run_folder.MODEL:
        _evaluate_file(command, path)
        return
    run = load_run(Path(command.run), command.data_dir)
    if command.shifted_views or command.others:
        others = [load_run(folder) for folder in command.others]
        summarise_ensemble(run, others, command.shifted_views, command.fraction)
        return
    if command.sweep:
        _sweep(run)
        return
    options: dict[str, Any] = {
        "adaptation": command.adaptation,
        "num_levels": command.num_levels,
        "agreement": command.agreement or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    kernels = getattr(run.config.network, "kernels", None)
    if given and not isinstance(kernels, Adaptive):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise RunError(f"the kernels of {command.run} do not follow the image; leave out {flags}.")
    if command.num_levels and (command.adaptation or run.model.adaptation) == "sample":
        raise RunError(
            f"each image of {command.run} has its own kernels; leave out --num-levels, or add --adaptation level."
        )
    overrides = {name: value for name, value in given.items() if name != "agreement"}
    if overrides:
        print(describe(measure(run.model, *run.test, run.folder / run_folder.MODEL, **overrides)))
    else:
        summarise(run.folder, run.experiment, run.config, run.model, *run.test)
    if command.agreement:
        images = run.dataset.test_images[: command.agreement]
        same = agreement(run.model, images, **overrides)
        print(f"level = sample {same:.2%} of {len(images)} test images get the same class")


def _evaluate_file(command: Command, path: Path) -> None:
    from experiments.data import data_set_of, load_dataset
    from experiments.errors import UsageError
    from experiments.evaluation.report import measure
    from experiments.evaluation.summary import describe
    from experiments.model import load_model
    from experiments.runs.puppet import check_data

    if dataclasses.replace(command, data_dir=None) != Command(run=command.run):
        raise UsageError(f"{command.run} is a model without its run: only --data-dir goes with it.")
    model = load_model(path)
    dataset = load_dataset(data_set_of(model.class_names), command.data_dir)
    check_data(command.run, model, dataset, "name another --data-dir")
    print(describe(measure(model, dataset.test_images, dataset.test_labels, path)))


def _sweep(run: Any) -> None:
    from experiments.errors import RunError
    from experiments.evaluation.sweep import plot, sweep, table
    from experiments.runs.files import write_json

    if run.model.threshold is None:
        raise RunError(f"the network of {run.folder} has no early exits; leave out --sweep.")
    rows = sweep(run.model, run.validation[0], run.test)
    write_json(run.folder / "sweep.json", rows)
    plot(rows).savefig(run.folder / "sweep.png")
    print(table(rows), end="")
    print(f"written: {run.folder / 'sweep.json'}, {run.folder / 'sweep.png'}")


if __name__ == "__main__":
    main(run_command, Command, evaluate, "experiments.evaluate", __doc__)
