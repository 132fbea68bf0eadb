"""The newest checkpoint and the best are kept."""

import jax.numpy as jnp

from experiments.training.checkpoint import Checkpoints


class TestCheckpoints:
    def test_last_and_best_are_kept(self, tmp_path):
        state = {"a": jnp.arange(3.0), "step": jnp.int32(0)}
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert checkpoints.latest_step is None
            for step, top1 in ((1, 0.1), (2, 0.5), (3, 0.3), (4, None), (5, 0.2), (7, None)):
                checkpoints.save(step, state | {"step": jnp.int32(step)}, top1)
            checkpoints.save(7, state | {"step": jnp.int32(99)}, 0.9)  # there already
            assert checkpoints.latest_step == 7
        assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "7"]
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert int(checkpoints.restore(state)["step"]) == 7
        for path in (tmp_path / "c" / "7").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:9])
        with Checkpoints(tmp_path / "c") as checkpoints:
            assert int(checkpoints.restore(state)["step"]) == 2  # the newest that can be read
            checkpoints.save(8, state, 0.4)  # still knows that 2 is better
        assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "8"]
