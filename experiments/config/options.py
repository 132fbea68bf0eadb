"""Where a run reads and writes, as a record; imports no JAX."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Where a run reads and writes; nothing here changes what is computed."""

    data_dir: Path | None = None
    """Folder that holds the data: the official CIFAR binary layout, or class folders of images."""
    data_source: Literal["auto", "tfds", "archive"] = "auto"
    """Without --data-dir: what TensorFlow Datasets has prepared, or the official archive, downloaded once."""
    workdir: Path | None = None
    """Folder of the run; runs/EXPERIMENT-PRESET-seedSEED if not given."""
    resume: bool = False
    """Go on where the run in the folder stopped; start it if there is none."""
    distributed: tyro.conf.FlagCreatePairsOff[bool] = False
    """One of several processes that train together. SLURM and Open MPI tell which; elsewhere
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID do."""
