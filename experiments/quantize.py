"""Stores the model of a finished run in 8 or 4 bits a weight, without training it again, and measures it.

    python -m experiments.quantize RUN --bits 8|4 [--workdir FOLDER] [--data-dir DIR]

Matrices are rounded channel by channel, vectors to 16 bits; the statistics of batch norms are estimated anew on the
run's training images. The new folder holds the model, its summary and the run's configuration; `experiments.evaluate`
and `experiments.predict` take it. To train with the rounding in view, give an experiment --bits instead.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.cli import run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.quantize`."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run."""
    bits: Literal[8, 4]
    """Bits of a stored weight."""
    workdir: Path | None = None
    """The new folder; RUN-BITSbit if not given."""
    data_dir: Path | None = None
    """Folder that holds the data; the one the run was trained from if not given."""


def quantize(command: Command) -> None:
    """Carries out the command."""
    import jax.numpy as jnp
    import numpy as np

    from experiments import run_folder
    from experiments.batching import epoch_batches, make_buckets
    from experiments.errors import RunError
    from experiments.evaluation import accuracy
    from experiments.model_file import load_model, save_model
    from experiments.run import load_data_of, measure_complexities, summarise, use_compilation_cache
    from experiments.training import Data, make_stats_estimator, rounded

    use_compilation_cache()
    folder = command.workdir or command.run.with_name(f"{command.run.name}-{command.bits}bit")
    if folder.exists():
        raise RunError(f"{folder} exists already; name another --workdir.")
    found = run_folder.read_config(command.run)
    model = load_model(command.run / run_folder.MODEL)
    if model.bits <= command.bits:
        raise RunError(f"the model of {command.run} has {model.bits} bits a weight already, got --bits {command.bits}.")
    config = dataclasses.replace(run_folder.as_config(found["config"]), bits=command.bits)
    dataset = load_data_of(command.run, command.data_dir)
    with np.load(command.run / run_folder.SPLIT) as split:
        train, validation = split["train"], split["validation"]

    images = dataset.train_images[train]
    h, _ = measure_complexities(config, images)
    buckets = make_buckets(h, model.network.depths(h), config.batch_size)
    batches = epoch_batches(buckets, h, config.batch_size, config.seed, 0, config.mix_depths)
    params = rounded(config, model.network, model.params)
    estimate = make_stats_estimator(config, model.network)
    data = Data(*map(jnp.asarray, (images, dataset.train_labels[train], h)))  # on the device, once
    stats = estimate(params, data, batches)
    stored = dataclasses.replace(model, params=params, batch_stats=stats, bits=command.bits)

    folder.mkdir(parents=True)
    run_folder.write_json(folder / run_folder.CONFIG, found | {"config": dataclasses.asdict(config)})
    run_folder.write_split(folder, train, validation)
    save_model(folder / run_folder.MODEL, stored)
    print(f"run: {folder}")
    for bits, one in ((model.bits, model), (command.bits, stored)):
        logits = one.predictor()(dataset.train_images[validation])
        print(f"validation {accuracy(logits, dataset.train_labels[validation])['top1']:.2%} with {bits} bits a weight")
    summarise(folder, load_model(folder / run_folder.MODEL), dataset)


if __name__ == "__main__":
    raise SystemExit(run_command(Command, quantize, "experiments.quantize", __doc__))
