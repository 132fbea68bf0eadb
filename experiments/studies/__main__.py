"""Trains rows of the study behind preset `best` on CIFAR-10 and prints their accuracy on validation images.

    python -m experiments.studies ROW... --data-dir DIR [--seed N] [--runs FOLDER]

A row that is finished already is read, one that was interrupted is gone on with. The log of all rows is
experiments/studies/README.md.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli import run_command
from experiments.studies.rows import ROWS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.studies`."""

    rows: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names of rows."""
    data_dir: Path | None = None
    """Folder of CIFAR-10."""
    seed: int = 0
    """Of the subset, the split, the initial parameters and the order of the batches."""
    runs: Path = Path("runs/studies")
    """Folder of the runs."""

    def __post_init__(self):
        """Refuses rows that do not exist."""
        for row in self.rows or ("",):
            if row not in ROWS:
                raise ValueError(f"a row is one of {', '.join(ROWS)}; got {row!r}.")


def study(command: Command) -> None:
    """Carries out the command."""
    from experiments import run_folder
    from experiments.tables.runs import Runs

    runs = Runs(command.runs, {"cifar10": command.data_dir})
    summaries = {}
    for row in command.rows:
        config = dataclasses.replace(ROWS[row], seed=command.seed)
        summaries[row] = runs.summary(row, "cifar10", config, command.runs / f"{row}-seed{command.seed}")
    print(f"{'row':24}{'validation':>11}{'training':>10}{'bytes':>11}{'seconds':>9}")
    for row, summary in summaries.items():
        last = run_folder.read_metrics(command.runs / f"{row}-seed{command.seed}")[-1]
        print(
            f"{row:24}{last['validation_top1']:11.2%}{last['train_top1']:10.2%}{summary['trainable_bytes']:11,}"
            f"{summary['train_seconds']:9.0f}"
        )


if __name__ == "__main__":
    raise SystemExit(run_command(Command, study, "experiments.studies", __doc__))
