"""Tables on a Ray cluster: the same figures, though a process of it dies."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from tiny_run import CONFIG, TIMED

from experiments.cli import run_command
from experiments.errors import RunError, UsageError
from experiments.fields import replace
from experiments.tables.__main__ import Command, make
from experiments.tables.definitions import TRAINED
from experiments.tables.rows import Row, Table

pytestmark = pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")  # Ray forks to start
LONG = replace(CONFIG, epochs=8)
ROWS = [Row(str(n), "digits", replace(LONG, num_validation=50 + n)) for n in range(4)]


def without_times(value):
    if isinstance(value, dict):
        untimed = TIMED | {"hours", "full_hours", "seconds", "runs", "s_per_image", "s_per_image_generating"}
        return {name: without_times(one) for name, one in value.items() if name not in untimed}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def table(folder, *flags):
    flags = ["ablation", "--budget", "1", "--runs", folder / "runs", "--out", folder, *flags]
    assert run_command(Command, make, "experiments.tables", None, list(map(str, flags))) == 0
    return without_times(json.loads((folder / "ablation.json").read_text()))


@pytest.mark.timeout(900)  # three workers start, each with a JAX of its own
@pytest.mark.slow
def test_a_worker_killed_in_the_middle_changes_nothing(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setitem(TRAINED, "ablation", lambda: Table("four runs", tuple(ROWS), smoke=1))
    killed = []

    def kill():
        while not killed:
            for path in (tmp_path / "ray" / "runs").glob("*/metrics.jsonl"):
                if path.read_text().count("\n") < 4:
                    killed.append(int((path.parent / "lock").read_text()))
                    os.kill(killed[0], signal.SIGKILL)
                    return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    with_ray = table(tmp_path / "ray", "--ray", "local")
    killer.join()
    assert killed and killed[0] != os.getpid()
    assert with_ray == table(tmp_path / "here")


def test_without_ray(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    flags = ["ablation", "--runs", str(tmp_path), "--out", str(tmp_path), "--ray", "local"]
    assert run_command(Command, make, "experiments.tables", None, flags) == 2
    assert "pip install 'puppet-jax[cluster]'" in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_wrong_is_said(tmp_path):
    pytest.importorskip("ray")
    from experiments.config import Options
    from experiments.tables.cluster import Cluster

    with pytest.raises(UsageError, match="no machine of the cluster has the 1000 cores and 0 GPUs of a run"):
        Cluster("local", cpus=1000)
    with pytest.raises(UsageError, match="there is no cluster at 127.0.0.1:1"):
        Cluster("127.0.0.1:1")
    with Cluster("local") as cluster, pytest.raises(RunError, match="--batch-size must be at most the 64"):
        cluster.train("digits", replace(CONFIG, batch_size=100), Options(workdir=tmp_path / "run"))


@pytest.mark.parametrize("flag, value", [("--ray-cpus", "0"), ("--ray-gpus", "-1")])
def test_bad_numbers(flag, value, capsys):
    assert run_command(Command, make, "experiments.tables", None, ["ablation", flag, value]) == 2
    assert "must be at least" in capsys.readouterr().err
