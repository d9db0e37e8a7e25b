"""Values that only `get` shows. One that a file holds is read again each time, so that a rotated secret is seen."""

import codecs
from pathlib import Path
from typing import Generic, Self, TypeVar

from connector import log
from connector.core import privacy

_logger = log.get(__name__)
_Text = TypeVar("_Text", str, bytes)


class Hidden(Generic[_Text]):
    """Something that only `get` shows. A file is read again each time, so that a rotated secret is seen."""

    __slots__ = ("_path", "_problem", "_source", "_value")

    def __init__(self, value: _Text, source: str = "value", path: Path | None = None) -> None:
        self._value: _Text = value
        self._source = source
        self._path = path
        self._problem = ""

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The content of a file. Raises OSError, UnicodeDecodeError."""
        return cls(cls._read(path), f"file {path}", path)

    @staticmethod
    def _read(path: Path) -> _Text:
        raise NotImplementedError

    def get(self) -> _Text:
        """Return the secret as it is now; while its file cannot be read, or is empty, as it was last.

        A file that cannot be used is logged when that begins, and when it ends.
        """
        if self._path is not None:
            try:
                value = self._read(self._path)
                problem = "" if value else "it is empty"
            except OSError as error:
                value, problem = self._value, f"it cannot be read ({error.strerror})"
            except UnicodeDecodeError:
                value, problem = self._value, "it is neither UTF-8 nor UTF-16 with a byte-order mark"
            self._value = value or self._value
            if problem and problem != self._problem:
                _logger.warning("file_unreadable", name=str(self._path), problem=problem)
            elif self._problem and not problem:
                _logger.info("file_read_again", name=str(self._path))
            self._problem = problem
        return self._value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return (self._source, self._path, self._value) == (other._source, other._path, other._value)

    def __hash__(self) -> int:
        return hash((self._source, self._path))


class Secret(Hidden[str]):
    """Text; of a file, without the line end at its end."""

    __slots__ = ()

    @staticmethod
    def _read(path: Path) -> str:
        return _read_secret(path)


class SecretBytes(Hidden[bytes]):
    """Bytes; of a file, all of them."""

    __slots__ = ()

    @staticmethod
    def _read(path: Path) -> bytes:
        return path.read_bytes()


class PseudonymKey:
    """Bytes that only `get` shows. A file is read again each time."""

    __slots__ = ("_path", "_source", "_value", "problem")

    def __init__(self, value: bytes, source: str = "value", path: Path | None = None) -> None:
        self._value = value
        self._source = source
        self._path = path
        self.problem: str | None = None
        "Why the file was not taken when it was last read."

    @classmethod
    def from_file(cls, path: Path) -> "PseudonymKey":
        """The content of a file without the line end at its end; any bytes. Raises OSError."""
        return cls(_without_line_end(path.read_bytes()), f"file {path}", path)

    def get(self) -> bytes:
        """The key as it is now; while its file cannot be read, or is too short for a key, as it was last."""
        if self._path is not None:
            self.problem = None
            try:
                value = _without_line_end(self._path.read_bytes())
            except OSError as error:
                self.problem = f"{self._source} cannot be read ({error.strerror})"
            else:
                if len(value) < privacy.KEY_MIN_BYTES:
                    self.problem = f"{self._source} is {len(value)} bytes long, less than {privacy.KEY_MIN_BYTES}"
                else:
                    self._value = value
        return self._value

    def become(self, other: "PseudonymKey") -> None:
        """Is what another one is: the configuration was read again."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def __repr__(self) -> str:
        return f"PseudonymKey({self._source})"


def _without_line_end(content: bytes) -> bytes:
    return content.removesuffix(b"\n").removesuffix(b"\r") if content.endswith(b"\n") else content


def _read_secret(path: Path) -> str:
    """Return the text of a file without the line end at its end. Windows may have added a mark or written UTF-16."""
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = content.decode(encoding)
    if "\0" in text:
        raise UnicodeDecodeError(
            encoding, content, 0, len(content), "it has NUL characters, as UTF-16 without its mark"
        )
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
