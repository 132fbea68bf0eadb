"""Training on several devices, and in several processes, gives what training on one device gives."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors.numpy import load_file
from tiny_run import CONFIG

import puppet_jax as pj
from experiments.config import Options
from experiments.fields import replace
from experiments.runs import folder as run_folder
from experiments.training import parallel, run
from experiments.training.optimizer import make_optimizer
from experiments.training.statistics import make_stats_estimator
from experiments.training.step import Data, init_state, make_train_step
from puppet_jax import extras
from puppet_jax.puppeteer import IDLE_BIASES

SHORT = replace(CONFIG, epochs=2)  # 8 steps
"""A norm follows these biases of the field: their gradient is zero."""
ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.path[:0] = ["tests", "tests/experiments"]
from pathlib import Path
from test_parallel import SHORT
from tiny_run import TIMED, leave_pictures_out
from experiments.evaluation import accuracy
from experiments.cli import run_command
from experiments.config import Options
from experiments.training import run
import dataclasses, pytest

@dataclasses.dataclass
class Command:
    options: Options

patch = pytest.MonkeyPatch()
leave_pictures_out(patch)
patch.setattr(accuracy, "speed", lambda *_, **__: dict.fromkeys(TIMED, 1.0))

def train(command):
    print(run.train("digits", SHORT, command.options).top1)

raise SystemExit(run_command(Command, train, "test", None))
"""


def start(folder, devices, *flags, **variables):
    """A process that trains."""
    flags_of_xla = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags_of_xla} | {name: str(value) for name, value in variables.items()}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--workdir", folder, *flags],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(folder, *flags, **variables):
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    variables |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": 2}
    return [start(folder, 2, "--distributed", *flags, JAX_PROCESS_ID=n, **variables) for n in range(2)]


def ended(process, status=0):
    out, err = process.communicate(timeout=250)
    assert process.returncode == status, out + err
    return out, err


def check_same(folder, other):
    """Parameters and statistics within 1e-5, losses within 1e-6, what is counted exactly."""
    arrays, others = (load_file(one / run_folder.MODEL) for one in (folder, other))
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert np.linalg.norm(array - others[name]) <= 1e-5 * np.linalg.norm(array), name
    rows, other_rows = (run_folder.read_metrics(one) for one in (folder, other))
    assert [row["step"] for row in rows] == [row["step"] for row in other_rows]
    for row, other_row in zip(rows, other_rows, strict=True):
        assert row["validation_top1"] == other_row["validation_top1"]
        assert row["train_loss"] == pytest.approx(other_row["train_loss"], rel=1e-6)


@pytest.fixture(scope="module")
def one_device(session_recorder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    with session_recorder.watching():
        run.train("digits", SHORT, Options(workdir=folder))
    return folder


def test_steps_predictions_and_pmap_on_four_devices():
    """In a process of its own, as a process's devices are what they are from its start."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def compare() -> None:
    """Raises unless five steps, and predictions, on all devices are those of one."""
    network = SHORT.network.make(10, (8, 8, 1))
    tx = make_optimizer(SHORT.optim, network, 8)
    rng = np.random.default_rng(0)
    data = Data(rng.integers(0, 256, (64, 8, 8, 1), np.uint8), np.arange(64) % 10, np.full(64, 1.5, np.float32))
    layout = parallel.make_layout(16)
    assert layout is not None and layout.whole.num_devices == 4
    results = []
    for chosen in (None, layout):
        state, given = init_state(SHORT, network, (1,), tx), data
        if chosen is not None:
            state, given = parallel.put((state, data), chosen.whole)
        step = make_train_step(SHORT, network, tx, chosen)
        for start in range(0, 40, 8):
            state, metrics = step(state, given, np.arange(start, start + 16, dtype=np.int32), depth=1)
        stats = make_stats_estimator(SHORT, network, chosen)(state.params, given, [(1, np.arange(16, dtype=np.int32))])
        logits = network.predictor(state.params, stats)(data.images[:16])
        results.append((parallel.local(state.params), stats, logits, metrics["loss"]))
    assert len(state.params.classifier_kernel.sharding.device_set) == 4
    (params, *one), (others, *four) = results
    for (path, leaf), other in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(others), strict=True):
        assert np.linalg.norm(leaf - other) <= 1e-5 * np.linalg.norm(leaf), path
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def compare_split_puppeteer() -> None:
    """Raises unless kernels and gradients of a puppeteer that is split over devices are its own, and take less room."""
    mesh = jax.make_mesh((4,), ("channels",), axis_types=(AxisType.Auto,))
    with pytest.raises(ValueError, match="4 devices along 'channels' must divide the 9 channels"):
        extras.shard_puppeteer(pj.init_puppeteer(jax.random.key(0), 9), mesh, "channels")
    for kind in ("seeded", "learned"):
        whole = pj.init_puppeteer(jax.random.key(0), 64, initial_state=kind)
        split = extras.shard_puppeteer(whole, mesh, "channels")
        for leaf in jax.tree.leaves(split):
            assert all(part.data.size * 4 == leaf.size for part in leaf.addressable_shards)

        def kernels(puppeteer):
            return pj.generate_kernels(puppeteer, 4.5, [(3, 3, 64, 64)] * 6)

        parts = NamedSharding(mesh, PartitionSpec(None, None, None, "channels"))
        gradient = jax.grad(lambda puppeteer: sum(jnp.square(kernel).sum() for kernel in kernels(puppeteer)))
        programs = [
            (jax.jit(kernels), jax.jit(kernels, out_shardings=parts)),
            (jax.jit(gradient), jax.jit(gradient)),
        ]
        for one, several in programs:
            found = jax.tree.leaves_with_path(several(split))
            for (path, own), expected in zip(found, jax.tree.leaves(one(whole)), strict=True):
                if not jax.tree_util.keystr(path).endswith(IDLE_BIASES):
                    assert all(part.data.size * 4 == own.size for part in own.addressable_shards)
                np.testing.assert_allclose(own, expected, atol=1e-5 * float(jnp.abs(expected).max()))
            memory = [
                program.lower(puppeteer).compile().memory_analysis()
                for program, puppeteer in ((several, split), (one, whole))
            ]
            assert memory[0].output_size_in_bytes <= 0.3 * memory[1].output_size_in_bytes
            assert memory[0].temp_size_in_bytes < 0.6 * memory[1].temp_size_in_bytes


@pytest.mark.parametrize(
    ("kind", "axis", "message"),
    [(AxisType.Auto, "model", "got 'model'"), (AxisType.Explicit, "channels", "an axis of the kind Auto")],
)
def test_meshes_that_no_puppeteer_is_split_over(kind, axis, message):
    mesh = jax.make_mesh((1,), ("channels",), axis_types=(kind,))
    with pytest.raises(ValueError, match=message):
        extras.shard_puppeteer(pj.init_puppeteer(jax.random.key(0), 9), mesh, axis)


@pytest.mark.slow
def test_eight_devices(one_device, tmp_path):
    ended(start(tmp_path / "run", 8))
    check_same(tmp_path / "run", one_device)


@pytest.mark.slow
def test_two_processes(one_device, tmp_path):
    """Process 0 speaks; both end with the same summary."""
    first, second = start_two(tmp_path / "run")
    (out, _), (other_out, _) = ended(first), ended(second)
    assert out.splitlines()[-1] == other_out.splitlines()[-1]
    assert "epoch 2/2" in out and "epoch" not in other_out
    check_same(tmp_path / "run", one_device)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_and_both_go_on(one_device, tmp_path):
    first, second = start_two(tmp_path / "run")
    while not (tmp_path / "run" / run_folder.METRICS).exists():
        time.sleep(0.05)
        assert first.poll() is None
    second.send_signal(signal.SIGTERM)
    for process in (first, second):
        assert "give the same command with --resume" in ended(process, status=128 + signal.SIGTERM)[1]
    for process in start_two(tmp_path / "run", "--resume"):
        ended(process)
    check_same(tmp_path / "run", one_device)


@pytest.mark.slow
def test_what_process_0_finds_wrong_ends_both(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    for process in start_two(tmp_path / "run"):
        assert "is damaged" in ended(process, status=1)[1]


@pytest.mark.slow
def test_a_process_that_does_not_arrive(tmp_path):
    first, second = start_two(tmp_path / "run", JAX_INITIALIZATION_TIMEOUT=5)
    second.kill()
    second.communicate()
    assert "process 0 of 2 waits up to 5 s for the others, or else is aborted" in ended(first, -signal.SIGABRT)[1]


def test_what_jax_says_is_told(monkeypatch, capsys):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(run.RunError, match="the processes did not meet: .*[^.][.] Start each with"):
        run.start_jax(distributed=True)
    assert "process 0 of 2 waits up to 300 s" in capsys.readouterr().err


def test_a_number_that_is_none(monkeypatch):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(run.RunError, match="JAX_NUM_PROCESSES must be an integer, got 'two'"):
        run.start_jax(distributed=True)


def test_devices_that_do_not_divide_the_batch(monkeypatch):
    monkeypatch.setattr(parallel.jax, "device_count", lambda: 3)
    with pytest.raises(run.RunError, match="--batch-size must be a multiple of the 3 devices, got 16"):
        parallel.make_layout(16)


def compare_pmap() -> None:
    """Raises unless `jax.pmap` over the devices gives the kernels and gradients of `jax.vmap`."""
    puppeteer, shapes = pj.init_puppeteer(jax.random.key(0), max_channels=6), [(3, 3, 3, 6), (3, 3, 6, 6)]

    def loss(puppeteer, h):
        return sum(jnp.square(kernel).sum() for kernel in pj.generate_kernels(puppeteer, h, shapes))

    h = jnp.linspace(2.0, 5.0, 4)
    results = [each(jax.value_and_grad(loss), in_axes=(None, 0))(puppeteer, h) for each in (jax.pmap, jax.vmap)]
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)  # gradients reach 19


if __name__ == "__main__":
    compare()
    compare_pmap()
    compare_split_puppeteer()
