"""The picture of accuracy against stored bytes and multiply-accumulates, docs/frontier.png, drawn from the record."""

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
    """Networks of one kind, each stored in 4, 8 and 32 bits; one curve is the best of them at no more of either cost.

    Attributes:
        name: written beside its curve; none for those that are grey.
        colour: of Okabe and Ito's palette, safe for the colour-blind.
        marker: tells them apart in print without colour.
        few: networks on few images, rows of `few-bits` (and of `equal-bytes` at 32 bits).
        label: where the name stands, kB and per cent.
        more: networks on few images in their best bits alone, with their studies.
        full: a network on all images, with its study, in 32 bits; rows of its name have it in fewer.
        full_label: what it is called there, and where that stands.
    """

    name: str
    colour: str
    marker: str
    few: tuple[str, ...]
    label: tuple[float, float] = (0, 0)
    more: tuple[str, ...] = ()
    full: str | None = None
    full_label: tuple[str, float, float] = ("", 0, 0)


FAMILIES = (
    Family("puppet, from the velocity", "#0072B2", "o", ("c64-velocity", "c128-velocity"), (3.3, 78.6),
           ("light/light", "distillation/wide"), "full-set-gpu/full", ("puppet, preset full", 16, 93.5)),
    Family("puppet, from the states (papers)", "#D55E00", "s", ("c64-states-former", "c128-states", "c512-states"),
           (50, 82.2), (), "full-set-two-cores/c512-states", ("puppet, narrow, 16 epochs", 1250, 88.2)),
    Family("frozen random basis", "#009E73", "^", ("c64-frozen", "c128-frozen", "c512-frozen"), (320, 76.3)),
    Family("ordinary weights, same layers, slim", "#000000", "D", ("c64-slim", "c128-slim", "c512-slim"),
           (26, 74.6), ("light/slim-8bit", "light/slim-4bit"),
           "full-set-two-cores/c512-slim", ("ordinary, 16 epochs", 1250, 89.0)),
    Family("ResNet of as many bytes", "#CC79A7", "v", ("c64-residual", "c128-residual", "c512-resnet20"),
           (100, 66.0), (), "full-set-two-cores/c512-resnet20", ("ResNet-20, 16 epochs", 1250, 87.5)),
    Family("", GREY, ".", ("c64-slim-plain", "c128-slim-plain")),
)  # fmt: skip
PUBLISHED: dict[str, tuple[tuple[float, float], ...]] = {
    "tiniest": ((-6, 5), (-6, -3)), "condensenet-50": ((-6, -5), (-6, -5)), "condensenet-74": ((-6, 4), (6, -5)),
    "condensenet-86": ((6, 4), (6, 4)), "simpnet-0.30": ((6, -3),), "simpnet-0.60": ((6, -3),),
    "resnet20-modern": ((6, -6), (6, -6)), "resnet20-2016": ((6, -6), (6, -6)), "hyper-wrn-40-2": ((-6, 2),),
    "hyper-wrn-40-1": ((-6, -3),), "mlperf-resnet8": ((-6, -4), (6, -4)), "unas": ((6, -3),),
}  # fmt: skip
"""Rows of `published`, and where their names stand beside the mark, in points: by bytes, by multiply-accumulates."""


def points(studies: Mapping[str, Study]) -> dict[str, Any]:
    """What the picture shows, by panel and network: kB, million multiply-accumulates or None, and per cent."""
    found: dict[str, Any] = {"few": {}, "full": {}, "published": {}}

    def value(reference: str) -> Any:
        return look_up(studies, reference)[1]

    def point(reference: str, macs: float | None) -> list[float | None]:
        millions = None if macs is None else macs / 1e6
        return [value(f"{reference}/bytes") / 1e3, millions, statistics.fmean(value(f"{reference}/top1"))]

    for family in FAMILIES:
        for network in family.few:
            at = [f"few-bits/{network}-4bit", f"few-bits/{network}-8bit", f"equal-bytes/{network}"]
            counted = "macs" if network in studies["macs"].rows else "equal-bytes"  # where no layer is mirrored
            found["few"][network] = [point(reference, value(f"{counted}/{network}/macs")) for reference in at]
        for reference in family.more:
            name = reference.partition("/")[2]
            found["few"][reference] = [point(reference, value(f"macs/{name}/macs"))]
        if family.full:
            macs = value(f"macs/{family.full.partition('/')[2]}/macs")
            found["full"][family.full] = [point(f"{family.full}{bits}", macs) for bits in ("-4bit", "-8bit", "")]
    for name in PUBLISHED:
        row = studies["published"].rows[name]
        found["published"][name] = point(f"published/{name}", row.get("macs"))
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

    figure = Figure(figsize=(16, 10), dpi=90, layout="constrained")
    (few, few_macs), (full, full_macs) = figure.subplots(2, 2, sharey="row")
    shown = points(studies)
    for family in FAMILIES:
        every = [pair for network in (*family.few, *family.more) for pair in shown["few"][network]]
        text = {"color": family.colour, "fontsize": 12, "fontweight": "bold"}
        for axes, cost in ((few, 0), (few_macs, 1)):
            _best(axes, family, [(point[cost], point[2]) for point in every])
        few.annotate(family.name, family.label, **text)
        if family.full:
            name, *at = family.full_label
            own = shown["full"][family.full]
            style = {"color": family.colour, "marker": family.marker, "zorder": 3}
            full.plot([point[0] for point in own], [point[2] for point in own], **style, linewidth=2)
            full.annotate(name, at, **text)
            full_macs.plot(own[-1][1], max(point[2] for point in own), **style, linestyle="")
    for name, (*costs, top1) in shown["published"].items():
        label = look_up(studies, f"published/{name}/label")[1]
        for axes, cost, offset in zip((full, full_macs), costs, PUBLISHED[name], strict=False):
            _publish(axes, label, (cost, top1), offset)
    few.set(title="8,000 images, no augmentation; 4, 8 or 32 bits a weight", ylim=(59, 84))
    few_macs.set(title="the same networks by multiply-accumulates")
    full.set(title="All images, augmented; crosses: as others report", ylim=(85.5, 95.9))
    full_macs.set(title="the same networks by multiply-accumulates", xlim=(6, 2e3))
    for axes in (few, full):
        axes.set(ylabel="top-1, CIFAR-10 test images (%)")
        _logarithmic(axes, "stored bytes (thousands)")
    for axes in (few_macs, full_macs):
        _logarithmic(axes, "multiply-accumulates an image, kernels made before (millions)")
    full.set_xlim(8, 1e4)
    figure.savefig(path, metadata={"Comment": _hash(studies)})


def _best(axes: Any, family: Family, pairs: list[tuple[float, float]]) -> None:
    """All networks of a family by a cost, and the curve of those that are better than all of no more cost."""
    every = sorted(pairs)
    best = [pair for i, pair in enumerate(every) if all(pair[1] > before[1] for before in every[:i])]
    style = {"color": family.colour, "marker": family.marker, "linewidth": 2 if family.name else 1}
    axes.plot(*zip(*every, strict=True), color=GREY, marker=family.marker, markersize=4, linestyle="", zorder=1)
    axes.plot(*zip(*best, strict=True), **style, zorder=3 if family.name else 1)


def _logarithmic(axes: Any, label: str) -> None:
    from matplotlib.ticker import LogLocator

    axes.set(xscale="log", xlabel=label)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _publish(axes: Any, label: str, place: tuple[float, float], offset: tuple[float, float]) -> None:
    side = "left" if offset[0] > 0 else "right"
    axes.plot(*place, color=INK, marker="x", markersize=7, markeredgewidth=2, zorder=2)
    axes.annotate(label, place, offset, textcoords="offset points", ha=side, fontsize=10, color=INK)
