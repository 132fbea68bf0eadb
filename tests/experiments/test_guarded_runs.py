"""Nothing of a run is lost, overwritten or half read, whatever happened to its folder."""

import json
import os
import shutil
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import CONFIG, STEPS, assert_same_run, command_line, rows, without_times

from experiments.errors import RunError
from experiments.runs import folder as run_folder
from experiments.runs.files import write_json
from experiments.runs.lock import LOCK, locked
from experiments.training.checkpoint import Checkpoints
from experiments.training.interrupts import Interrupts


@pytest.fixture
def finished(straight, tmp_path):
    """A copy of a finished run, to be damaged."""
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    return folder


def content(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != LOCK and path.suffix != ".png"
    }


def refused(folder, capsys, *flags):
    """One line of complaint, and nothing in the folder changed."""
    before = content(folder)
    assert command_line(folder, "--resume", *flags) == 1
    _, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1
    assert content(folder) == before
    return err


@pytest.mark.usefixtures("quick", "recorder")
class TestMetrics:
    def test_damaged_row(self, finished, capsys):
        path = finished / "metrics.jsonl"
        path.write_text(path.read_text().replace('"epoch"', '"epoch', 1))
        assert f"{path}, line 1, is damaged" in refused(finished, capsys)

    def test_a_row_that_is_a_number(self, finished, capsys):
        path = finished / "metrics.jsonl"
        path.write_text("3\n" + path.read_text())
        assert f"{path}, line 1, is damaged" in refused(finished, capsys)

    def test_missing_row(self, finished, capsys):
        path = finished / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:1] + lines[2:]))
        assert "one row for each of the 4 epochs" in refused(finished, capsys)

    def test_cut_last_line_is_done_again(self, tmp_path):
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"epoch": 1, "step": 4}\n{"epoch": 2, "st')
        assert run_folder.read_metrics(tmp_path) == [{"epoch": 1, "step": 4}]
        run_folder.append_metrics(tmp_path, {"epoch": 2, "step": 8})
        assert [row["epoch"] for row in run_folder.read_metrics(tmp_path)] == [1, 2]

    def test_nothing_is_written_if_nothing_changes(self, finished):
        path = finished / "metrics.jsonl"
        before = path.stat().st_mtime_ns, path.stat().st_ino
        run_folder.drop_metrics_after(finished, STEPS)
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == before


@pytest.mark.usefixtures("quick")
class TestCheckpoints:
    def test_finished_run_without_checkpoints_is_kept(self, finished, recorder, capsys):
        shutil.rmtree(finished / "checkpoints")
        assert "no checkpoint to go on from" in refused(finished, capsys)
        assert recorder.steps == []

    def test_killed_before_the_first_checkpoint(self, straight, recorder, tmp_path):
        """The first epoch is booked, its checkpoint is not: the run begins anew, as if it had never been started."""
        folder = tmp_path / "run"
        shutil.copytree(straight.folder, folder, ignore=shutil.ignore_patterns("checkpoints", "summary.json"))
        run_folder.drop_metrics_after(folder, 4)
        assert command_line(folder, "--resume") == 0
        assert recorder.steps == straight.steps
        assert_same_run(folder, straight)

    def test_damaged_newest_checkpoint(self, straight, recorder, finished, capsys):
        """The one before it goes on, and says so; the result is that of a run that was never damaged."""
        steps = sorted(int(path.name) for path in (finished / "checkpoints").iterdir() if path.name.isdigit())
        if len(steps) == 1:
            pytest.skip("the newest checkpoint is the best one; there is none before it")
        for path in (finished / "checkpoints" / str(steps[-1])).rglob("*"):
            if path.is_file() and path.stat().st_size > 100:
                path.write_bytes(path.read_bytes()[:50])
        assert command_line(finished, "--resume") == 0
        out, _ = capsys.readouterr()
        assert f"the checkpoint of step {steps[-1]} is damaged" in out and f"going on from step {steps[-2]}" in out
        assert recorder.steps == straight.steps[steps[-2] :]
        assert_same_run(finished, straight)

    def test_all_checkpoints_damaged(self, finished, recorder, capsys):
        for path in (finished / "checkpoints").rglob("*"):
            if path.is_file() and path.stat().st_size > 100:
                path.write_bytes(path.read_bytes()[:50])
        assert command_line(finished, "--resume") == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and str(finished / "checkpoints") in err and "damaged" in err

    @pytest.mark.parametrize("text", ["", "{}", None])
    def test_damaged_metrics_of_a_checkpoint(self, tmp_path, capsys, text):
        """The state in it serves all the same."""
        state = {"a": jnp.arange(3.0)}
        with Checkpoints(tmp_path / "c") as checkpoints:
            checkpoints.save(2, state, 0.5)
        path = tmp_path / "c" / "2" / "metrics" / "metrics"
        path.unlink() if text is None else path.write_text(text)
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert checkpoints.latest_step == 2
            np.testing.assert_array_equal(checkpoints.restore(state)["a"], state["a"])
        assert f"{path.parent} was damaged and removed" in capsys.readouterr().out

    @pytest.mark.parametrize("kept", [0, 2, 3])
    def test_an_evaluation_without_all_rows(self, finished, kept):
        """The file may have been cut at the end of a line; the checkpoints tell."""
        path = finished / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:kept]))
        with pytest.raises(RunError, match=r"metrics\.jsonl lacks rows: .* newest checkpoint of step 16"):
            run_folder.check_metrics(finished, run_folder.read_metrics(finished), 16)


@pytest.mark.usefixtures("quick")
class TestStopped:
    def test_means_of_all_steps(self, straight, recorder, tmp_path):
        """An epoch that was stopped and gone on with has the loss and the accuracy of all its steps."""
        folder = tmp_path / "run"
        recorder.reset({2: signal.SIGTERM})
        assert command_line(folder) == 143
        losses, correct, seconds = run_folder.read_unfinished(folder, 2)
        assert len(losses) == len(correct) == 2 and seconds > 0
        run_folder.write_unfinished(folder, 2, run_folder.Unfinished(losses, correct, 1000.0))
        assert command_line(folder, "--resume") == 0
        ours, theirs = rows(folder)[0], rows(straight.folder)[0]
        assert without_times(ours) == without_times(theirs)
        assert ours["seconds"] > 1000 > rows(folder)[1]["seconds"]

    def test_its_losses_are_missing(self, recorder, tmp_path, capsys):
        """They are not made up from the steps that are left; without that checkpoint the epoch is taken anew."""
        folder = tmp_path / "run"
        recorder.reset({6: signal.SIGTERM})
        assert command_line(folder) == 143
        capsys.readouterr()
        (folder / "unfinished.json").write_text("{")
        message = refused(folder, capsys)
        assert f"{folder / 'unfinished.json'} must hold the losses of the epoch that was stopped at step 6" in message
        assert f"remove {folder / 'checkpoints' / '6'}" in message

    @pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal")
    def test_a_closed_terminal_saves(self, recorder, tmp_path):
        folder = tmp_path / "run"
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup
        try:
            recorder.reset({2: signal.SIGHUP})
            assert command_line(folder) == 128 + signal.SIGHUP
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        finally:
            signal.signal(signal.SIGHUP, before)
        assert json.loads((folder / "unfinished.json").read_text())["step"] == 2

    @pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signal")
    def test_what_is_ignored_stays_ignored(self):
        """As SIGHUP is under nohup."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            with Interrupts() as interrupts:
                os.kill(os.getpid(), signal.SIGHUP)
                assert not interrupts.received
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGHUP, before)


class TestFolder:
    @pytest.mark.usefixtures("quick", "recorder")
    def test_two_processes(self, finished, capsys):
        """The second is refused, with the process that holds the folder; a lock of a dead one is no obstacle."""
        hold = "import sys, time\nfrom pathlib import Path\nfrom experiments.runs.lock import locked\n"
        hold += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", hold, str(finished)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "held\n"
            assert f"in use by process {process.pid};" in refused(finished, capsys)
        finally:
            process.kill()
            process.communicate()
        assert (finished / LOCK).exists()
        with locked(finished):
            assert (finished / LOCK).read_text() == f"{os.getpid()}\n"

    @pytest.mark.usefixtures("quick", "recorder")
    def test_two_processes_begin(self, tmp_path, capsys):
        """The one that comes second to the lock has written nothing."""
        folder = tmp_path / "run"
        with locked(folder):
            assert command_line(folder) == 1
        assert f"in use by process {os.getpid()};" in capsys.readouterr().err
        assert [path.name for path in folder.iterdir()] == [LOCK]

    @pytest.mark.usefixtures("quick")
    def test_killed_while_it_was_begun(self, straight, recorder, tmp_path):
        """A folder of nothing but partial files is empty."""
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.json.partial").write_text('{"layout"')
        (folder / LOCK).write_text("1\n")
        assert command_line(folder) == 0
        assert recorder.steps == straight.steps

    @pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '{"config": 3}', '{"layout": 2, "config": {}}', "{"])
    def test_config_that_is_none(self, finished, text):
        (finished / "config.json").write_text(text)
        with pytest.raises(RunError, match="config.json is damaged"):
            run_folder.read_config(finished)

    def test_a_folder_in_place_of_a_file(self, finished):
        (finished / "config.json").unlink()
        (finished / "config.json").mkdir()
        with pytest.raises(RunError, match="holds no config.json"):
            run_folder.read_config(finished)

    def test_links_are_not_written_through(self, tmp_path):
        """Neither one in a file's place nor one in that of its partial file."""
        victim, target = tmp_path / "victim", tmp_path / "summary.json"
        victim.write_text("mine")
        target.symlink_to(victim)
        (tmp_path / "summary.json.partial").symlink_to(victim)
        write_json(target, {"top1": 1.0})
        assert victim.read_text() == "mine"
        assert not target.is_symlink() and json.loads(target.read_text()) == {"top1": 1.0}

    def test_lock_that_is_a_link(self, tmp_path):
        victim = tmp_path / "victim"
        victim.write_text("mine")
        (tmp_path / LOCK).symlink_to(victim)
        with pytest.raises(OSError), locked(tmp_path):
            pass
        assert victim.read_text() == "mine"

    @pytest.mark.parametrize("damage", ["half", "empty", "removed", "random"])
    def test_split(self, finished, damage):
        path = finished / "split.npz"
        whole = path.read_bytes()
        contents = {"half": whole[: len(whole) // 2], "empty": b"", "random": bytes(range(256)) * 4}
        path.unlink() if damage == "removed" else path.write_bytes(contents[damage])
        with pytest.raises(RunError, match=r"split\.npz is missing or damaged"):
            run_folder.read_split(finished)

    @pytest.mark.usefixtures("quick", "recorder")
    def test_what_the_system_refuses_is_one_line(self, finished, capsys):
        """A folder that may not be written, a full disk, a folder in place of a file."""
        (finished / "split.npz").unlink()
        (finished / "split.npz").mkdir()
        assert command_line(finished, "--resume") == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "split.npz" in err


def test_cutout_that_blanks_every_image(tmp_path, capsys, recorder):
    assert command_line(tmp_path / "run", "--cutout", "8") == 1
    assert "--cutout must be less than the 8 pixels of the images, got 8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert CONFIG.data.cutout == 0
