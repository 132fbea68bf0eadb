"""Which networks are worth their bytes: accuracy against stored bytes of finished runs.

    python -m experiments.frontier RUN... [--out FOLDER]

Runs that differ by their seed alone are one point, at their mean. A network stored in 32, 8 and 4 bits a weight
(`experiments.quantize` without --epochs, or trained so) is one line of up to three points. A point is on the frontier
if no other is as accurate with fewer bytes, or more accurate with as many. Bytes are those of all trainable floats;
"coded" are those of all that inference needs, statistics of norms too, as Brotli codes them. Accuracy is top-1 on the
test set, so that a network chosen here has been chosen on it. Writes FOLDER/frontier.md, frontier.json and
frontier.png.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli import main, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.frontier`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of finished runs, or folders that hold such folders."""
    out: Path = Path("runs")
    """Folder that the three files are written to."""

    def __post_init__(self):
        """Refuses an empty list."""
        if not self.runs:
            raise ValueError("give at least one RUN, the folder of a finished run.")


def make(command: Command) -> None:
    """Carries out the command."""
    from matplotlib.figure import Figure

    from experiments.evaluation.frontier import collect, lines, on_frontier, read_summaries, table
    from experiments.runs.files import write_json
    from puppet_jax.plots import plot_accuracy_bytes

    points = on_frontier(collect(read_summaries(command.runs)))
    command.out.mkdir(parents=True, exist_ok=True)
    path = command.out / "frontier"
    text = table(points)
    path.with_suffix(".md").write_text(text)
    write_json(path.with_suffix(".json"), [dataclasses.asdict(point) for point in points])
    figure = Figure(figsize=(12, 4.5), dpi=100, layout="constrained")
    plot_accuracy_bytes(lines(points), figure=figure).savefig(path.with_suffix(".png"))
    print(f"{text}\nwritten: {path}.md, {path}.json, {path}.png")


if __name__ == "__main__":
    main(run_command, Command, make, "experiments.frontier", __doc__)
