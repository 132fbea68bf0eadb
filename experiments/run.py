"""A run from start to end: data, buckets, the loop, what is saved, what is reported."""

import dataclasses
import hashlib
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import puppet_jax as pj
from experiments import plots, run_folder
from experiments.batching import Bucket, epoch_batches, make_buckets, steps_per_epoch
from experiments.checkpoint import Checkpoints
from experiments.config import Config, Options
from experiments.data import Dataset, load_dataset, split_indices, spread_indices
from experiments.errors import Interrupted, RunError
from experiments.evaluation import accuracy, describe, device_name, evaluate, evaluate_answers
from experiments.interrupts import Interrupts
from experiments.model_file import Model, load_model, save_model
from experiments.networks import Network, make_network
from experiments.progress import Progress
from experiments.training import (
    Data,
    TrainState,
    init_state,
    make_optimizer,
    make_stats_estimator,
    make_train_step,
    rounded,
)

CHECK_EVERY = 50
"""Steps between two looks at the loss; each look fetches the losses of the window before the last."""
RUN_AHEAD = 2
"""Steps that may wait for the device: enough to keep it busy, few enough that Ctrl-C is answered soon."""


def train(experiment: str, config: Config, options: Options, dataset: Dataset | None = None) -> dict[str, Any]:
    """Trains, keeps a run's folder, evaluates the model of `chosen_epoch` on the test set.

    Args:
        experiment: name of the data set, see `experiments.data.DATASETS`.
        config: what is computed.
        options: where it is read and written; `options.workdir` must be set.
        dataset: what `options` lead to, where it is loaded already.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        ExperimentError: if the data, the folder or the configuration do not allow it, or the loss is not finite.
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    assert options.workdir is not None
    folder = options.workdir
    use_compilation_cache()
    dataset = dataset or load_dataset(experiment, options.data_dir, options.data_source)
    train_indices, validation_indices = split_indices(
        len(dataset.train_labels), config.num_images, config.num_validation, config.seed
    )
    network = _fitting_network(config, dataset, len(train_indices))
    images, labels = dataset.train_images[train_indices], dataset.train_labels[train_indices]
    h, measure = measure_complexities(config, images)
    depths = network.depths(h)
    identity = _identity(dataset, options)
    resumed = options.resume and run_folder.read_metrics(folder)
    start = None if resumed else _start(config, network, depths, identity, validation_indices)
    run_folder.open_run(folder, experiment, config, identity, options.resume)
    run_folder.write_split(folder, train_indices, validation_indices)
    print(f"data: {dataset.source}", flush=True)
    print(f"run: {folder}", flush=True)
    buckets = make_buckets(h, depths, config.batch_size)
    print(_describe_buckets(buckets), flush=True)
    plots.plot_depths(images, h, depths).savefig(folder / "depths.png")

    validation = (dataset.train_images[validation_indices], dataset.train_labels[validation_indices])
    run = _Run(config, network, folder, dataset, measure, buckets, Data(images, labels, h), validation, start)
    with Checkpoints(folder / run_folder.CHECKPOINTS) as checkpoints:
        run.loop(checkpoints)
    plots.plot_curves(run_folder.read_metrics(folder)).savefig(folder / "curves.png")
    return summarise(folder, load_model(folder / run_folder.MODEL), dataset)


def _fitting_network(config: Config, dataset: Dataset, num_images: int) -> Network:
    """The network; refuses what the data does not allow, before a folder is made."""
    if config.batch_size > num_images:
        raise RunError(f"--batch-size must be at most the {num_images} training images, got {config.batch_size}.")
    try:
        network = make_network(config, len(dataset.class_names), dataset.train_images.shape[1:])
        network.check()
    except ValueError as error:
        raise RunError(str(error)) from None
    return network


def _start(config: Config, network: Network, depths: np.ndarray, data: dict[str, Any], validation: np.ndarray) -> Any:
    """The parameters of the run that training goes on from, or None.

    Raises:
        RunError: if it is of another network, or was trained on images that this run validates on.
    """
    if config.start_from is None:
        return None
    folder = Path(config.start_from)
    found = run_folder.read_config(folder)
    params = load_model(folder / run_folder.MODEL).params
    wanted = jax.eval_shape(lambda: network.init(config.seed, tuple(np.unique(depths).tolist())))
    theirs, ours = (jax.tree.flatten(jax.tree.map(jnp.shape, tree)) for tree in (params, wanted))
    if theirs != ours:
        raise RunError(
            f"the network of --start-from {folder} has other parameters than the one that these flags describe; give "
            f"the flags of its {run_folder.CONFIG}."
        )
    if found["data"]["sha256"] == data["sha256"]:
        _check_unseen(folder, validation, "give its --seed, --num-images and --num-validation")
    return params


def _check_unseen(folder: Path, validation: np.ndarray, advice: str) -> None:
    """Raises a RunError if the run in `folder` was trained on validation images (places in the training set)."""
    seen = np.intersect1d(run_folder.read_split(folder)[0], validation)
    if len(seen):
        raise RunError(
            f"{folder} was trained on {len(seen)} of the {len(validation)} images that this run is validated on; "
            f"{advice}."
        )


def measure_complexities(config: Config, images: np.ndarray) -> tuple[np.ndarray, pj.CalibratedComplexity]:
    """The complexities that training images count with, and the measure for images to come.

    `config.adapts` decides: the images' own ("both"), those squeezed into the interval of one depth ("parameters"),
    the centre of their depth's interval ("depth"), or one for all ("none", "doubt"). The one depth is the (deeper)
    one of `config.spread`, else that of the mean complexity, and the one complexity the centre of that depth's
    interval, else the mean.
    """
    measure = pj.CalibratedComplexity()
    if config.network != "puppet" and config.kernels == "stored":
        return np.ones(len(images), np.float32), pj.CalibratedComplexity(0.0, 1.0)
    h = pj.complexities(images, measure)
    mean = float(h.mean())
    middle = int(pj.depth(mean))
    spread = config.spread if config.network == "puppet" else None
    if config.network == "puppet" and config.adapts == "parameters":
        spread = spread or (middle, middle)
    if config.adapts in ("doubt", "none"):
        if spread is not None:
            middle = spread[1]
            mean = float(pj.slice_centre(np.zeros(1), middle, 1)[0])
        # the centre of a slice, so that shared kernels are exact
        measure = pj.CalibratedComplexity(0.0, float(pj.slice_centre(np.array([mean]), middle, config.num_slices)[0]))
    elif spread is not None:
        try:
            measure = pj.calibrate(h, *spread)
        except ValueError as error:
            raise RunError(f"complexity cannot be spread over the depths on these images: {error}") from None
    if measure != pj.CalibratedComplexity():
        h = pj.complexities(images, measure)
    if config.adapts == "depth":
        depths = np.asarray(pj.depth(h))
        for depth in np.unique(depths):
            h[depths == depth] = pj.slice_centre(h[depths == depth], int(depth), 1)
    return h.astype(np.float32), measure


def chosen_epoch(rows: Sequence[dict[str, Any]], num_images: int) -> dict[str, Any]:
    """The epoch whose model is kept: the latest that is within one standard error of the best on validation images.

    The best of many epochs is the luckiest as well, and as the rate decays a later one is more likely to be better.

    Args:
        rows: of `metrics.jsonl`, at least one.
        num_images: validation images, of which the standard error is that of an accuracy.

    References:
        The one-standard-error rule of Breiman et al., Classification and regression trees, 1984, Sec. 3.4.3.
    """
    best = max(row["validation_top1"] for row in rows)
    least = best - (best * (1 - best) / num_images) ** 0.5
    return [row for row in rows if row["validation_top1"] >= least][-1]


class _Run:
    """The loop of one run, and what it needs at hand."""

    def __init__(
        self,
        config: Config,
        network: Network,
        folder: Path,
        dataset: Dataset,
        measure: pj.CalibratedComplexity,
        buckets: list[Bucket],
        data: Data,
        validation: tuple[np.ndarray, np.ndarray],
        start: Any,
    ):
        self.config = config
        self.network = network
        self.folder = folder
        self.dataset = dataset
        self.measure = measure
        self.buckets = buckets
        self.h = np.asarray(data.h)
        self.validation = validation
        self.start = start
        self.validation_h = pj.complexities(validation[0], measure)
        self.data = Data(*map(jnp.asarray, data))  # on the device, once
        self.per_epoch = steps_per_epoch(buckets, config.batch_size)
        self.tx = make_optimizer(config, network, self.per_epoch * config.epochs)
        self.train_step = make_train_step(config, network, self.tx)
        self.estimate_stats = make_stats_estimator(config, network)

    def loop(self, checkpoints: Checkpoints) -> None:
        config = self.config
        state = init_state(config, self.network, tuple(bucket.depth for bucket in self.buckets), self.tx, self.start)
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state)
            print(f"resumed at step {int(state.step)} of {self.per_epoch * config.epochs}", flush=True)
        step = int(state.step)
        run_folder.drop_metrics_after(self.folder, step)
        rows = run_folder.read_metrics(self.folder)
        with Interrupts() as interrupts, Progress(self.per_epoch * config.epochs, step) as bar:
            for epoch in range(step // self.per_epoch, config.epochs):
                started, first = time.perf_counter(), step
                batches = epoch_batches(self.buckets, self.h, config.batch_size, config.seed, epoch, config.mix_depths)
                losses = _Losses(first, checkpoints)
                for depth, indices in batches[step - epoch * self.per_epoch :]:
                    state, metrics = self.train_step(state, self.data, indices, depth=depth)
                    step += 1
                    losses.add(metrics)
                    bar.update()
                    if interrupts.received and step < (epoch + 1) * self.per_epoch:  # else once the epoch is booked
                        losses.check()
                        self._stop(checkpoints, state, step, interrupts.received)
                train_loss, train_top1 = losses.check()
                seconds = time.perf_counter() - started
                model, validation = self._validated(self._model(state, batches))
                row = {
                    "epoch": epoch + 1,
                    "step": step,
                    "train_loss": train_loss,
                    "train_top1": train_top1,
                    **{f"validation_{name}": value for name, value in validation.items()},
                    "images_per_s": (step - first) * config.batch_size / seconds,
                    "seconds": time.perf_counter() - started,
                }
                if not np.isfinite(row["validation_loss"]):
                    raise RunError(
                        f"the validation loss became {row['validation_loss']} after step {step}. Lower "
                        "--learning-rate, or use --dtype float32, in a new --workdir."
                    )
                rows.append(row)
                if chosen_epoch(rows, len(self.validation[1])) is row:
                    save_model(self.folder / run_folder.MODEL, model)
                run_folder.append_metrics(self.folder, row)
                checkpoints.save(step, state, row["validation_top1"])
                bar.report(row, config.epochs)
                if interrupts.received:
                    self._stop(checkpoints, state, step, interrupts.received)

    def _stop(self, checkpoints: Checkpoints, state: TrainState, step: int, signum: int) -> None:
        checkpoints.save(step, state)
        raise Interrupted(
            signum,
            f"stopped after step {step} of {self.per_epoch * self.config.epochs}; the state is saved. To go on, give "
            f"the same command with --resume (its folder: --workdir {self.folder}).",
        )

    def _model(self, state: TrainState, batches: list[tuple[int, np.ndarray]]) -> Model:
        return Model(
            network=self.network,
            params=rounded(self.config, self.network, state.params),
            batch_stats=self.estimate_stats(state.params, self.data, batches),
            class_names=self.dataset.class_names,
            adaptation=self.config.adaptation,
            num_slices=1 if self.config.adapts == "depth" else self.config.num_slices,
            complexity=self.measure,
            step=int(state.step),
            bits=self.config.bits,
        )

    def _validated(self, model: Model) -> tuple[Model, dict[str, float]]:
        """Accuracy on the validation images, which also decide the threshold of a model with exits."""
        images, labels = self.validation
        predictor = model.predictor(max_sets=1, dtype=jnp.dtype(self.config.dtype))
        if not isinstance(predictor, pj.EarlyExitPredictor):
            return model, accuracy(predictor(images, self.validation_h), labels)
        shallow, deep = predictor.exits(images)
        doubts = np.nan_to_num(pj.doubt(shallow), nan=1.0)  # the loss will tell
        threshold = pj.exit_threshold(doubts, self.config.deep_share)
        logits, _ = pj.combine_exits(shallow, deep, threshold)
        return dataclasses.replace(model, threshold=threshold), accuracy(logits, labels)


class _Losses:
    """Metrics of the steps of one epoch, left on the device; looked at late, so that the device is never idle."""

    def __init__(self, first_step: int, checkpoints: Checkpoints):
        self.first_step = first_step
        self.checkpoints = checkpoints
        self.metrics: list[dict[str, jax.Array]] = []
        self.checked = 0

    def add(self, metrics: dict[str, jax.Array]) -> None:
        self.metrics.append(metrics)
        if len(self.metrics) > RUN_AHEAD:
            self.metrics[-1 - RUN_AHEAD]["loss"].block_until_ready()
        if len(self.metrics) % CHECK_EVERY == 0:
            self._look(len(self.metrics) - CHECK_EVERY)

    def check(self) -> tuple[float, float]:
        """Looks at all; returns mean loss and accuracy."""
        self._look(len(self.metrics))
        fetched = jax.device_get(self.metrics)
        loss, correct = (float(np.mean([row[name] for row in fetched])) for name in ("loss", "correct"))
        return loss, correct

    def _look(self, stop: int) -> None:
        losses = np.array(jax.device_get([row["loss"] for row in self.metrics[self.checked : stop]]))
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            latest = self.checkpoints.latest_step
            kept = "no checkpoint was saved yet" if latest is None else f"the checkpoint of step {latest} is kept"
            raise RunError(
                f"the loss became {losses[bad[0]]} at step {self.first_step + self.checked + int(bad[0]) + 1}; {kept}. "
                "Lower --learning-rate, or use --dtype float32, in a new --workdir."
            )
        self.checked = max(self.checked, stop)


def data_options(described: dict[str, Any], data_dir: Path | None = None) -> Options:
    """Where a run, by its `config.json`, had its data from; `data_dir` instead where it is given."""
    source = described["data"]["source"]
    found = data_dir or (source["data_dir"] and Path(source["data_dir"]))
    return Options(data_dir=found, data_source=source["data_source"])


def load_data_of(folder: Path, data_dir: Path | None = None) -> Dataset:
    """The data that the run in `folder` was trained on, from `data_dir` or from where it was.

    Raises:
        DataError: if it cannot be had.
        RunError: if what is found is other data.
    """
    config = run_folder.read_config(folder)
    options = data_options(config, data_dir)
    dataset = load_dataset(config["experiment"], options.data_dir, options.data_source)
    if fingerprint(dataset) != config["data"]["sha256"]:
        raise RunError(f"the data ({dataset.source}) is not what {folder} was trained on; give the right --data-dir.")
    return dataset


def summarise(folder: Path, model: Model, dataset: Dataset, **overrides: Any) -> dict[str, Any]:
    """Evaluates on the test set, writes `summary.json`, prints it, and returns it."""
    config = run_folder.read_config(folder)
    rows = run_folder.read_metrics(folder)
    images, labels = _test_set(config, dataset)
    summary = {
        "experiment": config["experiment"],
        **evaluate(model, images, labels, folder / run_folder.MODEL, **overrides),
        "adaptation": overrides.get("adaptation", model.adaptation),
        "num_slices": overrides.get("num_slices", model.num_slices),
        "validation_top1": {row["step"]: row["validation_top1"] for row in rows}.get(model.step),
        "train_seconds": sum(row["seconds"] for row in rows),
        "step": model.step,
        "steps": rows[-1]["step"] if rows else model.step,
        "seed": config["config"]["seed"],
        "config": config["config"],
        "versions": run_folder.versions(),
        "device": device_name(),
        **peak_memory(),
    }
    run_folder.write_json(folder / run_folder.SUMMARY, summary)
    print(describe(summary), flush=True)
    return summary


def summarise_answers(
    folder: Path, others: Sequence[Path], dataset: Dataset, views: bool, share: float
) -> dict[str, Any]:
    """Adds `evaluate_answers` to a run's `summary.json`, where `others` are asked too, prints it, and returns it.

    Raises:
        RunError: if the run is not finished, or another was trained on other data, or on images that it was validated
            on.
    """
    summary, config = run_folder.read_summary(folder, dict), run_folder.read_config(folder)
    chosen = run_folder.read_split(folder)[1]
    for other in others:
        if run_folder.read_config(other)["data"]["sha256"] != config["data"]["sha256"]:
            raise RunError(f"{other} was trained on other data than {folder}; ask together only runs of the same data.")
        _check_unseen(other, chosen, "ask together only runs of the same split")
    models = [load_model(one / run_folder.MODEL) for one in (folder, *others)]
    held_out = (dataset.train_images[chosen], dataset.train_labels[chosen])
    test = _test_set(config, dataset)
    described: dict[str, Any] = {"runs": [one.name for one in (folder, *others)], "views": views, "share": share}
    answers = {
        **described,
        **evaluate_answers(models, views, test, held_out, share),
        "trainable_bytes": sum(model.stored_bytes()[1] for model in models),
    }
    kept = [one for one in summary.get("answers", []) if {name: one[name] for name in described} != described]
    run_folder.write_json(folder / run_folder.SUMMARY, summary | {"answers": [*kept, answers]})
    print(
        f"top-1          {answers['top1']:.2%} with further answers to {answers['test_share']:.1%} of the test images"
    )
    print(f"validation     {answers['validation_top1']:.2%}")
    print(f"all trainable  {answers['trainable_bytes']:,} bytes")
    print(f"network        {answers['puppet_macs'] / 1e6:,.1f} M multiply-accumulates an image", flush=True)
    return answers


def _test_set(config: dict[str, Any], dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that a run is tested on, by its `config.json`."""
    chosen = spread_indices(len(dataset.test_labels), config["config"].get("num_test"))
    return dataset.test_images[chosen], dataset.test_labels[chosen]


def peak_memory() -> dict[str, int]:
    """Most memory that this process has held so far, in bytes: on the host, and on the device where JAX tells."""
    unit = 1 if sys.platform == "darwin" else 1024
    memory = {"host_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    device = jax.devices()[0].memory_stats()
    return memory | ({"device_peak_bytes": device["peak_bytes_in_use"]} if device else {})


def use_compilation_cache() -> None:
    """Keeps compiled programs between processes, unless the user has chosen where already."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "puppet-jax" / "compiled"))


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of all images and labels."""
    digest = hashlib.sha256()
    for array in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _identity(dataset: Dataset, options: Options) -> dict[str, Any]:
    """What tells one data set from another, and where it was."""
    source = {
        "described": dataset.source,
        "data_dir": None if options.data_dir is None else str(options.data_dir.resolve()),
        "data_source": options.data_source,
    }
    return {"source": source, "sha256": fingerprint(dataset)}


def _describe_buckets(buckets: list[Bucket]) -> str:
    parts = [
        f"depth {b.depth}: {len(b.indices) - b.borrowed} images" + (f" + {b.borrowed} borrowed" if b.borrowed else "")
        for b in buckets
    ]
    return "buckets: " + ", ".join(parts)
