"""`summary.json`: what is known of a finished run."""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.errors import RunError
from experiments.runs.files import with_checksum, without_checksum, write_json
from experiments.runs.folder import SUMMARY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished run in figures; JSON values.

    Attributes:
        experiment: name of the data set.
        top1: fraction of the test images that are classified right.
        top5: fraction whose class is among the five most probable.
        loss: mean cross-entropy on the test images, nats.
        test_images: their number.
        depth_mean: mean depth of the test images.
        depth_std: its standard deviation over the images.
        depth_counts: images by depth.
        depth_top1: `top1` of the images of each depth.
        puppeteer_bytes: of the generator's floats as stored; 0 without one.
        trainable_bytes: of all trainable floats as stored.
        coded_bytes: of all that inference needs, statistics of norms too, after Brotli; None in older files, and where
            Brotli is not installed.
        file_bytes: of the model file.
        generator_macs: multiply-accumulates of making an image's kernels.
        puppet_macs: those of the network itself, an image; the mean over the test images.
        puppet_macs_std: their standard deviation over the test images; None in older files.
        latency_s: seconds an image at batch 1, kernels kept where they can be.
        latency_generating_s: the same with kernels generated for every image.
        images_per_s: at batch 256.
        adaptation: "level" or "sample".
        num_levels: levels of complexity within a depth.
        validation_top1: of the model that is kept.
        train_seconds: of all epochs.
        step: at which the model was taken.
        steps: taken in all.
        seed: of the run.
        config: as in `config.json`.
        versions: of what the result depends on.
        device: that it was evaluated on.
        host_peak_bytes: most memory held on the host.
        device_peak_bytes: most memory held on the device, where JAX tells.
        ensembles: what `experiments.evaluate --shifted-views --with` found.
    """

    experiment: str
    top1: float
    top5: float
    loss: float
    test_images: int
    depth_mean: float
    depth_std: float
    depth_counts: dict[str, int]
    depth_top1: dict[str, float]
    puppeteer_bytes: int
    trainable_bytes: int
    file_bytes: int
    generator_macs: int
    puppet_macs: int
    latency_s: float
    latency_generating_s: float
    images_per_s: float
    adaptation: str
    num_levels: int
    validation_top1: float | None
    train_seconds: float
    step: int
    steps: int
    seed: int
    config: dict[str, Any]
    versions: dict[str, str]
    device: str
    host_peak_bytes: int | None
    device_peak_bytes: int | None
    ensembles: tuple[dict[str, Any], ...] = ()
    puppet_macs_std: float | None = None
    coded_bytes: int | None = None


def write_summary(folder: Path, summary: Summary) -> None:
    """Writes the `summary.json` of the run in `folder`."""
    write_json(folder / SUMMARY, with_checksum(dataclasses.asdict(summary)))


def read_summary(folder: Path) -> Summary:
    """The `summary.json` of the finished run in `folder`.

    Raises:
        RunError: if it is missing, damaged, or of another version of the project.
    """
    path, again = folder / SUMMARY, f"python -m experiments.evaluate {folder}"
    if not path.is_file():
        raise RunError(f"{folder} holds no {SUMMARY}; `{again}` writes it.")
    try:
        found = without_checksum(json.loads(path.read_text()))
        summary = Summary(**found | {"ensembles": tuple(found["ensembles"])})
        float(summary.top1), float(summary.train_seconds), int(summary.trainable_bytes)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged or of another version ({error!r}); `{again}` writes it anew.") from None
    return summary


def describe(figures: Mapping[str, Any]) -> str:
    """Figures under the names of `Summary` for a person, one a line."""
    found = types.SimpleNamespace(**figures)
    counts = ", ".join(f"depth {depth}: {number}" for depth, number in found.depth_counts.items())
    anew = f"{found.latency_generating_s:.5f} s/img if kernels are generated for every image"
    memory, coded = found.host_peak_bytes, found.coded_bytes
    spread = f" ± {found.puppet_macs_std / 1e6:,.1f}" if found.puppet_macs_std else ""
    return "\n".join(
        [
            f"top-1          {found.top1:.2%} of {found.test_images} test images",
            f"top-5          {found.top5:.2%}",
            f"loss           {found.loss:.4f}",
            f"depth          {found.depth_mean:.2f} ± {found.depth_std:.2f} ({counts})",
            f"puppeteer      {found.puppeteer_bytes:,} bytes",
            f"all trainable  {found.trainable_bytes:,} bytes",
            *([] if coded is None else [f"coded          {coded:,} bytes: all that inference needs, by Brotli"]),
            f"file           {found.file_bytes:,} bytes, batch statistics included",
            f"generator      {found.generator_macs / 1e6:,.1f} M multiply-accumulates an image",
            f"network        {found.puppet_macs / 1e6:,.1f}{spread} M multiply-accumulates an image",
            f"batch 1        {found.latency_s:.5f} s/img; {anew}",
            f"batch 256      {found.images_per_s:,.0f} images/s",
            *([] if memory is None else [f"peak memory    {memory / 1e9:.2f} GB on the host"]),
            f"device         {found.device}",
        ]
    )
