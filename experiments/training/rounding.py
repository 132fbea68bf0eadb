"""A finished run once more with few bits a weight, without further training."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

import puppet_jax as pj
from experiments.evaluation.report import summarise
from experiments.fields import replace
from experiments.model import load_model, save_model
from experiments.runs import folder as run_folder
from experiments.runs.load import Run
from experiments.training.batching import epoch_batches, make_buckets
from experiments.training.complexity import measure_complexities
from experiments.training.statistics import make_stats_estimator
from experiments.training.step import Data, rounded
from experiments.training.validation import validated


def round_run(run: Run, folder: Path, bits: Literal[8, 4]) -> None:
    """Writes a new folder with the rounded model of a run and its summary.

    Batch statistics are estimated anew on the run's training images, thresholds of early exits chosen on its validation
    images; all else is as in the run.
    """
    config, model = replace(run.config, bits=bits), run.model
    network = config.network.make(model.network.num_classes, model.network.image_shape)
    images, labels = run.dataset.train_images[run.train_indices], run.dataset.train_labels[run.train_indices]
    complexities = measure_complexities(config, network, images)
    buckets = make_buckets(complexities.h, complexities.depths, config.optim.batch_size)
    batches = epoch_batches(buckets, complexities.h, config.optim.batch_size, config.seed, 0)
    params = rounded(config, network, model.params)
    data = jax.device_put(Data(images, labels, complexities.h))  # once
    stats = make_stats_estimator(config, network)(params, data, batches)
    held_out, held_labels = run.validation
    h = pj.complexities(held_out, model.complexity)
    model = dataclasses.replace(model, network=network)  # a file does not hold what training alone is told
    found = validated(model, held_out, held_labels, h)[1]
    stored = dataclasses.replace(model, params=params, batch_stats=stats, bits=bits)
    stored, validation = validated(stored, held_out, held_labels, h)

    run_folder.open_run(folder, run.experiment, config, run.data, resume=False)
    run_folder.write_split(folder, run.train_indices, run.validation_indices)
    save_model(folder / run_folder.MODEL, stored)
    figures = {f"validation_{name}": value for name, value in validation.items()}
    run_folder.append_metrics(folder, {"epoch": 0, "step": stored.step, **figures, "seconds": 0.0})
    print(f"run: {folder}")
    for one, top1 in ((model, found["top1"]), (stored, validation["top1"])):
        print(f"validation {top1:.2%} with {one.bits} bits a weight")
    summarise(folder, run.experiment, config, load_model(folder / run_folder.MODEL), *run.test)
