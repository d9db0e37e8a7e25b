"""`python -m benchmarks` measures and writes results.json; `python -m benchmarks readme` shows it in README.md."""

import argparse
import json
import os
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.rig import Rig, open_rig

_RESULTS = Path(__file__).with_name("results.json")
_WARMING = ("engine", "plain")
_README = Path(__file__).parents[1] / "README.md"


def _engine(rig: Rig, number: int) -> report.Run:
    topic = f"engine-{number}"
    run = rig.measure("engine", topic)
    keys = rig.keys(topic)
    if not len(keys) == len(set(keys)) == run["rows"]:
        raise RuntimeError(f"{topic}: {run['rows']} rows reported, {len(keys)} records, {len(set(keys))} ids")
    return run


def _measure(module: str, rig: Rig, number: int) -> report.Run:
    if module == "engine":
        return _engine(rig, number)
    topic = f"{module}-{number}"
    rig.create_topic(topic)
    return rig.measure(module, topic)


def _run(rows: int, seed: int, repetitions: int, only: str | None) -> list[dict[str, report.Run]]:
    """Each module once a repetition, in turns; one before them warms the broker and builds the pages."""
    modules = [only] if only else ["engine", "plain", "limit"]
    measured: list[dict[str, report.Run]] = []
    with tempfile.TemporaryDirectory() as directory, open_rig(rows, seed, Path(directory)) as rig:
        for number in range(repetitions + 1):
            runs = {}
            turn = number % len(modules)
            for module in modules[turn:] + modules[:turn]:
                if number or module in _WARMING:
                    runs[module] = _measure(module, rig, number)
            if len({run["rows"] for run in runs.values()}) != 1:
                raise RuntimeError(f"not the same rows: { {name: run['rows'] for name, run in runs.items()} }")
            if number:
                measured.append(runs)
                print(report.line(number, runs), flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("what", nargs="?", default="run", choices=["run", "readme"])
    parser.add_argument("--rows", type=int, default=120_000, help="calls of one day; not all are to be seen")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=["engine", "plain", "limit"], help="one of them, and write nothing")
    options = parser.parse_args()
    if options.what == "run":
        load = os.getloadavg()[0]
        measured = _run(options.rows, options.seed, options.repetitions, options.only)
        if options.only:
            return
        results = report.results(measured, options.seed, load)
        _RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    results = json.loads(_RESULTS.read_text(encoding="utf-8"))
    print(report.table(results))
    report.show(results, _README)


if __name__ == "__main__":
    main()
