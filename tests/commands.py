"""Commands of the installed program that end by themselves, run as processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
DEADLINE_S = 60


class Done(NamedTuple):
    """Finished command. `error` is the text of standard error."""

    code: int
    output: str
    error: str


def start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a command and return its process without waiting for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "connector", *arguments, "--config", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if not name.upper().startswith(("CONNECTOR_", "AZURE_"))},
    )


def ended(process: subprocess.Popen[str], deadline_s: float = DEADLINE_S) -> Done:
    """Wait until a process ends and return its result; kill it and raise TimeoutError after `deadline_s`."""
    try:
        output, error = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, error = process.communicate()
        raise TimeoutError(f"{process.args!r} goes on after {deadline_s:g} s; it said:\n{output}{error}") from None
    assert "Traceback" not in error, error
    return Done(process.returncode, output, error)


def run(config: Path, *arguments: str) -> Done:
    """Run a command to its end and return its result."""
    return ended(start(config, *arguments))


def succeed(config: Path, *arguments: str) -> str:
    """Run a command that must exit with 0 and return its standard output."""
    done = run(config, *arguments)
    assert done.code == 0, done
    return done.output.strip()


def jobs(config: Path) -> dict[str, dict[str, Any]]:
    """Return the jobs that `jobs --json` lists, by id."""
    return {job["id"]: job for job in json.loads(succeed(config, "jobs", "--json"))}


def status(config: Path) -> dict[str, Any]:
    """Return the JSON of `status --json`."""
    content: dict[str, Any] = json.loads(succeed(config, "status", "--json"))
    return content


def interrupt(process: subprocess.Popen[str]) -> Done:
    """Send Ctrl-C and return the result of the command."""
    process.send_signal(signal.SIGINT)
    return ended(process)
