"""The runs of a table on a Ray cluster: those that do not wait for each other train at the same time."""

import concurrent.futures
import dataclasses
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.config import Config, Options
from experiments.errors import DataError, ExperimentError, RunError, UsageError
from experiments.evaluation.summary import Summary
from experiments.fields import as_json, from_json

RETRIES = 3
"""How often a run whose process died is started again; it goes on from its newest checkpoint."""


class Cluster:
    """Trains on a Ray cluster. A context manager: leaving it leaves the cluster.

    Args:
        address: of a Ray cluster whose machines share this file system, at the same paths; "local" starts one on this
            machine.
        cpus: CPU cores of a run.
        gpus: GPUs of a run; several runs may share one, as with 0.5. None: one where the cluster has GPUs, else none.

    Raises:
        UsageError: if Ray is not installed, there is no cluster at `address`, or no machine has what a run takes.
    """

    def __init__(self, address: str, cpus: int = 1, gpus: float | None = None):
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a run without GPUs keeps JAX's own choice
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError:
            raise UsageError("--ray needs Ray; run `pip install 'puppet-jax[cluster]'`.") from None
        own: dict[str, Any] = {} if address == "local" else {"address": address}
        try:
            _knock(address)
            ray.init(**own, include_dashboard=False, log_to_driver=True, runtime_env={"env_vars": _paths()})
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"--ray: there is no cluster at {address} ({str(error).splitlines()[0]:.200}); start one with "
                "`ray start --head`, or give local."
            ) from None
        self._ray = ray
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU") else 0.0
        if not any(
            node["Resources"].get("CPU", 0) >= cpus and node["Resources"].get("GPU", 0) >= gpus for node in ray.nodes()
        ):
            ray.shutdown()
            raise UsageError(f"--ray: no machine of the cluster has the {cpus} cores and {gpus:g} GPUs of a run.")
        self._train = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_train)
        self._lock = threading.Lock()
        self._begun: dict[Path | None, Any] = {}

    def __enter__(self) -> "Cluster":
        """Returns the cluster."""
        return self

    def __exit__(self, *exception):
        """Leaves it."""
        self._ray.shutdown()

    def train(self, experiment: str, config: Config, options: Options) -> Summary:
        """What `experiments.training.run.train` gives; of several that ask for one run, one trains it.

        Raises:
            ExperimentError: if the run fails, or its process died more than `RETRIES` times.
        """
        options = dataclasses.replace(
            options,
            workdir=options.workdir and options.workdir.expanduser().resolve(),
            data_dir=options.data_dir and options.data_dir.expanduser().resolve(),
        )
        with self._lock:
            if options.workdir not in self._begun:
                self._begun[options.workdir] = self._train.remote(experiment, as_json(config), options)
            begun = self._begun[options.workdir]
        try:
            summary, error = self._ray.get(begun)
        except self._ray.exceptions.RayError as error:
            raise RunError(f"{options.workdir}: its process died {RETRIES + 1} times ({error})".strip()) from None
        if error is not None:
            raise (DataError if error[0] == "DataError" else RunError)(error[1])
        return Summary(**summary)

    def map(self, function: Callable[[Any], Any], items: Any) -> list[Any]:
        """What `function` gives for each item, all at the same time; it waits for runs and computes nothing itself."""
        with concurrent.futures.ThreadPoolExecutor(max(1, len(items))) as pool:
            return list(pool.map(function, items))


def _train(experiment: str, config: dict[str, Any], options: Options) -> tuple[Any, Any]:
    """Of a process of the cluster: the summary as JSON values, or the kind and words of what a person can mend."""
    from experiments.training.run import train

    try:
        return dataclasses.asdict(train(experiment, from_json(Config, config), options)), None
    except ExperimentError as error:
        return None, (type(error).__name__, str(error))


def _knock(address: str) -> None:
    """Raises an OSError if nobody listens at host:port; Ray itself would go on asking for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _paths() -> dict[str, str]:
    """Where processes of the cluster find this project."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))}
