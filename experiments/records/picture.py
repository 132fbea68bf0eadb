"""The picture of accuracy against stored bytes, docs/frontier.png, drawn from the record."""

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.records.data import Study, look_up

PICTURE = Path("docs/frontier.png")
GREY, INK = "#9a9a9a", "#333333"


@dataclasses.dataclass(frozen=True)
class Family:
    """Networks of one kind, each stored in 4, 8 and 32 bits; one curve is the best of them at no more bytes.

    Attributes:
        name: written beside its curve; none for those that are grey.
        colour: of Okabe and Ito's palette, safe for the colour-blind.
        marker: tells them apart in print without colour.
        few: networks on few images, rows of `few-bits` (and of `equal-bytes` at 32 bits).
        full: a network on all images, a row of its study; the others likewise.
        label: where the name stands, bytes and per cent; and the name and its place for `full`.
    """

    name: str
    colour: str
    marker: str
    few: tuple[str, ...]
    label: tuple[float, float] = (0, 0)
    full: str | None = None
    full_label: tuple[str, float, float] = ("", 0, 0)


FAMILIES = (
    Family("puppet, from the velocity", "#0072B2", "o", ("c64-velocity", "c128-velocity"), (5.2e3, 78.9),
           "full-set-gpu/full", ("puppet, preset full", 3.9e4, 93.8)),
    Family("puppet, from the states (papers)", "#D55E00", "s", ("c64-states-former", "c128-states", "c512-states"),
           (1.5e5, 81.9), "full-set-two-cores/c512-states", ("puppet, narrow, 16 epochs", 1.2e6, 88.3)),
    Family("frozen random basis", "#009E73", "^", ("c64-frozen", "c128-frozen", "c512-frozen"), (3.2e5, 76.3)),
    Family("ordinary weights, same layers, slim", "#000000", "D", ("c64-slim", "c128-slim", "c512-slim"),
           (9.6e4, 72.4), "full-set-two-cores/c512-slim", ("ordinary weights, 16 epochs", 1.2e6, 89.1)),
    Family("ResNet of as many bytes", "#CC79A7", "v", ("c64-residual", "c128-residual", "c512-resnet20"),
           (2.2e5, 66.4), "full-set-two-cores/c512-resnet20", ("ResNet-20, 16 epochs", 1.2e6, 87.5)),
    Family("", GREY, ".", ("c64-slim-plain", "c128-slim-plain")),
)  # fmt: skip
PUBLISHED: dict[str, tuple[float, float]] = {
    "tiniest": (-6, 5), "condensenet-50": (-6, -5), "condensenet-74": (-6, 4), "condensenet-86": (6, 4),
    "simpnet-0.30": (6, -3), "simpnet-0.60": (6, -3), "resnet20-modern": (6, -6), "resnet20-2016": (6, -6),
    "hyper-wrn-40-2": (-6, 2), "hyper-wrn-40-1": (-6, -3), "mlperf-resnet8": (-6, -4), "unas": (6, -3),
}  # fmt: skip
"""Rows of `published`, and where their names stand, in points beside the mark."""


def points(studies: Mapping[str, Study]) -> dict[str, Any]:
    """What the picture shows: bytes and accuracy in per cent, by panel and network."""
    found: dict[str, Any] = {"few": {}, "full": {}, "published": {}}

    def point(reference: str) -> list[float]:
        return [look_up(studies, f"{reference}/bytes")[1], statistics.fmean(look_up(studies, f"{reference}/top1")[1])]

    for family in FAMILIES:
        for network in family.few:
            at = [f"few-bits/{network}-4bit", f"few-bits/{network}-8bit", f"equal-bytes/{network}"]
            found["few"][network] = [point(reference) for reference in at]
        if family.full:
            found["full"][family.full] = [point(f"{family.full}{bits}") for bits in ("-4bit", "-8bit", "")]
    for name in PUBLISHED:
        found["published"][name] = point(f"published/{name}")
    return found


def is_current(path: Path, studies: Mapping[str, Study]) -> bool:
    """Whether the picture at `path` was drawn from these figures, by this file; a PNG's comment holds their hash."""
    return path.is_file() and _hash(studies).encode() in path.read_bytes()


def _hash(studies: Mapping[str, Study]) -> str:
    drawn = json.dumps([points(studies), repr(FAMILIES), repr(PUBLISHED)], sort_keys=True)
    return hashlib.sha256(drawn.encode()).hexdigest()


def draw(path: Path, studies: Mapping[str, Study]) -> None:
    """Draws the picture and writes it to `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 9), dpi=110, layout="constrained")
    few, full = figure.subplots(2, 1)
    shown = points(studies)
    for family in FAMILIES:
        style = {"color": family.colour, "marker": family.marker, "linewidth": 2 if family.name else 1}
        every = sorted(pair for network in family.few for pair in shown["few"][network])
        best = [pair for i, pair in enumerate(every) if all(pair[1] > before[1] for before in every[:i])]
        few.plot(*zip(*every, strict=True), color=GREY, marker=family.marker, markersize=4, linestyle="", zorder=1)
        few.plot(*zip(*best, strict=True), **style, zorder=3 if family.name else 1)
        text = {"color": family.colour, "fontsize": 12, "fontweight": "bold"}
        few.annotate(family.name, family.label, **text)
        if family.full:
            name, *at = family.full_label
            full.plot(*zip(*shown["full"][family.full], strict=True), **style, zorder=3)
            full.annotate(name, at, **text)
    _publish(full, shown["published"], studies)
    few.set(
        title="8,000 images, no augmentation: the best of each kind at no more bytes, in 4, 8 or 32 bits a weight",
        ylim=(59, 84),
    )
    full.set(title="All images, augmented, in 4, 8 and 32 bits a weight; crosses: as others report", ylim=(85.5, 95.9))
    for axes, ticks in ((few, (3e3, 1e4, 3e4, 1e5, 3e5, 1e6)), (full, (1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7))):
        axes.set(xscale="log", xlabel="stored bytes", ylabel="top-1, CIFAR-10 test images (%)")
        axes.set_xticks(ticks, [f"{tick / 1e3:,.0f} kB" for tick in ticks])
        axes.minorticks_off()
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    full.set_xlim(8e3, 1e7)
    figure.savefig(path, metadata={"Comment": _hash(studies)})


def _publish(axes: Any, found: Mapping[str, list[float]], studies: Mapping[str, Study]) -> None:
    for name, (size, top1) in found.items():
        dx, dy = PUBLISHED[name]
        label = look_up(studies, f"published/{name}/label")[1]
        axes.plot(size, top1, color=INK, marker="x", markersize=7, markeredgewidth=2, zorder=2)
        side = "left" if dx > 0 else "right"
        axes.annotate(label, (size, top1), (dx, dy), textcoords="offset points", ha=side, fontsize=10, color=INK)
