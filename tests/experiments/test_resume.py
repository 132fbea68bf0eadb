"""A run stopped at any moment goes on to what it would have been in one go."""

import json
import os
import shutil
import signal

import pytest
from tiny_run import PER_EPOCH, STEPS, assert_same_run, command_line, rows, without_times

from experiments.runs import folder as run_folder
from experiments.training import run


@pytest.mark.usefixtures("quick")
class TestResume:
    def test_bit_for_bit(self, straight, recorder, tmp_path, capsys, monkeypatch):
        """Stopped within the first epoch and within the third, then finished: as in one go, to the last bit."""
        folder = tmp_path / "run"
        recorder.reset({2: signal.SIGTERM, 10: signal.SIGINT})

        assert command_line(folder) == 143
        out, err = capsys.readouterr()
        assert err == (
            "stopped after step 2 of 16; the state is saved. To go on, give the same command with --resume (its "
            f"folder: --workdir {folder}).\n"
        )
        assert len(recorder.steps) == 2
        assert rows(folder) == []

        assert command_line(folder, "--resume") == 130
        out, err = capsys.readouterr()
        assert "resumed at step 2 of 16" in out
        assert "stopped after step 10 of 16" in err
        assert len(recorder.steps) == 10
        assert [row["epoch"] for row in rows(folder)] == [1, 2]

        assert command_line(folder, "--resume") == 0
        out, _ = capsys.readouterr()
        assert "resumed at step 10 of 16" in out
        assert recorder.steps == straight.steps  # batch for batch, loss for loss
        assert_same_run(folder, straight)

        ours, theirs = rows(folder), rows(straight.folder)
        assert [row["step"] for row in ours] == [4, 8, 12, 16]
        for i in (1, 3):  # the epochs that were not interrupted
            assert without_times(ours[i]) == without_times(theirs[i])
        for i in (0, 2):
            validation = {name for name in ours[i] if name.startswith("validation")}
            assert {name: ours[i][name] for name in validation} == {name: theirs[i][name] for name in validation}
        kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert kept == sorted(path.name for path in (straight.folder / "checkpoints").iterdir())

    @pytest.mark.parametrize("step", [8, 16])
    def test_stopped_in_the_last_step_of_an_epoch(self, straight, recorder, tmp_path, monkeypatch, step):
        """The epoch is complete: it has its row, and its model may be the best."""
        folder = tmp_path / "run"
        recorder.reset({step: signal.SIGTERM})
        status = command_line(folder)
        assert status in ((0, 143) if step == STEPS else (143,))
        if status:
            assert command_line(folder, "--resume") == 0
        assert recorder.steps == straight.steps
        assert list(map(without_times, rows(folder))) == list(map(without_times, rows(straight.folder)))
        assert_same_run(folder, straight)

    def test_stopped_while_an_epoch_is_validated(self, straight, recorder, tmp_path, monkeypatch):
        folder = tmp_path / "run"
        validated = run.validated

        def interrupted(model, *validation):
            if model.step == 8:
                os.kill(os.getpid(), signal.SIGINT)
            return validated(model, *validation)

        with monkeypatch.context() as patch:
            patch.setattr(run, "validated", interrupted)
            assert command_line(folder) == 130
        assert [row["step"] for row in rows(folder)] == [4, 8]
        assert command_line(folder, "--resume") == 0
        assert recorder.steps == straight.steps
        assert list(map(without_times, rows(folder))) == list(map(without_times, rows(straight.folder)))
        assert_same_run(folder, straight)

    def test_a_second_signal_acts_at_once(self, recorder, tmp_path, monkeypatch):
        monkeypatch.setattr(run.Checkpoints, "save", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        recorder.reset({2: signal.SIGINT})
        assert command_line(tmp_path / "run") == 130
        assert len(recorder.steps) == 2

    def test_killed_after_a_row_but_before_its_checkpoint(self, straight, recorder, tmp_path, monkeypatch):
        """The epoch is done again, and its row replaced."""
        folder = tmp_path / "run"
        append = run_folder.append_metrics

        def dies(folder, row):
            append(folder, row)
            if row["step"] == 8:
                raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(run_folder, "append_metrics", dies)
            with pytest.raises(ZeroDivisionError):
                command_line(folder)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 3, "st')  # and half a line
        assert [row["step"] for row in rows(folder)] == [4, 8]
        recorder.reset()
        assert command_line(folder, "--resume") == 0
        assert recorder.steps == straight.steps[PER_EPOCH:]
        assert list(map(without_times, rows(folder))) == list(map(without_times, rows(straight.folder)))
        assert_same_run(folder, straight)

    def test_of_nothing_starts(self, recorder, tmp_path, monkeypatch):
        recorder.reset({1: signal.SIGTERM})
        assert command_line(tmp_path / "run", "--resume") == 143
        assert recorder.steps[0][0] == 1


def test_a_finished_run_stays_as_it_is(straight, recorder, tmp_path):
    folder = shutil.copytree(straight.folder, tmp_path / "run")
    assert command_line(folder, "--resume") == 0
    assert recorder.steps == []
    assert (folder / "metrics.jsonl").read_text() == (straight.folder / "metrics.jsonl").read_text()
    again = json.loads((folder / "summary.json").read_text())
    for name in ("top1", "top5", "loss", "step", "steps", "validation_top1", "depth_counts"):
        assert again[name] == getattr(straight.summary, name)
