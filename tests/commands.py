"""The installed program's commands for an operator, as processes that end by themselves."""

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
    """A command that has ended. `error`: the lines of standard error."""

    code: int
    output: str
    error: str


def start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command that goes on."""
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
    """How it ended; killed when it does not."""
    try:
        output, error = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, error = process.communicate()
        raise TimeoutError(f"{process.args!r} goes on after {deadline_s:g} s; it said:\n{output}{error}") from None
    assert "Traceback" not in error, error
    return Done(process.returncode, output, error)


def run(config: Path, *arguments: str) -> Done:
    """A command, once it has ended."""
    return ended(start(config, *arguments))


def succeed(config: Path, *arguments: str) -> str:
    """What a command that exits 0 wrote to standard output."""
    done = run(config, *arguments)
    assert done.code == 0, done
    return done.output.strip()


def jobs(config: Path) -> dict[str, dict[str, Any]]:
    """JOBs by id."""
    return {job["id"]: job for job in json.loads(succeed(config, "jobs", "--json"))}


def status(config: Path) -> dict[str, Any]:
    """What `status --json` says."""
    content: dict[str, Any] = json.loads(succeed(config, "status", "--json"))
    return content


def interrupt(process: subprocess.Popen[str]) -> Done:
    """How it ends after Ctrl-C."""
    process.send_signal(signal.SIGINT)
    return ended(process)
