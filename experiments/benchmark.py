"""How fast finished runs classify, beside each other: every figure is also a ratio to the first run, of one process.

    python -m experiments.benchmark RUN RUN... [--batch-sizes 1 256] [--images 2048] [--rounds 10]
    python -m experiments.benchmark --convolutions [--rounds 10]
    python -m experiments.benchmark --generation [--rounds 10]
    python -m experiments.benchmark --steps [--rounds 10]
    python -m experiments.benchmark --predictor MODEL [--data-dir DIR] [--rounds 10]

The models classify the same test images, from 8-bit images to logits, kernels from the bank where they are generated.
In every round each takes its turn, another one first, so that whatever else slows the machine slows all. Compiling and
filling the bank come before. Prints a table, and writes it to FOLDER/benchmark.json with --out FOLDER.

With --convolutions it times the ways in which the library can compute a convolution on this machine, and PyTorch where
it is installed, and says which way the library's rule chooses (FOLDER/convolutions.json).

With --generation it times the generation of kernels, and its gradient, as C grows from 64 to 2048 and layers from 4 to
64, beside a bare scan, PyTorch where it is installed, and the line of its arithmetic (FOLDER/generation.json).

With --steps it times a training step of presets, beside the same layers with stored weights, and both in PyTorch where
it is installed; and the first step of a new process, with an empty and a warm cache of compiled programs
(FOLDER/steps.json).

With --predictor it measures one puppet on the test images of CIFAR-10: what a call costs beside the network itself, and
beside the same network in plain JAX, in PyTorch and in onnxruntime where they are installed; and where depths follow
complexity how fast images of several depths are beside single depths, and how often kernels of a level of complexity
answer otherwise than those of the image's own (FOLDER/predictor.json).

On a GPU --steps adds batches of 512, and PyTorch is timed if it has the GPU too.
"""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.cli import main, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.benchmark`."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")] = ()
    """Folders of finished runs on the same data; ratios are to the first."""
    convolutions: tyro.conf.FlagCreatePairsOff[bool] = False
    """Times convolutions instead of runs."""
    generation: tyro.conf.FlagCreatePairsOff[bool] = False
    """Times the generation of kernels instead of runs."""
    steps: tyro.conf.FlagCreatePairsOff[bool] = False
    """Times training steps of presets instead of runs."""
    predictor: str | None = None
    """Measures this puppet's predictor instead of runs: a shipped name, a model file, or a run's folder."""
    data_dir: Path | None = None
    """Folder that holds the data; if not given the one the first run was trained from, or the usual one."""
    batch_sizes: tuple[int, ...] = (1, 256)
    """Images a call."""
    images: int = 2048
    """Test images a round, at most, but a batch at least; at batch 1 a sixteenth of them."""
    rounds: int = 10
    """How often each takes its turn."""
    out: Path | None = None
    """Folder that the figures are written to; none if not given."""

    def __post_init__(self):
        """Refuses values outside their range."""
        if bool(self.runs) + self.convolutions + self.generation + self.steps + (self.predictor is not None) != 1:
            raise ValueError(
                "give at least one RUN, the folder of a finished run, or else --convolutions, --generation, --steps or "
                "--predictor MODEL."
            )
        meant = {
            "batch_sizes": bool(self.runs),
            "images": bool(self.runs),
            "data_dir": bool(self.runs or self.predictor),
        }
        for field in dataclasses.fields(self):
            if not meant.get(field.name, True) and getattr(self, field.name) != field.default:
                raise ValueError(f"--{field.name.replace('_', '-')} has no meaning here; leave it out.")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ValueError(f"--batch-sizes must be positive, got {self.batch_sizes}.")
        for name in ("images", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}.")


def benchmark(command: Command) -> None:
    """Carries out the command."""
    import jax

    from experiments.benchmarks import convolutions, generation, predictor, rounds, steps
    from experiments.devices import device_name, start_jax
    from experiments.runs.files import write_json
    from experiments.runs.folder import versions

    # so that PyTorch and processes of their own find memory on a GPU; read when JAX first computes there
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    start_jax()
    rows: Any
    if command.convolutions:
        rows = convolutions.measure(command.rounds, convolutions.CASES)
        name, table = "convolutions", convolutions.table(rows)
    elif command.generation:
        rows = generation.measure(command.rounds, generation.CASES)
        name, table = "generation", generation.table(rows)
    elif command.steps:
        cases = (*steps.CASES, *(steps.ON_GPU if jax.default_backend() == "gpu" else ()))
        rows = {"steps": steps.measure(command.rounds, cases), "start": steps.measure_start(steps.STARTED)}
        name, table = "steps", steps.table(rows["steps"], rows["start"])
    elif command.predictor is not None:
        rows = _measure_predictor(command.predictor, command)
        name, table = "predictor", predictor.table(rows)
    else:
        rows = _measure_runs(command)
        name, table = "benchmark", rounds.table(rows)
    result = {"device": device_name(), "versions": versions(), "rounds": command.rounds, "rows": rows}
    print(table + f"device: {result['device']}")
    if command.out is not None:
        command.out.mkdir(parents=True, exist_ok=True)
        write_json(command.out / f"{name}.json", result)


def _measure_predictor(named: str, command: Command) -> dict[str, Any]:
    from experiments.benchmarks import predictor
    from experiments.data import load_dataset
    from experiments.runs.puppet import check_data, open_puppet

    model = open_puppet(named)
    dataset = load_dataset("cifar10", command.data_dir)
    check_data(named, model, dataset, "give a puppet for CIFAR-10")
    return predictor.measure(model, dataset.test_images, command.rounds)


def _measure_runs(command: Command) -> list[dict[str, Any]]:
    from experiments.benchmarks.rounds import measure
    from experiments.errors import RunError
    from experiments.fields import as_json, flat
    from experiments.names import distinct_names
    from experiments.runs.load import load_run

    runs = [load_run(folder, command.data_dir) for folder in command.runs]
    for run in runs:
        if run.data["sha256"] != runs[0].data["sha256"]:
            raise RunError(f"{run.folder} was trained on other data than {runs[0].folder}; give runs on the same data.")
    names = distinct_names([flat(as_json(run.config)) for run in runs])
    images = runs[0].dataset.test_images
    return measure(runs, names, images, command.batch_sizes, command.images, command.rounds)


if __name__ == "__main__":
    main(run_command, Command, benchmark, "experiments.benchmark", __doc__)
