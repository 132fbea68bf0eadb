"""Signals that ask a run to stop: noted, so that the loop can finish its step and save."""

import signal

from experiments.training import parallel

HANGUP = getattr(signal, "SIGHUP", None)
"""A closed terminal; Windows has none."""
SIGNALS = [signal.SIGINT, signal.SIGTERM, *([HANGUP] if HANGUP else [])]
"""Ctrl-C, a polite kill, a closed terminal."""
ASK_EVERY = 20
"""Steps between two questions of several processes to each other."""


class Interrupts:
    """Turns the first of `SIGNALS` into a note that the loop reads; a second one acts at once.

    A closed terminal that the process ignores, as under `nohup`, stays ignored.

    Attributes:
        received: the signal, or 0.
    """

    def __init__(self):
        self.received = 0

    def agreed(self, step: int = 0) -> int:
        """The signal that any process has received, the same answer in all; between two questions 0."""
        if parallel.alone():
            return self.received
        return parallel.any_of(self.received) if step % ASK_EVERY == 0 else 0

    def _note(self, signum, frame):
        self.received = signum
        self._restore()

    def _restore(self):
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def __enter__(self):
        """Takes the signals over."""
        self.before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        if self.before.get(HANGUP) is signal.SIG_IGN:
            del self.before[HANGUP]
        for signum in self.before:
            signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception):
        """Gives them back."""
        self._restore()
