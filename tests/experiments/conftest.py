"""Runs that the tests of several files look at."""

import gc
import signal
from pathlib import Path

import jax
import pytest
from matplotlib.figure import Figure
from tiny_run import CONFIG, Done, Recorder

from experiments import plots
from experiments.cli import Options
from experiments.training import run

MEMORY = 1.5e9
"""Bytes that a process may hold at the end of a module without forgetting its compiled programs."""


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_go_with_their_module():
    """Files here share runs and programs, so that these go where memory is short alone."""
    yield
    pages = Path("/proc/self/statm")
    if not pages.exists() or int(pages.read_text().split()[1]) * 4096 > MEMORY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def session_recorder(tmp_path_factory):
    return Recorder(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def recorder(session_recorder):
    """Watches the runs of a test, with nothing noted yet. They leave the handlers of signals as they were."""
    session_recorder.reset()
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with session_recorder.watching():
        yield session_recorder
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture(scope="session")
def straight(session_recorder, tmp_path_factory):
    """A run in one go. Tests must not change its folder."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    session_recorder.reset()
    with session_recorder.watching():
        summary = run.train("digits", CONFIG, Options(workdir=folder))
    return Done(folder, session_recorder.steps, summary)


@pytest.fixture
def quick(monkeypatch):
    """Leaves out the pictures and the evaluation on the test set."""
    for name in ("plot_curves", "plot_depths"):
        monkeypatch.setattr(plots, name, lambda *_: Figure(figsize=(0.1, 0.1)))
    monkeypatch.setattr(run, "summarise", lambda folder, experiment, config, model, *test: {"step": model.step})
