"""What a person sees of a run while it trains."""

import sys
import time
from typing import Any

from tqdm import tqdm

LINE_EVERY = 60.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """A bar with steps and time left on a terminal; elsewhere a line a minute; one line an epoch anywhere.

    Args:
        total: steps of the run.
        step: those that are done.
        quiet: whether another process speaks.
    """

    def __init__(self, total: int, step: int, quiet: bool = False):
        self.total, self.step, self.first, self.quiet = total, step, step, quiet
        self.started = self.last_line = time.monotonic()
        self.bar = tqdm(
            total=total,
            initial=step,
            unit="step",
            disable=quiet or not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def __enter__(self):
        """Returns itself."""
        return self

    def __exit__(self, *exception):
        """Takes the bar off."""
        self.bar.close()

    def update(self) -> None:
        """One more step is done."""
        self.step += 1
        self.bar.update()
        now = time.monotonic()
        if self.bar.disable and not self.quiet and now - self.last_line > LINE_EVERY:
            self.last_line = now
            left = (now - self.started) / (self.step - self.first) * (self.total - self.step)
            print(f"step {self.step}/{self.total}  about {tqdm.format_interval(left)} left", flush=True)

    def report(self, row: dict[str, Any], epochs: int) -> None:
        """One more epoch is done; `row` is its line of `metrics.jsonl`."""
        self.last_line = time.monotonic()
        if self.quiet:
            return
        self.bar.set_postfix_str(f"{row['images_per_s']:.0f} images/s")
        line = (
            f"epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.3f}  train {row['train_top1']:.2%}  "
            f"validation {row['validation_top1']:.2%}  {row['images_per_s']:.0f} images/s"
        )
        with tqdm.external_write_mode():
            print(line, flush=True)
