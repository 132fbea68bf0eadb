"""Which images should be deep? Compares measures of complexity on one run whose depths have all seen all images.

    python -m experiments.measures RUN [--data-dir DIR]

RUN was trained with --adapt depth --mix-depths, or with --adapt doubt, so that each of its depths can classify any
image. A measure sends the simplest images to the shallowest puppet and so on, as many to each depth as the run's own
complexity did in training, or its --deep-share; where it cuts is decided on the validation images. Beside its accuracy
on the test images stands the best that single depths of the same run give at no more multiply-accumulates, two
neighbouring ones dealt out by lot included. Writes RUN/measures.json and RUN/measures.png.
"""

import dataclasses
import zlib
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.cli import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.measures`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run."""
    data_dir: Path | None = None
    """Folder that holds the data; the one the run was trained from if not given."""


def compare(command: Command) -> None:
    """Carries out the command."""
    import numpy as np

    import puppet_jax as pj
    from experiments import run_folder
    from experiments.errors import RunError
    from experiments.model_file import load_model
    from experiments.run import load_data_of, use_compilation_cache
    from puppet_jax.plots import plot_accuracy_compute

    use_compilation_cache()
    config = run_folder.read_config(command.run)["config"]
    if not config.get("mix_depths") and config.get("adapt") != "doubt":
        raise RunError(
            f"the depths of {command.run} have not seen all images; train with --adapt depth --mix-depths, or with "
            "--adapt doubt."
        )
    model = load_model(command.run / run_folder.MODEL)
    dataset = load_data_of(command.run, command.data_dir)
    train, validation = run_folder.read_split(command.run)
    depths = sorted(model.batch_stats)
    network: Any = model.network  # a puppet, as the configuration says
    puppet, size = network.puppet, network.image_size
    macs = np.array([pj.puppet_macs(puppet, depth, size) for depth in depths])
    if config["adapt"] == "doubt":
        shares = np.array([1 - config["deep_share"], config["deep_share"]])
        macs_going_on = np.array([network.macs(model.params, depth)[1] for depth in depths])
    else:
        macs_going_on = np.where(np.arange(len(depths)) > 0, macs[0] + macs, macs)  # the shallowest has run before
        at_train = pj.nearest_depths(pj.complexities(dataset.train_images[train], model.complexity), depths)
        shares = np.array([np.mean(at_train == depth) for depth in depths])

    held, tested = dataset.train_images[validation], dataset.test_images
    logits_held, logits = (_of_all_depths(model, images, depths) for images in (held, tested))
    right = logits.argmax(axis=2) == dataset.test_labels
    single = right.mean(axis=1)
    rows: list[dict[str, Any]] = [
        {"measure": f"all at depth {depth}", "macs": float(cost), "top1": float(top1)}
        for depth, cost, top1 in zip(depths, macs, single, strict=True)
    ]

    def add(name: str, cost: Any, hits: Any) -> None:
        """A row beside what single depths give at its cost, or the most accurate of them if that costs less."""
        best = max(single[macs <= cost.mean()].max(), np.interp(cost.mean(), macs, single))
        error = np.std(hits - shares @ right) / np.sqrt(len(hits))
        rows.append(
            {
                "measure": name,
                "macs": float(cost.mean()),
                "top1": float(hits.mean()),
                "single_top1": float(best),
                "gain": float(hits.mean() - best),
                "standard_error": float(error),
            }
        )

    images = np.arange(len(tested))
    for name, measure in MEASURES.items():
        place = assign(measure(held), measure(tested), shares)
        add(name, macs[place], right[place, images])

    def go_on(measure: Any, shares: Any) -> tuple[Any, Any, Any]:
        """Costs, hits of the deeper puppets alone, and hits of the sum of logits, by a measure of the shallowest's."""
        place = assign(measure(logits_held[0]), measure(logits[0]), shares)
        both = logits[place, images] + np.where(place[:, None] > 0, logits[0], 0)
        return macs_going_on[place], right[place, images], both.argmax(axis=1) == dataset.test_labels

    for short, unsure in (("entropy", uncertainty), ("doubt", pj.doubt)):
        cost, alone, both = go_on(unsure, shares)
        add(f"{short} of the shallowest puppet", cost, alone)
        add(f"the same, logits of both added ({short})", cost, both)
    described: dict[str, Any] = {"run": str(command.run), "depths": depths, "shares": shares.tolist(), "rows": rows}
    series: dict[str, Any] = {"single depths": (macs, single)}
    series.update((row["measure"], (row["macs"], row["top1"])) for row in rows if "gain" in row)
    if config["adapt"] == "doubt":  # what other shares would have given
        found = [(share, go_on(pj.doubt, np.array([1 - share, share]))) for share in SHARES]
        described["by_share"] = [
            {"share": share, "macs": float(cost.mean()), "top1": float(hits.mean())} for share, (cost, hits, _) in found
        ]
        curve = [[row[name] for row in described["by_share"]] for name in ("macs", "top1")]
        series["doubt, by share of deep images"] = tuple(curve)
    run_folder.write_json(command.run / "measures.json", described)
    plot_accuracy_compute(series).savefig(command.run / "measures.png")
    print(describe(rows))


def _of_all_depths(model: Any, images: Any, depths: list[int]) -> Any:
    """Logits (depths, images, classes) of all images from the puppet of each depth."""
    import numpy as np

    import puppet_jax as pj

    predictor = model.predictor(max_sets=1)
    if isinstance(predictor, pj.EarlyExitPredictor):
        return predictor.exits(images)
    centres = [pj.slice_centre(np.array([pj.depth_interval(depth)[0]]), depth, 1) for depth in depths]
    return np.stack([predictor(images, np.repeat(centre, len(images))) for centre in centres])


def assign(on_validation: Any, on_test: Any, shares: Any) -> Any:
    """The place among the depths that each test image gets.

    Args:
        on_validation: (images,) values of the measure, which decide where it cuts.
        on_test: (images,) values.
        shares: (depths,) of the images that each depth gets, shallowest first; they sum to 1.

    Returns:
        (images,) int in [0, depths).
    """
    import numpy as np

    cuts = np.quantile(on_validation, np.cumsum(shares)[:-1])
    return np.searchsorted(cuts, on_test, side="right")


def entropy(images: Any) -> Any:
    """The papers' complexity (v1 Eq. 9)."""
    import puppet_jax as pj

    return pj.complexities(images)


def gradient_energy(images: Any) -> Any:
    """Mean squared difference of neighbouring pixels."""
    import numpy as np

    x = images.astype(np.float32) / 255
    return sum(np.square(np.diff(x, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2))


def compressed_size(images: Any) -> Any:
    """Bytes of each image once differences of its neighbouring rows are deflated, as in a PNG file."""
    import numpy as np

    rows = np.diff(images, axis=1, prepend=np.zeros_like(images[:, :1]))  # modulo 256
    return np.array([len(zlib.compress(row.tobytes(), 9)) for row in rows], np.float64)


def lot(images: Any) -> Any:
    """Numbers that know nothing of the images."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(len(images))).random(len(images))


def uncertainty(logits: Any) -> Any:
    """Entropy of the predicted classes (nats), which tells how unsure a puppet is."""
    import numpy as np
    from scipy.special import log_softmax

    log_p = log_softmax(logits.astype(np.float64), axis=1)
    return -(np.exp(log_p) * log_p).sum(axis=1)


MEASURES = {
    "entropy (the papers')": entropy,
    "gradient energy": gradient_energy,
    "compressed size": compressed_size,
    "by lot": lot,
}
"""From uint8 images (N, H, W, C) to (N,) numbers."""
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of deep images that a run with exits is also measured at."""


def describe(rows: list[dict[str, Any]]) -> str:
    """A table for a person."""
    lines = [f"{'measure':42}{'M mult-adds':>12}{'top-1':>9}{'single depths':>15}{'gain':>16}"]
    for row in rows:
        line = f"{row['measure']:42}{row['macs'] / 1e6:12.2f}{row['top1']:9.2%}"
        if "gain" in row:
            line += f"{row['single_top1']:15.2%}{100 * row['gain']:+9.2f} ± {100 * row['standard_error']:.2f}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(run_command(Command, compare, "experiments.measures", __doc__))
