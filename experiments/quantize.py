"""Stores the model of a finished run in 8 or 4 bits a weight, and measures it.

    python -m experiments.quantize RUN --bits 8|4 [--epochs N] [--workdir FOLDER] [--data-dir DIR] [--resume]

Matrices are rounded channel by channel, vectors to 16 bits; the statistics of batch norms are estimated anew on the
run's training images. With --epochs, training goes on for so long with the rounding in view, which wins back most of
what it costs. The new folder holds the model, its summary and the run's configuration; `experiments.evaluate` and
`experiments.predict` take it. To train with the rounding in view from the start, give an experiment --bits instead.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.cli import run_command
from experiments.config import Config

if TYPE_CHECKING:
    from experiments.dataset import Dataset
    from experiments.model_file import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.quantize`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run."""
    bits: Literal[8, 4]
    """Bits of a stored weight."""
    epochs: int = 0
    """Passes over the run's training images with the rounding in view; 0 to round alone."""
    learning_rate: float = 1e-3
    """Peak of their schedule; the rest is as in the run."""
    workdir: Path | None = None
    """The new folder; RUN-BITSbit if not given."""
    data_dir: Path | None = None
    """Folder that holds the data; the one the run was trained from if not given."""
    resume: bool = False
    """Go on with the epochs where they were interrupted."""

    def __post_init__(self):
        """Refuses values outside their range."""
        if self.epochs < 0:
            raise ValueError(f"--epochs must be at least 0, got {self.epochs}.")
        if self.resume and not self.epochs:
            raise ValueError("--resume needs the --epochs that it goes on with, got 0.")


def quantize(command: Command) -> None:
    """Carries out the command."""
    from experiments import run_folder
    from experiments.errors import RunError
    from experiments.model_file import load_model
    from experiments.run import data_options, load_data_of, train, use_compilation_cache

    use_compilation_cache()
    folder = command.workdir or command.run.with_name(f"{command.run.name}-{command.bits}bit")
    if folder.exists() and not command.resume:
        raise RunError(f"{folder} exists already; name another --workdir.")
    found = run_folder.read_config(command.run)
    model = load_model(command.run / run_folder.MODEL)
    if model.bits <= command.bits:
        raise RunError(f"the model of {command.run} has {model.bits} bits a weight already, got --bits {command.bits}.")
    config = dataclasses.replace(run_folder.as_config(found["config"]), bits=command.bits)
    dataset = load_data_of(command.run, command.data_dir)
    if not command.epochs:
        _round(command.run, folder, found | {"config": dataclasses.asdict(config)}, model, dataset)
        return
    tuned = dataclasses.replace(
        config, epochs=command.epochs, learning_rate=command.learning_rate, start_from=str(command.run)
    )
    options = dataclasses.replace(data_options(found, command.data_dir), workdir=folder, resume=command.resume)
    train(found["experiment"], tuned, options, dataset)


def _round(run: Path, folder: Path, described: dict[str, Any], model: "Model", dataset: "Dataset") -> None:
    """Writes a folder with the rounded model of a run, of which `described` becomes the `config.json`."""
    import jax.numpy as jnp

    from experiments import run_folder
    from experiments.batching import epoch_batches, make_buckets
    from experiments.evaluation import accuracy
    from experiments.model_file import load_model, save_model
    from experiments.run import measure_complexities, summarise
    from experiments.training import Data, make_stats_estimator, rounded

    config = Config(**described["config"])
    train, validation = run_folder.read_split(run)
    images = dataset.train_images[train]
    h, _ = measure_complexities(config, images)
    buckets = make_buckets(h, model.network.depths(h), config.batch_size)
    batches = epoch_batches(buckets, h, config.batch_size, config.seed, 0, config.mix_depths)
    params = rounded(config, model.network, model.params)
    estimate = make_stats_estimator(config, model.network)
    data = Data(*map(jnp.asarray, (images, dataset.train_labels[train], h)))  # on the device, once
    stats = estimate(params, data, batches)
    stored = dataclasses.replace(model, params=params, batch_stats=stats, bits=config.bits)

    folder.mkdir(parents=True)
    run_folder.write_json(folder / run_folder.CONFIG, described)
    run_folder.write_split(folder, train, validation)
    save_model(folder / run_folder.MODEL, stored)
    print(f"run: {folder}")
    for one in (model, stored):
        logits = one.predictor()(dataset.train_images[validation])
        top1 = accuracy(logits, dataset.train_labels[validation])["top1"]
        print(f"validation {top1:.2%} with {one.bits} bits a weight")
    summarise(folder, load_model(folder / run_folder.MODEL), dataset)


if __name__ == "__main__":
    raise SystemExit(run_command(Command, quantize, "experiments.quantize", __doc__))
