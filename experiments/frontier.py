"""Which networks are worth their bytes: accuracy against stored bytes of finished runs.

    python -m experiments.frontier RUN... [--out FOLDER]

Runs that differ by their seed alone are one point, at their mean. A network stored in 32, 8 and 4 bits a weight
(`experiments.quantize`, or trained so) is one line of up to three points. A point is on the frontier if no other is as
accurate with fewer bytes, or more accurate with as many. Bytes are those of all trainable floats; accuracy is top-1 on
the test set, so that a network chosen here has been chosen on it. Writes FOLDER/frontier.md, frontier.json and
frontier.png.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.cli import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.frontier`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished runs, or folders that hold such folders."""
    out: Path = Path("runs")
    """Folder that the three files are written to."""

    def __post_init__(self):
        """Refuses an empty list."""
        if not self.runs:
            raise ValueError("give at least one RUN, the folder of a finished run.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """Networks that differ by their seed alone.

    Attributes:
        network: its name.
        bits: of a stored weight.
        bytes: of all trainable floats.
        top1: on the test set, of each seed, in their order.
        seeds: which.
        frontier: whether it is on the frontier.
    """

    network: str
    bits: int
    bytes: int
    top1: tuple[float, ...]
    seeds: tuple[int, ...]
    frontier: bool = False

    @property
    def mean(self) -> float:
        """Mean top-1."""
        return statistics.fmean(self.top1)


def make(command: Command) -> None:
    """Carries out the command."""
    from matplotlib.figure import Figure

    from experiments import run_folder
    from puppet_jax.plots import plot_accuracy_bytes

    points = on_frontier(collect(read_summaries(command.runs)))
    command.out.mkdir(parents=True, exist_ok=True)
    path = command.out / "frontier"
    text = table(points)
    path.with_suffix(".md").write_text(text)
    run_folder.write_json(path.with_suffix(".json"), [dataclasses.asdict(point) for point in points])
    figure = Figure(figsize=(12, 4.5), dpi=100, layout="constrained")
    plot_accuracy_bytes(lines(points), figure=figure).savefig(path.with_suffix(".png"))
    print(f"{text}\nwritten: {path}.md, {path}.json, {path}.png")


def read_summaries(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The summaries of finished runs; a folder that is no run stands for the finished runs in it.

    Raises:
        RunError: if there is none, one is damaged, or they were tested on different images.
    """
    from experiments import run_folder
    from experiments.errors import RunError

    needed = ("config", "top1", "trainable_bytes", "experiment", "test_images")
    summaries: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        own = folder / run_folder.SUMMARY
        found = [own] if own.is_file() else sorted(folder.glob(f"*/{run_folder.SUMMARY}"))
        if not found:
            raise RunError(f"{folder} is no finished run and holds none; give folders with a {run_folder.SUMMARY}.")
        for path in found:
            summary = run_folder.read_summary(path.parent, lambda found: [found[name] for name in needed])
            summaries[path.resolve()] = summary
    tests = {(summary["experiment"], summary["test_images"]) for summary in summaries.values()}
    if len(tests) > 1:
        shown = ", ".join(f"{images} of {experiment}" for experiment, images in sorted(tests))
        raise RunError(f"runs can be compared on the same test images alone, got {shown}; leave some runs out.")
    return list(summaries.values())


def collect(summaries: Iterable[dict[str, Any]]) -> list[Point]:
    """Points in order of their bytes, accurate ones first among equals.

    Raises:
        RunError: if two runs have the same configuration and seed.
    """
    from experiments import run_folder
    from experiments.errors import RunError
    from experiments.names import distinct_names, name_of

    groups: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        config = run_folder.full_config(summary["config"])
        seed, bits = config.pop("seed"), config.pop("bits")
        config["start_from"] = bool(config["start_from"])  # each seed from its own
        key = json.dumps(config, sort_keys=True)
        configs[key] = config
        of_seed = groups.setdefault((key, bits), {})
        if seed in of_seed:
            raise RunError(
                f"two runs are of the same configuration and seed {seed} ({name_of(config)}, {bits} bits a weight); "
                "leave out one of them."
            )
        of_seed[seed] = summary
    names = dict(zip(configs, distinct_names(list(configs.values())), strict=True))
    points = [
        Point(
            network=names[key],
            bits=bits,
            bytes=next(iter(of_seed.values()))["trainable_bytes"],
            top1=tuple(of_seed[seed]["top1"] for seed in sorted(of_seed)),
            seeds=tuple(sorted(of_seed)),
        )
        for (key, bits), of_seed in groups.items()
    ]
    return sorted(points, key=lambda point: (point.bytes, -point.mean, point.network))


def on_frontier(points: Sequence[Point]) -> list[Point]:
    """The same points, in the order that `collect` gives, marked where none of no more bytes is as accurate."""
    marked, best = [], 0.0
    for point in points:
        marked.append(dataclasses.replace(point, frontier=point.mean > best))
        best = max(best, point.mean)
    return marked


def lines(points: Iterable[Point]) -> dict[str, tuple[Any, Any]]:
    """Bytes and mean accuracies of each network, for `puppet_jax.plots.plot_accuracy_bytes`."""
    found: dict[str, tuple[Any, Any]] = {}
    for point in points:
        of_bytes, of_top1 = found.setdefault(point.network, ([], []))
        of_bytes.append(point.bytes)
        of_top1.append(point.mean)
    return found


def table(points: Iterable[Point]) -> str:
    """A Markdown table; bold are the points on the frontier."""
    from experiments.tables.render import markdown

    rows = []
    for point in points:
        top1 = f"{100 * point.mean:.2f}"
        if len(point.top1) > 1:
            top1 += f" ± {100 * statistics.stdev(point.top1):.2f}"
        every = ", ".join(f"{100 * value:.2f}" for value in point.top1)
        shown = f"**{top1}**" if point.frontier else top1
        rows.append([point.network, str(point.bits), f"{point.bytes:,}", shown, every])
    return markdown(["network", "bits", "all trainable (bytes)", "top-1 (%)", "every seed"], rows)


if __name__ == "__main__":
    raise SystemExit(run_command(Command, make, "experiments.frontier", __doc__))
