"""Modification time, size and inode of a file. If one of them changes, the file has changed."""

from pathlib import Path
from typing import NamedTuple


class FileStamp(NamedTuple):
    """Modification time in nanoseconds, size in bytes, and inode number of a file."""

    changed_ns: int
    size: int
    number: int


def read(path: Path) -> FileStamp | None:
    """Return the stamp of a file, or None if the file does not exist or cannot be accessed.

    Two different stamps of a file mean that the file has changed.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return FileStamp(found.st_mtime_ns, found.st_size, found.st_ino)
