"""Files that a reader finds whole: written beside their place and moved there; links are not followed."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
CHECKSUM = "crc32"


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


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with one more field, the CRC-32 of the others."""
    read_back = json.loads(json.dumps(value))  # with names that are strings
    return value | {CHECKSUM: zlib.crc32(json.dumps(read_back, sort_keys=True).encode())}


def without_checksum(value: Any) -> Any:
    """A JSON value as it was before `with_checksum`; one that has no checksum is itself.

    Raises:
        ValueError: if it has another checksum than it should.
    """
    if not isinstance(value, dict) or CHECKSUM not in value:
        return value
    rest = {name: one for name, one in value.items() if name != CHECKSUM}
    if value != with_checksum(rest):
        raise ValueError(f"it is not as it was written: its {CHECKSUM} is another")
    return rest
