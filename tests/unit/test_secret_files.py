"""Secret files as editors and shells of different systems write them."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from connector.config.secret import Secret


@pytest.mark.parametrize(
    "content",
    [
        b"s3cret",
        b"s3cret\n",
        b"s3cret\r\n",
        b"s3cret\n\n",
        b"s3cret\r\n\r\n",
        b"\xef\xbb\xbfs3cret\r\n",
        "s3cret\r\n".encode("utf-16"),
        b"\xfe\xff" + "s3cret\n".encode("utf-16-be"),
    ],
)
def test_secret_excludes_byte_order_mark_and_line_end(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert Secret.from_file(path).get() == "s3cret"


@pytest.mark.parametrize("content", ["s3cret".encode("utf-16-le"), b"s\xff\xfe"])
def test_secret_file_in_another_encoding_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(UnicodeDecodeError):
        Secret.from_file(path)


@pytest.mark.parametrize("content", [b"", b"\xff", "new".encode("utf-16-le"), None])
def test_unreadable_rotated_secret_file_is_logged_once(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    secret = Secret.from_file(path)
    with capture_logs() as logs:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        assert [secret.get(), secret.get()] == ["old", "old"]
        path.write_bytes(b"new\n")
        assert [secret.get(), secret.get()] == ["new", "new"]
    assert [entry["event"] for entry in logs] == ["file_unreadable", "file_reloaded"]
    assert "old" not in str(logs)
