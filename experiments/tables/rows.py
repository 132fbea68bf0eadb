"""What a table is made of: its lines, and the runs that a line stands for. Imports no JAX."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.config import Config
from experiments.fields import replace

SMOKE_TEST_IMAGES = 1_000
"""Most test images of a run of less than one epoch."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table: what is trained, for every seed, and what the papers print.

    Attributes:
        label: shown.
        experiment: name of the data set.
        config: of the full protocol; seed and budget are put in later.
        paper: printed figures by name (`top1`, `top5` fractions; `mb`; `gmacs`; `s_per_image`).
        rates: learning rates of which one is chosen on validation images, see `search_of`; none to take that of
            `config`, or of `first` where there is one.
        first: a run that is trained before, and whose parameters this one starts with.
        short_epochs: most epochs where the budget is less than 1, of what would take days on a CPU.
        search_epochs: most epochs that a learning rate is tried for where the budget is less than 1.
        confidence: how sure it is that the papers' network of this size is this one.
    """

    label: str
    experiment: str
    config: Config
    paper: dict[str, float] = dataclasses.field(default_factory=dict)
    rates: tuple[float, ...] = ()
    first: Config | None = None
    short_epochs: int | None = None
    search_epochs: int | None = None
    confidence: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose lines are trained.

    Attributes:
        title: shown above it, with its number in the papers.
        rows: its lines.
        smoke: the budget of a smoke run, small enough for two CPU cores.
        seeds: seeds of the full protocol.
        columns: figures shown beside accuracy, see `experiments.tables.render`.
    """

    title: str
    rows: tuple[Row, ...]
    smoke: float
    seeds: int = 1
    columns: tuple[str, ...] = ("mb",)


SEARCH_SHARE = 0.2
"""Share of the epochs that each learning rate is tried for."""
MOST_RATES = 5
"""Tried at most, where the best is at the edge of those tried before."""


def search_of(row: Row, budget: float, rate: float) -> Config:
    """The run, of seed 0, that a learning rate is judged by on validation images."""
    config = replace(row.first or row.config, learning_rate=rate)
    most = row.search_epochs or (row.short_epochs and max(1, round(row.short_epochs * SEARCH_SHARE)))
    return scaled(config, budget * SEARCH_SHARE, 0, most if budget < 1 else None)


def next_rate(tried: dict[float, float]) -> float | None:
    """The next learning rate to try, or None: three times as far out, as long as the best is at an edge.

    Args:
        tried: accuracy on validation images by rate.
    """
    best = max(tried, key=lambda rate: tried[rate])
    if len(tried) >= MOST_RATES or min(tried) < best < max(tried):
        return None
    return best / 3 if best == min(tried) else best * 3


def scaled(config: Config, budget: float, seed: int, most: int | None = None) -> Config:
    """A configuration with a share of the epochs.

    Less than one epoch is one epoch on a share of the images, evaluated on at most `SMOKE_TEST_IMAGES` test images.

    Args:
        config: of the full protocol.
        budget: in (0, 1]; 1 is the full protocol.
        seed: of the run.
        most: epochs, where the budget is less than 1.
    """
    data, batch_size = config.data, config.optim.batch_size
    epochs = config.optim.epochs * budget
    if budget < 1 and most is not None:
        epochs = min(epochs, most)
    if budget == 1 or epochs >= 1:
        return replace(config, epochs=max(1, round(epochs)), seed=seed)
    images = max(batch_size, round((data.num_images or batch_size) * epochs))
    validation = min(data.num_validation, max(batch_size, round(data.num_validation * epochs)))
    few: dict[str, Any] = {"num_images": images, "num_validation": validation, "num_test": SMOKE_TEST_IMAGES}
    return replace(config, epochs=1, seed=seed, **few)


def movable(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that is the same where the folder of all runs is another one."""
    start = config.get("start_from")
    return config if start is None else config | {"start_from": Path(start).name}
