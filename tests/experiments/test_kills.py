"""Real processes, killed at random moments or between two file operations, and resumed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_run import CONFIG, assert_same_run, command_line, rows, without_times

from experiments.config import Options
from experiments.runs import folder as run_folder
from experiments.training import run

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from tiny_run import command_line
sys.exit(command_line(sys.argv[1], "--resume"))
"""


def start(folder, cache):
    """A process that trains or resumes in `folder`; what it says of errors is in `folder`.err."""
    program = PROGRAM.format(root=str(ROOT), tests=str(ROOT / "tests"))
    kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with folder.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            env=os.environ | kept,
            stdout=subprocess.DEVNULL,
            stderr=err,
        )


def finish(folder, cache):
    assert start(folder, cache).wait() == 0, folder.with_suffix(".err").read_text()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_processes_killed_at_random_moments(tmp_path):
    cache = tmp_path / "compiled"
    finish(tmp_path / "whole", cache)
    began = time.perf_counter()
    finish(tmp_path / "again", cache)  # with its programs compiled
    seconds = time.perf_counter() - began
    expected = [without_times(row) for row in rows(tmp_path / "whole")]
    rng = np.random.default_rng(0)
    killed, number = 0, 0
    while killed < 50:
        number += 1
        folder = tmp_path / f"run{number}"
        for _ in range(4):  # the first while it trains, the others while it resumes
            process = start(folder, cache)
            time.sleep(rng.uniform(0.2, 1.0) * seconds)
            if process.poll() is not None:
                break
            process.kill()
            killed += 1
            process.wait()
        finish(folder, cache)
        assert [without_times(row) for row in rows(folder)] == expected
        assert (folder / run_folder.MODEL).read_bytes() == (tmp_path / "whole" / run_folder.MODEL).read_bytes()
        shutil.rmtree(folder)
    print(f"{killed} processes killed in {number} runs")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_resumed_from_before_each_file_operation(straight, recorder, tmp_path):
    """The folder as it is before each operation on a file of it, and what a resume makes of that."""
    folder, photographs, watching = tmp_path / "run", [], True

    def photograph(event, arguments):
        nonlocal watching
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if watching and (changes or writes) and str(arguments[0]).startswith(str(folder)):
            watching = False
            try:
                place = tmp_path / "photographs" / str(len(photographs))
                if folder.exists():
                    shutil.copytree(folder, place, ignore_dangling_symlinks=True)
                    photographs.append(place)
            except shutil.Error:  # a file that another thread renamed meanwhile
                shutil.rmtree(place, ignore_errors=True)
            finally:
                watching = True

    sys.addaudithook(photograph)
    try:
        run.train("digits", CONFIG, Options(workdir=folder))
    finally:
        watching = False
    assert len(photographs) > 50
    for place in photographs:
        recorder.reset()
        assert command_line(place, "--resume") == 0, place
        assert_same_run(place, straight)
        assert [without_times(row) for row in rows(place)] == [without_times(row) for row in rows(straight.folder)]
    print(f"{len(photographs)} states resumed")
