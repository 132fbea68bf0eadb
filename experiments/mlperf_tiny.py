"""Models beside the image classification of MLPerf Tiny.

    python -m experiments.mlperf_tiny MODEL... [--data-dir DIR] [--out FOLDER]

MODEL is the name of a shipped model, a model file or the folder of a run, trained on CIFAR-10. Prints the accuracy on
the benchmark's 200 images, for which it asks for 85 %, and on all 10,000 test images, stored bytes,
multiply-accumulates, the peak memory of activations in 8 bits, and what generated kernels take. With --out the same as
FOLDER/mlperf_tiny.json. These are figures for comparison and no MLPerf result: nothing runs on a microcontroller.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli import main, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.mlperf_tiny`."""

    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")]
    """Names of shipped models, model files or folders of runs."""
    data_dir: Path | None = None
    """Folder that holds CIFAR-10; fetched if not given."""
    out: Path | None = None
    """Folder that mlperf_tiny.json is written to."""

    def __post_init__(self):
        """Refuses an empty list."""
        if not self.models:
            raise ValueError("give at least one MODEL: the name of a shipped model, a model file or a run's folder.")


def compare(command: Command) -> None:
    """Carries out the command."""
    from experiments.data import load_dataset
    from experiments.devices import device_name, start_jax
    from experiments.errors import RunError
    from experiments.evaluation.mlperf_tiny import TEST_IMAGES, measure, table
    from experiments.model import load_model
    from experiments.runs.files import write_json
    from experiments.runs.folder import versions
    from experiments.runs.puppet import check_data, find_model

    start_jax()
    models = {named: load_model(find_model(named)) for named in command.models}
    dataset = load_dataset("cifar10", command.data_dir)
    if len(dataset.test_labels) != TEST_IMAGES:
        raise RunError(
            f"the benchmark's images are known by their places among {TEST_IMAGES:,} test images, and {dataset.source} "
            f"has {len(dataset.test_labels):,}; give --data-dir a folder with the official binary files."
        )
    for named, model in models.items():
        check_data(named, model, dataset, "give models for CIFAR-10")
    rows = [measure(named, model, dataset.test_images, dataset.test_labels) for named, model in models.items()]
    print(table(rows), end="")
    if command.out is not None:
        command.out.mkdir(parents=True, exist_ok=True)
        write_json(command.out / "mlperf_tiny.json", {"device": device_name(), "versions": versions(), "rows": rows})


if __name__ == "__main__":
    main(run_command, Command, compare, "experiments.mlperf_tiny", __doc__)
