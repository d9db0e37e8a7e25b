"""Results as JSON, as a table, and as the section of README.md that is made from it."""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.kafka_software import KAFKA_VERSION

Run = dict[str, Any]
_BEGIN = "<!-- benchmarks: made by `make bench` from benchmarks/results.json -->"
_END = "<!-- /benchmarks -->"
_PACKAGES = ("aiohttp", "confluent-kafka", "fastavro", "msgspec", "numpy", "direct-routing-connector")
_WHAT = {
    "engine": "connector: Graph to committed, exactly once, deduplicated",
    "plain": "plain recipe: aiohttp, json, AvroSerializer, produce; no state, no dedup",
    "limit": "limit: decode + encode + produce alone, one after the other",
}


def _rate(run: Run) -> float:
    return float(run["rows"] / run["seconds"])


def line(number: int, runs: dict[str, Run]) -> str:
    """One repetition in a line."""
    return f"{number}: " + ", ".join(f"{name} {_rate(run):,.0f} rows/s" for name, run in sorted(runs.items()))


def _spread(values: Sequence[float], digits: int = 0) -> dict[str, float]:
    middle = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in middle.items()}


def results(measured: list[dict[str, Run]], seed: int, load: float) -> dict[str, Any]:
    """Everything, raw runs included. `load`: of the machine, before anything was started."""

    def spread(value: Callable[[dict[str, Run]], float], digits: int = 0) -> dict[str, float]:
        return _spread([value(runs) for runs in measured], digits)

    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "system": f"{platform.system()} {platform.release()}",
            "load_before": round(load, 2),
        },
        "versions": {
            "python": platform.python_version(),
            "kafka": KAFKA_VERSION,
            **{package: metadata.version(package) for package in _PACKAGES},
        },
        "seed": seed,
        "rows": measured[0]["engine"]["rows"],
        "rows_per_second": {name: spread(lambda runs, name=name: _rate(runs[name])) for name in _WHAT},
        "ratios": {
            "engine_to_plain": spread(lambda runs: _rate(runs["engine"]) / _rate(runs["plain"]), 2),
            "engine_to_limit": spread(lambda runs: _rate(runs["engine"]) / _rate(runs["limit"]), 2),
        },
        "limit_rows_per_second": {
            step: spread(lambda runs, step=step: runs["limit"]["rows"] / runs["limit"][f"{step}_seconds"])
            for step in ("decode", "encode", "produce")
        },
        "runs": measured,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for text in information.read_text(encoding="utf-8").splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(found: dict[str, Any]) -> str:
    """The results as a Markdown table with what they were measured on."""
    rates, ratios = found["rows_per_second"], found["ratios"]
    lines = ["| what | rows/s, median (least to most) | connector ÷ this |", "| --- | --- | --- |"]
    for name, what in _WHAT.items():
        ratio = _range(ratios[f"engine_to_{name}"], 2) if f"engine_to_{name}" in ratios else ""
        lines.append(f"| {what} | {_range(rates[name], 0)} | {ratio} |")
    steps = ", ".join(f"{step} {rate['median']:,.0f}" for step, rate in found["limit_rows_per_second"].items())
    machine, versions = found["machine"], found["versions"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines += [
        "",
        f"Parts of the limit, rows/s: {steps}. {found['rows']:,} rows of one tenant, seed {found['seed']},"
        f" {len(found['runs'])} repetitions in turns; broker and simulator on the same machine:"
        f" {machine['cores']} cores ({machine['processor']}), load {machine['load_before']} before the start."
        f" Measured {found['measured'][:10]} with {named}.",
    ]
    return "\n".join(lines)


def _range(spread: dict[str, float], digits: int) -> str:
    median, least, most = (f"{spread[name]:,.{digits}f}" for name in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def show(found: dict[str, Any], readme: Path) -> None:
    """Puts the table between the two marks of README.md; elsewhere nothing changes."""
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{readme.name} has no section for the figures; add these two lines to it:\n{_BEGIN}\n{_END}")
    readme.write_text(f"{before}{begin}\n\n{table(found)}\n\n{end}{after}", encoding="utf-8")
