"""How fast finished runs classify, beside each other: every figure is also a ratio to the first run, of one process.

    python -m experiments.benchmark RUN RUN... [--batch-sizes 1 256] [--images 2048] [--rounds 10]

The models classify the same test images, from 8-bit images to logits, kernels from the bank where they are generated.
In every round each takes its turn, another one first, so that whatever else slows the machine slows all. Compiling and
filling the bank come before. Prints a table, and writes it to FOLDER/benchmark.json with --out FOLDER.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.cli import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.benchmark`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs on the same data; ratios are to the first."""
    data_dir: Path | None = None
    """Folder that holds the data; the one the first run was trained from if not given."""
    batch_sizes: tuple[int, ...] = (1, 256)
    """Images a call."""
    images: int = 2048
    """Test images a round, at most; at batch 1 a sixteenth of them."""
    rounds: int = 10
    """How often each takes its turn."""
    out: Path | None = None
    """Folder that benchmark.json is written to; none if not given."""

    def __post_init__(self):
        """Refuses values outside their range."""
        if not self.runs:
            raise ValueError("give at least one RUN, the folder of a finished run.")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f"--batch-sizes must be positive, got {self.batch_sizes}.")
        for name in ("images", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}.")


def benchmark(command: Command) -> None:
    """Carries out the command."""
    from experiments import run_folder
    from experiments.data import spread_indices
    from experiments.errors import RunError
    from experiments.evaluation import device_name
    from experiments.model_file import load_model
    from experiments.names import distinct_names
    from experiments.run import load_data_of, use_compilation_cache

    use_compilation_cache()
    described = [run_folder.read_config(folder) for folder in command.runs]
    for folder, one in zip(command.runs, described, strict=True):
        if one["data"]["sha256"] != described[0]["data"]["sha256"]:
            raise RunError(f"{folder} was trained on other data than {command.runs[0]}; give runs on the same data.")
    models = [load_model(folder / run_folder.MODEL) for folder in command.runs]
    names = distinct_names([run_folder.full_config(one["config"]) for one in described])
    predictors = [model.predictor(max_sets=4096) for model in models]
    tested = load_data_of(command.runs[0], command.data_dir).test_images
    rows = []
    for size in command.batch_sizes:
        count = max(size, command.images // (16 if size == 1 else 1))
        chosen = tested[spread_indices(len(tested), count)]
        calls = [_classify_all(predictor, chosen, size) for predictor in predictors]
        times = time_rounds(calls, command.rounds)
        for name, folder, own in zip(names, command.runs, times, strict=True):
            ratios = [first / mine for first, mine in zip(times[0], own, strict=True)]
            rows.append(
                {
                    "network": name,
                    "run": str(folder),
                    "batch_size": size,
                    "images_per_s": len(chosen) / statistics.median(own),
                    "speed": statistics.median(ratios),
                    "speed_range": [min(ratios), max(ratios)],
                }
            )
    result = {"device": device_name(), "versions": run_folder.versions(), "rounds": command.rounds, "rows": rows}
    print(table(rows) + f"device: {result['device']}")
    if command.out is not None:
        command.out.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(command.out / "benchmark.json", result)


def _classify_all(predictor: Any, images: Any, batch_size: int) -> Callable[[], None]:
    def call() -> None:
        for first in range(0, len(images), batch_size):
            predictor(images[first : first + batch_size])

    return call


def time_rounds(
    calls: Sequence[Callable[[], None]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Seconds of each call in each round, (calls, rounds), after each has been called once for nothing.

    Round r begins with call r modulo their number.
    """
    for call in calls:
        call()
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        for place in range(len(calls)):
            which = (turn + place) % len(calls)
            start = clock()
            calls[which]()
            seconds[which].append(clock() - start)
    return seconds


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    from experiments.tables.render import markdown

    lines = []
    for row in rows:
        low, high = row["speed_range"]
        speed = f"{row['speed']:.2f} ({low:.2f} to {high:.2f})"
        lines.append([row["network"], str(row["batch_size"]), f"{row['images_per_s']:,.0f}", speed])
    return markdown(["network", "batch", "images/s", "times as fast as the first"], lines)


if __name__ == "__main__":
    raise SystemExit(run_command(Command, benchmark, "experiments.benchmark", __doc__))
