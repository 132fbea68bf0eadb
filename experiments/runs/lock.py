"""One process at a time in a run's folder."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import RunError

LOCK = "lock"
"""A file that stays in the folder; the system frees it when its process ends, however that ends."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a run's folder, which is made if it is missing.

    Raises:
        RunError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another"
            raise RunError(f"{folder} is in use by process {holder}; wait until it ends, or stop it.") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
