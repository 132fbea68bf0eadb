"""Signals that ask a run to stop: noted, so that the loop can finish its step and save."""

import signal

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, a polite kill, a closed terminal."""


class Interrupts:
    """Turns the first of `SIGNALS` into a note that the loop reads; a second one acts at once.

    Attributes:
        received: the signal, or 0.
    """

    def __init__(self):
        self.received = 0

    def _note(self, signum, frame):
        self.received = signum
        self._restore()

    def _restore(self):
        for signum, handler in self.before.items():
            signal.signal(signum, handler)

    def __enter__(self):
        """Takes the signals over."""
        self.before = {signum: signal.getsignal(signum) for signum in SIGNALS}
        for signum in self.before:
            signal.signal(signum, self._note)
        return self

    def __exit__(self, *exception):
        """Gives them back."""
        self._restore()
