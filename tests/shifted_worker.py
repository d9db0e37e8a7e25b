"""`connector run` on a machine whose clock is wrong: `python -m tests.shifted_worker -3d [--once] --config FILE`."""

import argparse
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from connector import log
from connector.config import load
from connector.simulator.options import duration_s
from connector.worker import service


def work() -> int:
    """Run the service with a shifted clock; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("offset")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--config", type=Path, required=True)
    # Otherwise "-3d" would be parsed as an unknown option.
    options = parser.parse_args([f" {sys.argv[1]}", *sys.argv[2:]])
    offset = timedelta(seconds=duration_s(options.offset.strip()))
    settings = load(options.config, os.environ)
    log.configure(settings.log.format, settings.log.level)
    return service.run(settings, once=options.once, now=lambda: datetime.now(UTC) + offset)


if __name__ == "__main__":
    sys.exit(work())
