"""Commands of the installed program that end by themselves, run as processes of their own."""

import json
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.brokers import wait_until
from tests.forked import Forked, without_settings

ROOT = Path(__file__).parent.parent
DEADLINE_S = 60


class Done(NamedTuple):
    """Finished command. `error` is the text of standard error."""

    code: int
    output: str
    error: str


class Started(NamedTuple):
    """Running command."""

    process: Forked
    output: Path
    error: Path


def start(config: Path, *arguments: str) -> Started:
    """Start a command without waiting for it."""
    folder = Path(tempfile.mkdtemp(prefix="command-", dir=config.parent))
    output, error = folder / "output", folder / "error"
    called = ["connector", *arguments, "--config", str(config)]
    return Started(Forked(called, without_settings(), ROOT, output, error), output, error)


def first_line(file: Path) -> str:
    """Wait until a running command has written a line and return it."""
    wait_until(lambda: file.is_file() and "\n" in file.read_text(encoding="utf-8"), f"a line in {file}", DEADLINE_S)
    return file.read_text(encoding="utf-8").splitlines()[0]


def ended(started: Started, deadline_s: float = DEADLINE_S) -> Done:
    """Wait until a command ends and return its result; kill it and raise TimeoutError after `deadline_s`."""
    try:
        code: int | None = started.process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        started.process.kill()
        started.process.wait()
        code = None
    output, error = (path.read_text(encoding="utf-8") for path in (started.output, started.error))
    if code is None:
        raise TimeoutError(f"{started.process.args} still runs after {deadline_s:g} s; its output:\n{output}{error}")
    assert "Traceback" not in error, error
    return Done(code, output, error)


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


def interrupt(started: Started) -> Done:
    """Send Ctrl-C and return the result of the command."""
    started.process.send_signal(signal.SIGINT)
    return ended(started)
