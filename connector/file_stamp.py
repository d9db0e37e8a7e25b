"""Stamp of a file, by which a change is noticed without reading the file."""

from pathlib import Path
from typing import NamedTuple


class FileStamp(NamedTuple):
    """Time of the last change in ns, size, and number of a file."""

    changed_ns: int
    size: int
    number: int


def read(path: Path) -> FileStamp | None:
    """Return the stamp of a file, or None if there is none that can be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileStamp(found.st_mtime_ns, found.st_size, found.st_ino)
