"""Command `python -m benchmarks`, which runs the benchmarks and writes results.json and README.md.

The argument `readme` writes README.md from results.json. The argument `check` runs a few benchmarks and fails if they
are slower than in results.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from benchmarks import gate, report
from benchmarks.rig import Rig, open_rig
from tests.kafka_software import cache_directory

_HERE = Path(__file__).parent
_ROOT = _HERE.parent
_RESULTS = _HERE / "results.json"
_README = _ROOT / "README.md"
_ENGINES = {
    "engine": ("1", "exactly_once"),
    "shards": ("8", "exactly_once"),
    "at_least_once": ("1", "at_least_once"),
}
_CHECKED = ["engine", "at_least_once", "plain", "limit"]


def quix_python() -> str:
    """Return the path of the Python interpreter for Quix Streams.

    Its virtual environment is created at the first call and whenever requirements/quix.txt has changed.
    """
    pinned = _ROOT / "requirements" / "quix.txt"
    home = cache_directory() / "quix"
    installed = home / "made-of.txt"
    python = home / "bin" / "python"
    if not installed.is_file() or installed.read_bytes() != pinned.read_bytes():
        venv.create(home, with_pip=True, clear=True)
        install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "-r",
            str(pinned),
        ]
        subprocess.run([str(python), *install], check=True)
        installed.write_bytes(pinned.read_bytes())
    return str(python)


def _measure(name: str, rig: Rig, number: int) -> report.Run:
    topic = f"{name}-{number}".replace("_", "-")
    if name in _ENGINES:
        run = rig.measure("engine", topic, *_ENGINES[name])
        keys = rig.keys(topic)
        if not len(keys) == len(set(keys)) == run["rows"]:
            raise RuntimeError(f"{topic}: {run['rows']} rows reported, {len(keys)} records, {len(set(keys))} ids")
        return run
    rig.create_topic(topic)
    return rig.measure(name, topic, python=quix_python() if name == "quix" else sys.executable)


def _run(rows: int, seed: int, repetitions: int, names: list[str]) -> Iterator[list[dict[str, report.Run]]]:
    """Run all benchmarks once per repetition, and yield the results of all repetitions so far.

    Each repetition begins with another benchmark. Before the first repetition, two runs warm up broker and simulator.
    """
    measured: list[dict[str, report.Run]] = []
    with tempfile.TemporaryDirectory() as directory, open_rig(rows, seed, Path(directory)) as rig:
        for name in ("engine", "plain"):
            _measure(name, rig, 0)
        for number in range(1, repetitions + 1):
            turn = number % len(names)
            runs = {name: _measure(name, rig, number) for name in names[turn:] + names[:turn]}
            if "limit" in names:
                runs["known"] = rig.measure("known")
            if len({run["rows"] for run in runs.values()}) != 1:
                raise RuntimeError(f"different numbers of rows: { {name: run['rows'] for name, run in runs.items()} }")
            measured.append(runs)
            print(report.line(number, runs), flush=True)
            yield measured


def _check(rows: int, seed: int, repetitions: int) -> None:
    committed = json.loads(_RESULTS.read_text(encoding="utf-8"))
    *_, measured = _run(rows, seed, repetitions, _CHECKED)
    found = gate.ratios(measured)
    lost = gate.losses(found, committed["cpu_ratios"])
    for name, ratio in found.items():
        outcome = "LOST" if name in lost else "kept"
        print(f"{outcome}  {name}: {ratio['median']:.2f}, committed {committed['cpu_ratios'][name]['median']:.2f}")
    if lost:
        raise SystemExit(f"slower by more than {gate.LOSS:.0%}: {', '.join(lost)}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", default="run", choices=["run", "readme", "check"])
    parser.add_argument("--rows", type=int, default=40_000, help="calls of one day; not all are to be seen")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--only", choices=list(report.WHAT), help="one of them, and write nothing")
    options = parser.parse_args()
    if options.what == "check":
        _check(options.rows, options.seed, options.repetitions)
        return
    if options.what == "run":
        from benchmarks import plots  # noqa: PLC0415 - matplotlib is there for benchmarks alone

        load = os.getloadavg()[0]
        names = [options.only] if options.only else list(report.WHAT)
        for measured in _run(options.rows, options.seed, options.repetitions, names):
            if not options.only:
                results = report.results(measured, options.seed, load)
                _RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
                plots.throughput(results, _ROOT / "docs" / "images" / "throughput.png")
        if options.only:
            return
    results = json.loads(_RESULTS.read_text(encoding="utf-8"))
    print(report.table(results))
    _README.write_text(report.shown(results, _README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
