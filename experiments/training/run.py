"""A run from start to end: data, network, buckets, the loop, the summary."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import puppet_jax as pj
from experiments import plots
from experiments.config import Config, Options
from experiments.data import Dataset, fingerprint, load_dataset, split_indices
from experiments.devices import start_jax
from experiments.errors import RunError
from experiments.evaluation.report import summarise
from experiments.evaluation.summary import Summary
from experiments.fields import replace
from experiments.model import load_model
from experiments.networks import Network
from experiments.runs import folder as run_folder
from experiments.runs.load import check_unseen, run_of_flag, test_set
from experiments.runs.lock import locked
from experiments.training.batching import Bucket, make_buckets
from experiments.training.checkpoint import Checkpoints
from experiments.training.complexity import Complexities, measure_complexities
from experiments.training.distillation import answers_or_teachers, load_teachers
from experiments.training.keeper import Keeper
from experiments.training.loop import Schedule, train_loop
from experiments.training.optimizer import make_optimizer
from experiments.training.parallel import agreed, alone, by_first, local, make_layout, put, told
from experiments.training.statistics import make_stats_estimator
from experiments.training.step import Data, init_state, make_train_step, rounded
from experiments.training.validation import make_model, validated


def train(experiment: str, config: Config, options: Options, dataset: Dataset | None = None) -> Summary:
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
    config = _with_absolute_paths(config)
    start_jax(options.distributed)
    layout = make_layout(config.optim.batch_size)
    dataset = dataset or _load(experiment, options)
    chosen, held_out = split_indices(
        len(dataset.train_labels), config.data.num_images, config.data.num_validation, config.seed
    )
    images, labels = dataset.train_images[chosen], dataset.train_labels[chosen]
    validation = (dataset.train_images[held_out], dataset.train_labels[held_out])
    network = _fitting_network(config, dataset, len(chosen))
    complexities = measure_complexities(config, network, images)
    h, depths = agreed((complexities.h, complexities.depths))  # other processors may round otherwise
    complexities = Complexities(h, depths, complexities.measure)
    buckets = make_buckets(complexities.h, complexities.depths, config.optim.batch_size)
    depths = tuple(bucket.depth for bucket in buckets)
    check_apply(network, config.seed, depths)

    identity = _identity(dataset, options)
    saved = told(by_first(lambda: options.resume and run_folder.check_resumable(folder)))
    start = None if saved else _start(config, network, depths, identity, held_out)
    teachers = load_teachers(config, identity, chosen, held_out)
    if teachers:
        identity["teachers"] = {str(run.folder): run.sha256() for run in teachers}
    taught = answers_or_teachers(config, teachers, images)
    schedule = Schedule(
        buckets=buckets,
        h=complexities.h,
        batch_size=config.optim.batch_size,
        epochs=config.optim.epochs,
        seed=config.seed,
    )
    tx = make_optimizer(config.optim, network, schedule.steps)
    validation_h = pj.complexities(validation[0], complexities.measure)
    with contextlib.ExitStack() as stack:

        def open_folder() -> None:
            described = folder, experiment, config, identity, options.resume
            run_folder.check_run(*described)
            stack.enter_context(locked(folder))
            run_folder.open_run(*described)  # which another process may have begun or changed meanwhile
            run_folder.write_split(folder, chosen, held_out)
            print(f"data: {dataset.source}\nrun: {folder}\n{_describe_buckets(buckets)}", flush=True)
            plots.plot_depths(images, complexities.h, complexities.depths).savefig(folder / "depths.png")

        by_first(open_folder)
        keeper = Keeper(folder, stack.enter_context(Checkpoints(folder / run_folder.CHECKPOINTS)))
        state = agreed(init_state(config, network, depths, tx, start))
        data = Data(images, labels, complexities.h, *taught)
        # on the devices, once
        state, data = put((state, data), layout.whole) if layout else (state, jax.tree.map(jnp.asarray, data))
        state, resumed = keeper.restore(state, schedule.per_epoch, schedule.steps)
        estimate_stats = make_stats_estimator(config, network, layout)

        store = jax.jit(lambda params: rounded(config, network, params))  # many small operations, else

        def validate(state, batches):
            found = (store(state.params), estimate_stats(state.params, data, batches))
            params, stats = found if alone() else local(found)
            model = make_model(config, network, params, stats, complexities, dataset.class_names, int(state.step))
            return validated(model, *validation, validation_h)

        train_step = make_train_step(config, network, tx, layout)
        train_loop(state, data, schedule, train_step, validate, resumed, keeper, len(held_out))

    def summed_up() -> Summary:
        plots.plot_curves(run_folder.read_metrics(folder)).savefig(folder / "curves.png")
        model = load_model(folder / run_folder.MODEL)
        return summarise(folder, experiment, config, model, *test_set(config, dataset))

    summary = by_first(summed_up)
    if summary is not None and alone():
        return summary
    return Summary(**told(summary and dataclasses.asdict(summary)))


def _load(experiment: str, options: Options) -> Dataset:
    """The data; process 0 is first, as it may have to download them."""
    found = by_first(lambda: load_dataset(experiment, options.data_dir, options.data_source))
    return found or load_dataset(experiment, options.data_dir, options.data_source)


def _fitting_network(config: Config, dataset: Dataset, num_images: int) -> Network:
    """The network; refuses what the data does not allow, before a folder is made."""
    if config.optim.batch_size > num_images:
        given = config.optim.batch_size
        raise RunError(f"--batch-size must be at most the {num_images} training images, got {given}.")
    side = min(dataset.train_images.shape[1:3])
    if config.data.cutout >= side:
        raise RunError(f"--cutout must be less than the {side} pixels of the images, got {config.data.cutout}.")
    try:
        height, width, channels = dataset.train_images.shape[1:]
        return config.network.make(len(dataset.class_names), (height, width, channels))
    except ValueError as error:
        raise RunError(str(error)) from None


def check_apply(network: Network, seed: int, depths: tuple[int, ...]) -> None:
    """Traces the network on one image, so that what does not fit is refused before a folder is made."""
    image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.uint8)

    def apply(image):
        return network.apply(network.init(seed, depths), network.init_stats(depths[0]), image, jnp.ones(1), depths[0])

    try:
        jax.eval_shape(apply, image)
    except ValueError as error:
        raise RunError(str(error)) from None


def _start(
    config: Config, network: Network, depths: tuple[int, ...], data: dict[str, Any], validation: np.ndarray
) -> Any:
    """The parameters of the run that training goes on from, or None.

    Raises:
        RunError: if it is of another network, or was trained on images that this run validates on.
    """
    if config.start_from is None:
        if getattr(config.network, "phase", None) == "reinforcement":
            raise RunError("--phase reinforcement goes on from a supervised run; name its folder by --start-from.")
        return None
    run = run_of_flag("--start-from", config.start_from)
    wanted = jax.eval_shape(lambda: network.init(config.seed, depths))
    theirs, ours = (jax.tree.flatten(jax.tree.map(jnp.shape, tree)) for tree in (run.model.params, wanted))
    if theirs != ours:
        raise RunError(
            f"the network of --start-from {run.folder} has other parameters than the one that these flags describe; "
            f"give the flags of its {run_folder.CONFIG}."
        )
    if run.data["sha256"] == data["sha256"]:
        check_unseen(run.folder, run.train_indices, validation, "give its --seed, --num-images and --num-validation")
    return run.model.params


def _with_absolute_paths(config: Config) -> Config:
    """The same, whichever folder a later command is given in."""

    def absolute(folder: str) -> str:
        return str(Path(folder).expanduser().resolve())

    start = None if config.start_from is None else absolute(config.start_from)
    return replace(config, start_from=start, teachers=tuple(map(absolute, config.distillation.teachers)))


def _identity(dataset: Dataset, options: Options) -> dict[str, Any]:
    """What tells one data set from another, and where it was."""
    source = {
        "described": dataset.source,
        "data_dir": None if options.data_dir is None else str(options.data_dir.expanduser().resolve()),
        "data_source": options.data_source,
    }
    return {"source": source, "sha256": fingerprint(dataset)}


def _describe_buckets(buckets: list[Bucket]) -> str:
    parts = [
        f"depth {b.depth}: {len(b.indices) - b.borrowed} images" + (f" + {b.borrowed} borrowed" if b.borrowed else "")
        for b in buckets
    ]
    return "buckets: " + ", ".join(parts)
