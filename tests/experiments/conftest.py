"""Runs that the tests of several files look at."""

import functools
import signal

import pytest
import sklearn.datasets
from tiny_run import CONFIG, Done, Recorder, leave_pictures_out

from experiments.config import Options
from experiments.training import run


@pytest.fixture(scope="session", autouse=True)
def digits_are_read_once():
    """Reading them takes as long as a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sklearn.datasets, "load_digits", functools.cache(sklearn.datasets.load_digits))
        yield


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
    with session_recorder.watching(pictures=True):
        summary = run.train("digits", CONFIG, Options(workdir=folder))
    return Done(folder, session_recorder.steps, summary)


@pytest.fixture
def quick(monkeypatch):
    """Leaves out the pictures and the evaluation on the test set."""
    leave_pictures_out(monkeypatch)
    monkeypatch.setattr(run, "summarise", lambda folder, experiment, config, model, *test: {"step": model.step})
