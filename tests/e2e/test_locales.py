"""Terminals whose locale is not UTF-8: every command writes what it can, and no command ends with a traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEADLINE_S = 60
LOCALES = {
    "c": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
    "strict": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii:strict"},
    "latin-1": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
}
CONFIG = """
[[tenants]]
id = "11111111-1111-1111-1111-111111111111"
name = "Zürich東京"
client_id = "a"
client_secret = { file = "schlüssel.txt" }
[kafka]
bootstrap_servers = "127.0.0.1:9"
"""

TENANTS = '[{"id": "11111111-1111-1111-1111-111111111111", "name": "Zürich", "client_id": "a", "client_secret": "b"}]'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "größe.toml"
    path.write_text(CONFIG, encoding="utf-8")
    (tmp_path / "schlüssel.txt").write_text("secret\n", encoding="utf-8")
    return path


def connector(locale: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    mine = {name: text for name, text in os.environ.items() if not name.startswith(("CONNECTOR_", "AZURE_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-m", "connector", *arguments],
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
        env={**mine, **LOCALES[locale], **variables},
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done


@pytest.mark.parametrize("locale", LOCALES)
def test_plan_command_prints_results_in_every_locale(locale: str, config: Path) -> None:
    shown = connector(locale, "plan", "--config", str(config))
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"rich" in shown.stdout


def test_plan_json_is_complete_in_a_locale_without_utf_8(config: Path) -> None:
    for variables in ({}, {"CONNECTOR_TENANTS": TENANTS}):
        done = connector("c", "plan", "--config", str(config), "--json", **variables)
        assert json.loads(done.stdout)["fits"] is True, done.stderr


@pytest.mark.parametrize("locale", LOCALES)
def test_unknown_tenant_name_is_refused_in_every_locale(locale: str, config: Path) -> None:
    done = connector(locale, "plan", "--tenant", os.fsdecode(b"\xc5\x81\xff"), "--config", str(config))
    assert done.returncode == 2
    assert b"tenant" in done.stderr


def test_help_option_works_in_a_locale_without_utf_8() -> None:
    for command in ("run", "simulate", "demo"):
        done = connector("c", command, "--help")
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"Example" in done.stdout


@pytest.mark.parametrize("form", ["json", "console"])
def test_run_command_logs_in_a_locale_without_utf_8(form: str, config: Path) -> None:
    """The listen address does not exist on this machine, so the service ends before it contacts brokers."""
    variables = {"CONNECTOR_HTTP__LISTEN": "192.0.2.1:1", "CONNECTOR_LOG__FORMAT": form}
    done = connector("c", "run", "--config", str(config), **variables)
    assert done.returncode == 2
    assert b"http.listen" in done.stderr
