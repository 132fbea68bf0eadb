"""Writes a trained puppet as programs or weights that need neither this package nor its libraries.

    python -m experiments.export RUN --to stablehlo|onnx|safetensors --out FOLDER [--generate]

RUN is the folder of a run, a model file, or the name of a model that comes with the package. All kernels are generated
once, and the norms folded into them: a plain CNN, for speed. With --generate the program holds the puppeteer and makes
the kernels whenever it runs, for bytes. FOLDER gets a program for each depth, model.json, which says what they take,
and load.py, which runs them: `from load import load; logits = load(FOLDER)(images)`.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.cli import main, printable, run_command


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """Command line of `experiments.export`."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, a model file, or the name of a model of the package."""
    to: Literal["stablehlo", "onnx", "safetensors"]
    """Programs for JAX, graphs for other runtimes, or the weights alone."""
    out: Path
    """A new folder."""
    generate: tyro.conf.FlagCreatePairsOff[bool] = False
    """Generate the kernels in the program (stablehlo only)."""

    def __post_init__(self):
        """Refuses what a format cannot hold."""
        if self.generate and self.to != "stablehlo":
            raise ValueError(
                f"--generate needs --to stablehlo, got --to {self.to}: ONNX graphs and plain weights hold the kernels."
            )


def export(command: Command) -> None:
    """Carries out the command."""
    import importlib.util

    from experiments.errors import RunError

    needed = {"stablehlo": "flatbuffers", "onnx": "onnx", "safetensors": "safetensors"}[command.to]
    if importlib.util.find_spec(needed) is None:
        raise RunError(
            f'--to {command.to} needs the package {needed}, which is not installed; pip install -e ".[export]" has it.'
        )
    from experiments.devices import start_jax
    from experiments.exported import write
    from experiments.model import load_model
    from experiments.runs.puppet import find_model

    start_jax()
    path = find_model(command.run)
    for file in write.export(load_model(path), command.out, command.to, command.generate, Path(command.run).name):
        print(printable(f"{file}: {file.stat().st_size:,} bytes"))


if __name__ == "__main__":
    main(run_command, Command, export, "experiments.export", __doc__)
