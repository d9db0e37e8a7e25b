"""A support-case file is complete and readable by its owner only, or it does not exist."""

import json
import os
import stat
from pathlib import Path

import pytest

from connector.commands.case_file import CaseFile
from connector.commands.case_redaction import Redaction
from connector.errors import ConfigurationError, FatalError


def test_finished_file_is_json_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    with CaseFile(path, Redaction({"fields": []})) as file:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        file.finish({"rows": 0})
    assert json.loads(path.read_text()) == {"requests": [], "summary": {"rows": 0}}


def test_support_case_file_is_removed_if_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    full = os.open("/dev/full", os.O_WRONLY)

    def fill(file: CaseFile) -> None:
        with file:
            os.dup2(full, file._file.fileno())
            file.finish({"rows": 0})

    file = CaseFile(path, Redaction({"fields": []}))
    with pytest.raises(FatalError, match=r"case\.json cannot be written: No space left on device; choose another"):
        fill(file)
    os.close(full)
    assert not path.exists()


def test_symbolic_link_at_the_output_path_is_not_followed(tmp_path: Path) -> None:
    link = tmp_path / "case.json"
    link.symlink_to(tmp_path / "other.json")
    with pytest.raises(ConfigurationError, match="exists and is not overwritten"):
        CaseFile(link, Redaction({"fields": []}))
    assert not (tmp_path / "other.json").exists()
