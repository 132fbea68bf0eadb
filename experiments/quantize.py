"""Stores the model of a finished run in 8 or 4 bits a weight, and measures it.

    python -m experiments.quantize RUN --bits 8|4 [--epochs N] [--workdir FOLDER] [--data-dir DIR] [--resume]

Matrices are rounded channel by channel, vectors as a whole in 8 bits; the statistics of batch norms are estimated
anew on the run's training images. With --epochs, training goes on for so long with the rounding in view, which wins
back most of what it costs. The new folder holds the model, its summary and the run's configuration;
`experiments.evaluate` and `experiments.predict` take it. To train with the rounding in view from the start, give an
experiment --bits instead.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.cli import main, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.quantize`."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a finished run."""
    bits: Literal[8, 4]
    """Bits of a stored weight."""
    epochs: int = 0
    """Passes over the run's training images with the rounding in view; 0 to round alone."""
    learning_rate: float | None = None
    """Peak of their schedule, 1e-3 if not given; the rest is as in the run."""
    workdir: Path | None = None
    """The new folder; RUN-BITSbit if not given."""
    data_dir: Path | None = None
    """Folder that holds the data; the one the run was trained from if not given."""
    resume: bool = False
    """Go on with the epochs where they were interrupted."""

    def __post_init__(self):
        """Refuses values outside their range."""
        if self.epochs < 0:
            raise ValueError(f"--epochs must be at least 0, got {self.epochs}.")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"--learning-rate must be positive and finite, got {self.learning_rate}.")
        if not self.epochs and (self.resume or self.learning_rate is not None):
            flag = "--resume" if self.resume else "--learning-rate"
            raise ValueError(f"{flag} needs --epochs, got {self.epochs}.")


def quantize(command: Command) -> None:
    """Carries out the command."""
    from experiments.config import Options
    from experiments.devices import start_jax
    from experiments.errors import RunError
    from experiments.fields import replace
    from experiments.runs.load import load_run
    from experiments.training.rounding import round_run
    from experiments.training.run import train

    start_jax()
    there = command.run.resolve()  # "." has no name
    folder = command.workdir or there.with_name(f"{there.name}-{command.bits}bit")
    if folder.exists() and not command.resume:
        raise RunError(f"{folder} exists already; name another --workdir.")
    run = load_run(command.run, command.data_dir)
    if run.model.bits <= command.bits:
        raise RunError(
            f"the model of {command.run} has {run.model.bits} bits a weight already, got --bits {command.bits}."
        )
    if not command.epochs:
        round_run(run, folder, command.bits)
        return
    rate = 1e-3 if command.learning_rate is None else command.learning_rate
    config = replace(
        run.config, bits=command.bits, epochs=command.epochs, learning_rate=rate, start_from=str(command.run)
    )
    source = run.data["source"]
    data_dir = command.data_dir or (source["data_dir"] and Path(source["data_dir"]))
    options = Options(data_dir=data_dir, data_source=source["data_source"], workdir=folder, resume=command.resume)
    train(run.experiment, config, options, run.dataset)


if __name__ == "__main__":
    main(run_command, Command, quantize, "experiments.quantize", __doc__)
