"""Files that a reader finds whole: written beside their place and moved there; links are not followed."""

import json
import os
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file at once: a reader sees the old content or the new one, also after a loss of power."""
    partial = path.with_name(path.name + PARTIAL)
    partial.unlink(missing_ok=True)
    with partial.open("xb") as file:  # a new file: never what a link points to
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file at once."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())
