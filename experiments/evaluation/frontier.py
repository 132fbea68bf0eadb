"""Accuracy against stored bytes of finished runs."""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.errors import RunError
from experiments.evaluation.summary import Summary, read_summary
from experiments.fields import flat
from experiments.markdown import markdown
from experiments.names import distinct_names, name_of
from experiments.runs.folder import SUMMARY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """Networks that differ by their seed alone.

    Attributes:
        network: its name.
        bits: of a stored weight.
        bytes: of all trainable floats.
        coded_bytes: of all that inference needs after Brotli, the most of any seed; None where a run does not know.
        top1: on the test set, of each seed, in their order.
        seeds: which.
        frontier: whether it is on the frontier.
    """

    network: str
    bits: int
    bytes: int
    top1: tuple[float, ...]
    seeds: tuple[int, ...]
    coded_bytes: int | None = None
    frontier: bool = False

    @property
    def mean(self) -> float:
        """Mean top-1."""
        return statistics.fmean(self.top1)


def read_summaries(folders: Iterable[Path]) -> list[Summary]:
    """The summaries of finished runs; a folder that is no run stands for the finished runs in it.

    Raises:
        RunError: if there is none, one is damaged, or they were tested on different images.
    """
    summaries: dict[Path, Summary] = {}
    for folder in folders:
        own = folder / SUMMARY
        found = [own] if own.is_file() else sorted(folder.glob(f"*/{SUMMARY}"))
        if not found:
            raise RunError(f"{folder} is no finished run and holds none; give folders with a {SUMMARY}.")
        for path in found:
            summaries[path.resolve()] = read_summary(path.parent)
    tests = {(summary.experiment, summary.test_images) for summary in summaries.values()}
    if len(tests) > 1:
        shown = ", ".join(f"{images} of {experiment}" for experiment, images in sorted(tests))
        raise RunError(f"runs can be compared on the same test images alone, got {shown}; leave some runs out.")
    return list(summaries.values())


def collect(summaries: Iterable[Summary]) -> list[Point]:
    """Points in order of their bytes, accurate ones first among equals.

    Raises:
        RunError: if two runs have the same configuration and seed.
    """
    groups: dict[tuple[str, int], dict[int, Summary]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        config = flat(summary.config)
        seed, bits = config.pop("seed"), config.pop("bits")
        config["start_from"] = bool(config["start_from"])  # each seed from its own
        if "teachers" in config:
            config["teachers"] = len(config["teachers"])
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
            bytes=next(iter(of_seed.values())).trainable_bytes,
            coded_bytes=_most([summary.coded_bytes for summary in of_seed.values()]),
            top1=tuple(of_seed[seed].top1 for seed in sorted(of_seed)),
            seeds=tuple(sorted(of_seed)),
        )
        for (key, bits), of_seed in groups.items()
    ]
    return sorted(points, key=lambda point: (point.bytes, -point.mean, point.network))


def _most(values: Sequence[int | None]) -> int | None:
    return None if None in values else max(value for value in values if value is not None)


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
    rows = []
    for point in points:
        top1 = f"{100 * point.mean:.2f}"
        if len(point.top1) > 1:
            top1 += f" ± {100 * statistics.stdev(point.top1):.2f}"
        every = ", ".join(f"{100 * value:.2f}" for value in point.top1)
        shown = f"**{top1}**" if point.frontier else top1
        coded = "" if point.coded_bytes is None else f"{point.coded_bytes:,}"
        rows.append([point.network, str(point.bits), f"{point.bytes:,}", coded, shown, every])
    return markdown(["network", "bits", "all trainable (bytes)", "coded (bytes)", "top-1 (%)", "every seed"], rows)
