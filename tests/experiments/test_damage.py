"""Damage to every file of a run's folder: each command goes on right, or refuses in words that name what is damaged.

`pytest -m slow tests/experiments/test_damage.py -s` prints the table.
"""

import contextlib
import io
import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_run import TIMED, command_line, without_times

from experiments.cli import run_command
from experiments.evaluate import Command as EvaluateCommand, evaluate
from experiments.predict import Command as PredictCommand, predict
from experiments.quantize import Command as QuantizeCommand, quantize
from experiments.runs import folder as run_folder

RNG = np.random.default_rng(0)
VARYING = TIMED | {"train_seconds", "host_peak_bytes", "device_peak_bytes", "crc32"}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def make_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "bit flipped": flip,
    "removed": Path.unlink,
    "a folder": make_folder,
    "random bytes": lambda path: path.write_bytes(RNG.bytes(path.stat().st_size)),
}


def resume(folder, image):
    status = command_line(folder, "--resume")
    return status, lambda: (
        (folder / run_folder.MODEL).read_bytes(),
        [without_times(row) for row in run_folder.read_metrics(folder)],
        summary(folder),
    )


def evaluated(folder, image):
    status = run_command(EvaluateCommand, evaluate, "experiments.evaluate", "", [str(folder)])
    return status, lambda: summary(folder)


def predicted(folder, image):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = run_command(PredictCommand, predict, "experiments.predict", "", [str(folder), str(image)])
    return status, out.getvalue


def quantized(folder, image):
    argv = [str(folder), "--bits", "4", "--workdir", str(folder.with_name("few"))]
    status = run_command(QuantizeCommand, quantize, "experiments.quantize", "", argv)
    return status, lambda: (folder.with_name("few") / run_folder.MODEL).read_bytes()


def summary(folder):
    found = json.loads((folder / run_folder.SUMMARY).read_text())
    return {name: value for name, value in found.items() if name not in VARYING}


COMMANDS = {"resume": resume, "evaluate": evaluated, "predict": predicted, "quantize": quantized}


@pytest.fixture
def folders(straight, recorder, tmp_path):
    """For each command a run that it has something to do with: one that was stopped, or one that is finished."""
    stopped = tmp_path / "stopped"
    recorder.reset({10: signal.SIGTERM})
    assert command_line(stopped) == 143
    recorder.reset()
    image = tmp_path / "image.npy"
    np.save(image, RNG.integers(0, 256, (8, 8, 1), np.uint8))
    return {name: stopped if name == "resume" else straight.folder for name in COMMANDS}, image


def trial(command, source, place, image, damage=None, file=None):
    """Exit status, result, and what was printed, for a damaged copy of the run in `source`."""
    shutil.rmtree(place, ignore_errors=True)
    folder = shutil.copytree(source, place / "run")
    if damage is not None:
        DAMAGES[damage](folder / file)
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        status, result = COMMANDS[command](folder, image)
    return status, (result() if status == 0 else None), err.getvalue(), folder


def verdict(found, expected, file):
    """ "the same" or "refused", else what is wrong."""
    status, result, err, folder = found
    if status == 0:
        return "the same" if result == expected else "ANOTHER RESULT, IN SILENCE"
    parts = [str(folder / part) for part in (file, *list(Path(file).parents)[:-1])]
    named = any(part in err for part in parts) or (str(folder) in err and Path(file).name in err)
    return "refused" if named else f"NOT NAMED: {err[:200]}"


def table(folders, tmp_path):
    """(command, file, damage) to verdict."""
    sources, image = folders
    found = {}
    for command, source in sources.items():
        _, expected, _, _ = trial(command, source, tmp_path / "trial", image)
        files = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
        for file in files:
            for damage in DAMAGES:
                try:
                    outcome = verdict(trial(command, source, tmp_path / "trial", image, damage, file), expected, file)
                except Exception as error:
                    outcome = f"TRACEBACK {error!r:.200}"
                found[command, file, damage] = outcome
    return found


def wrong(found):
    return {case: outcome for case, outcome in found.items() if outcome not in ("the same", "refused")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of threads that orbax leaves behind
def test_every_file(folders, tmp_path):
    found = table(folders, tmp_path)
    print()
    for command in COMMANDS:
        for file in dict.fromkeys(case[1] for case in found if case[0] == command):
            counts = Counter(found[command, file, damage] for damage in DAMAGES)
            print(f"{command:9} {file:60} {dict(counts)}")
    assert len(found) > 300
    assert not wrong(found)
