"""Secrets. Their values are only available through the method `get`, so that no message or log shows them by mistake.

If a secret is in a file, `get` reads the file each time. A changed secret is therefore used without a restart.
"""

import codecs
from pathlib import Path
from typing import Generic, Self, TypeVar

from connector import file_stamp, log
from connector.core import privacy

_logger = log.get(__name__)
_Text = TypeVar("_Text", str, bytes)


class Hidden(Generic[_Text]):
    """Secret value that `repr` does not show. If it is in a file, `get` reads the file every time."""

    __slots__ = ("_path", "_problem", "_source", "_stamp", "_value")

    def __init__(self, value: _Text, source: str = "value", path: Path | None = None) -> None:
        self._value: _Text = value
        self._source = source
        self._path = path
        self._stamp = file_stamp.read(path) if path else None
        self._problem = ""

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Return the secret that a file holds. Raises OSError or UnicodeDecodeError if the file cannot be read."""
        return cls(cls._read(path), f"file {path}", path)

    @staticmethod
    def _read(path: Path) -> _Text:
        raise NotImplementedError

    def get(self) -> _Text:
        """Return the current secret. While its file is empty or cannot be read, return the secret that was read last.

        An event is logged when the file becomes unusable, and another one when it can be used again.
        """
        if self._path is not None:
            self._stamp = file_stamp.read(self._path)
            try:
                value = self._read(self._path)
                problem = "" if value else "the file is empty"
            except OSError as error:
                value, problem = self._value, f"the file cannot be read ({error.strerror})"
            except UnicodeDecodeError:
                value, problem = self._value, "the file is neither UTF-8 nor UTF-16 with a byte-order mark"
            self._value = value or self._value
            if problem and problem != self._problem:
                _logger.warning("file_unreadable", name=str(self._path), problem=problem)
            elif self._problem and not problem:
                _logger.info("file_reloaded", name=str(self._path))
            self._problem = problem
        return self._value

    def has_changed(self) -> bool:
        """Return whether the file's modification time, size or inode changed since the file was last read."""
        return self._path is not None and file_stamp.read(self._path) != self._stamp

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return (self._source, self._path, self._value) == (other._source, other._path, other._value)

    def __hash__(self) -> int:
        return hash((self._source, self._path))


class Secret(Hidden[str]):
    """Secret text. Line breaks at the end of a secret file are removed."""

    __slots__ = ()

    @staticmethod
    def _read(path: Path) -> str:
        return _read_secret(path)


class SecretBytes(Hidden[bytes]):
    """Secret bytes. If they come from a file, they are its whole content."""

    __slots__ = ()

    @staticmethod
    def _read(path: Path) -> bytes:
        return path.read_bytes()


class PseudonymKey:
    """Secret key for pseudonyms. `repr` does not show it. If it is in a file, `get` reads the file every time."""

    __slots__ = ("_path", "_source", "_value", "problem")

    def __init__(self, value: bytes, source: str = "value", path: Path | None = None) -> None:
        self._value = value
        self._source = source
        self._path = path
        self.problem: str | None = None
        "Reason why the file was rejected at the last read, or None if it was accepted."

    @classmethod
    def from_file(cls, path: Path) -> "PseudonymKey":
        """Return the key that a file holds, without a line break at the end.

        Raises OSError if the file cannot be read.
        """
        return cls(_without_line_end(path.read_bytes()), f"file {path}", path)

    def get(self) -> bytes:
        """Return the current key. While its file is too short or cannot be read, return the last key that was read."""
        if self._path is not None:
            self.problem = None
            try:
                value = _without_line_end(self._path.read_bytes())
            except OSError as error:
                self.problem = f"{self._source} cannot be read ({error.strerror})"
            else:
                if len(value) < privacy.KEY_MIN_BYTES:
                    least = privacy.KEY_MIN_BYTES
                    self.problem = f"{self._source} is {len(value)} bytes long, but needs at least {least} bytes"
                else:
                    self._value = value
        return self._value

    def become(self, other: "PseudonymKey") -> None:
        """Take over the key of `other`. After a reload, all users of this object then get the new key."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def __repr__(self) -> str:
        return f"PseudonymKey({self._source})"


def _without_line_end(content: bytes) -> bytes:
    return content.removesuffix(b"\n").removesuffix(b"\r") if content.endswith(b"\n") else content


def _read_secret(path: Path) -> str:
    """Return the text of a file without line breaks at its end.

    A byte-order mark is removed and UTF-16 is decoded, because programs on Windows may write both.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = content.decode(encoding)
    if "\0" in text:
        raise UnicodeDecodeError(
            encoding, content, 0, len(content), "it has NUL characters, like UTF-16 without a byte-order mark"
        )
    return text.rstrip("\r\n")
