"""Results as JSON, as a table, and as the section of README.md that is made from it."""

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
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
_BESIDE = ("plain", "limit")
_STEPS = ("decode", "encode", "produce")


def _rate(run: Run) -> float:
    return float(run["rows"] / run["seconds"])


def _cpu_rate(run: Run) -> float:
    """Rows a second of processor time of the process, all threads: what a busy machine disturbs least."""
    return float(run["rows"] / run["cpu_seconds"])


def _step_rate(limit: Run, step: str) -> float:
    return float(limit["rows"] / limit["step_seconds"][step])


def line(number: int, runs: dict[str, Run]) -> str:
    """One repetition in a line."""
    return f"{number}: " + ", ".join(f"{name} {_rate(run):,.0f} rows/s" for name, run in sorted(runs.items()))


def _spread(values: Sequence[float], digits: int = 0) -> dict[str, float]:
    middle = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in middle.items()}


def results(measured: list[dict[str, Run]], seed: int, load: float) -> dict[str, Any]:
    """Everything, raw runs included. `load`: of the machine, before anything was started."""

    def spread(value: Callable[[dict[str, Run], str], float], names: Iterable[str], digits: int) -> dict[str, Any]:
        return {name: _spread([value(runs, name) for runs in measured], digits) for name in names}

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
        "rows_per_second": spread(lambda runs, name: _rate(runs[name]), _WHAT, 0),
        "cpu_us_per_row": spread(lambda runs, name: 1e6 / _cpu_rate(runs[name]), _WHAT, 1),
        "engine_ratio": spread(lambda runs, name: _rate(runs["engine"]) / _rate(runs[name]), _BESIDE, 2),
        "engine_cpu_ratio": spread(lambda runs, name: _cpu_rate(runs["engine"]) / _cpu_rate(runs[name]), _BESIDE, 2),
        "step_rows_per_second": spread(lambda runs, name: _step_rate(runs["limit"], name), _STEPS, 0),
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
    rates, ratios = found["rows_per_second"], found["engine_ratio"]
    lines = [
        "| what | rows/s: median (least to most) | connector ÷ this | µs of processor a row |",
        "| --- | --- | --- | --- |",
    ]
    for name, what in _WHAT.items():
        ratio = _range(ratios[name], 2) if name in ratios else ""
        cpu = f"{found['cpu_us_per_row'][name]['median']:.1f}"
        lines.append(f"| {what} | {_range(rates[name], 0)} | {ratio} | {cpu} |")
    steps = {step: f"{rate['median']:,.0f}" for step, rate in found["step_rows_per_second"].items()}
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    parts = (
        f"Parts of the limit, rows/s: msgspec decode {steps['decode']}, fastavro encode {steps['encode']}, librdkafka"
        f" produce {steps['produce']}."
    )
    setting = (
        f"{found['rows']:,} rows of one tenant, seed {found['seed']}, {len(found['runs'])} repetitions in turns; broker"
        f" and simulator on the same {machine['cores']} cores ({machine['processor']}, {machine['system']}), load"
        f" {machine['load_before']} before the start. Measured {found['measured'][:10]}: {versions}."
    )
    return "\n".join([*lines, "", parts, "", setting])


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
