"""Measures a trained run on its test set: accuracy, depths, sizes, multiply-accumulates, speed.

    python -m experiments.evaluate RUN [--data-dir DIR] [--adaptation level|sample] [--num-slices N] [--agreement N]
    python -m experiments.evaluate RUN [--views] [--others RUN...] [--share S] [--data-dir DIR]

Prints the figures and writes RUN/summary.json. With --views or --others, of a finished run: accuracy if images that its
model is in doubt about get further answers and the mean of all counts, and what that costs; added to the summary.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.cli import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.evaluate`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a run."""
    data_dir: Path | None = None
    """Folder that holds the data; the one the run was trained from if not given."""
    adaptation: Literal["level", "sample"] | None = None
    """Shared kernels for each slice of complexity, or kernels of each image's own; as trained if not given."""
    num_slices: int | None = None
    """Slices of complexity in a depth bucket; as trained if not given."""
    agreement: int = 0
    """Also compare the classes that "level" and "sample" give to this many test images."""
    views: tyro.conf.FlagCreatePairsOff[bool] = False
    """Further answers: every model is asked of the image moved by a pixel in four directions."""
    others: tuple[Path, ...] = ()
    """Further answers: the models of these runs are asked."""
    share: float = 1.0
    """Share of the validation images that get further answers, those of most doubt."""

    def __post_init__(self):
        """Refuses values outside their range."""
        if self.agreement < 0:
            raise ValueError(f"--agreement must be at least 0, got {self.agreement}.")
        if self.num_slices is not None and self.num_slices < 1:
            raise ValueError(f"--num-slices must be at least 1, got {self.num_slices}.")
        if not 0 < self.share <= 1:
            raise ValueError(f"--share must be in (0, 1], got {self.share}.")
        if self.share != 1 and not (self.views or self.others):
            raise ValueError(f"--share needs --views or --others, got --share {self.share} alone.")
        if (self.views or self.others) and (self.adaptation or self.num_slices or self.agreement):
            raise ValueError("--views and --others go with --share and --data-dir alone.")


def evaluate(command: Command) -> None:
    """Carries out the command."""
    from experiments import run_folder
    from experiments.errors import RunError
    from experiments.evaluation import agreement
    from experiments.model_file import load_model
    from experiments.run import load_data_of, summarise, summarise_answers, use_compilation_cache

    use_compilation_cache()
    config = run_folder.as_config(run_folder.read_config(command.run)["config"])
    given = {"adaptation": command.adaptation, "num_slices": command.num_slices}
    overrides = {name: value for name, value in given.items() if value is not None}
    meaningless = [*overrides, *(["agreement"] if command.agreement else [])]
    if meaningless and config.one_set_a_depth:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in meaningless)
        raise RunError(f"{command.run} has one set of kernels a depth (--adapt {config.adapts}); leave out {flags}.")
    if command.views or command.others:
        dataset = load_data_of(command.run, command.data_dir)
        summarise_answers(command.run, command.others, dataset, command.views, command.share)
        return
    model = load_model(command.run / run_folder.MODEL)
    dataset = load_data_of(command.run, command.data_dir)
    summarise(command.run, model, dataset, **overrides)
    if command.agreement > 0:
        images = dataset.test_images[: command.agreement]
        same = agreement(model, images, **overrides)
        print(f"level = sample {same:.2%} of {len(images)} test images get the same class")


if __name__ == "__main__":
    raise SystemExit(run_command(Command, evaluate, "experiments.evaluate", __doc__))
