"""Run the program of `examples/parquet` three times, and print the rows of its file with the newest versions as JSON.

Runs in the environment of `requirements/sinks.txt`. The arguments are a folder and the options of the program. Its
first run writes the files, its second run reads the topic again, its third run writes the newest versions. Between the
last two, a file is copied, so that records are in two files. Printed is first the number of files that the program
wrote.
"""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-not-found]

PROGRAM = Path(__file__).parent.parent / "examples" / "parquet" / "calls_to_parquet.py"


def main(folder: Path, *options: str) -> None:
    """Run the program and print its result."""
    calls, newest = folder / "calls", folder / "newest.parquet"
    program = runpy.run_path(str(PROGRAM))["main"]
    sys.argv[1:] = ["--folder", str(calls), "--to-the-end", *options]
    program()
    program()
    files = sorted(calls.iterdir())
    shutil.copy(files[0], calls / "0-0-5.parquet")
    sys.argv[1:] = ["--folder", str(calls), "--newest", str(newest)]
    program()
    sys.stdout.write(f"{len(files)}\n")
    for row in pq.read_table(newest).to_pylist():
        line = row | {"additionalProperties": dict(row["additionalProperties"])}
        sys.stdout.write(json.dumps(line, default=str) + "\n")


main(Path(sys.argv[1]), *sys.argv[2:])
