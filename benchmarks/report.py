"""Results as JSON, as a table, and as a section of README.md."""

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import gate
from benchmarks.rig import TENANTS
from tests.kafka_software import KAFKA_VERSION

_QUIX_VERSION = "3.28.1"
Run = dict[str, Any]
_PACKAGES = ("aiohttp", "confluent-kafka", "fastavro", "msgspec", "numpy", "direct-routing-connector")
WHAT = {
    "engine": "connector: Graph to committed, exactly once, deduplicated, one shard",
    "shards": "the same over 8 shards",
    "at_least_once": 'the same as the first, `delivery = "at_least_once"`',
    "plain": "plain recipe: aiohttp, json, AvroSerializer, produce; no state, no dedup",
    "limit": "limit: msgspec decode + fastavro encode + produce alone, one after the other",
    "quix": "Quix Streams 3, custom source and its Avro serializer; source path not transactional, no dedup",
    "connect": "Kafka Connect, source task with the rows in memory, JSON converter; no HTTP, no Avro, no dedup",
}
_STEPS = ("decode", "encode", "produce", "by column")


def _rate(run: Run) -> float:
    return float(run["rows"] / run["seconds"])


def _us(run: Run) -> float:
    """Return the processor time of the process per row, over all threads, in microseconds."""
    return float(1e6 * run["cpu_seconds"] / run["rows"])


def line(number: int, runs: dict[str, Run]) -> str:
    """Return one repetition as a line."""
    said = [f"{name} {_rate(run):,.0f} rows/s ({_us(run):.1f} µs)" for name, run in sorted(runs.items())]
    return f"{number}: {', '.join(said)}"


def results(measured: list[dict[str, Run]], seed: int, load: float) -> dict[str, Any]:
    """Return all results, raw runs included. `load` is the load of the machine before the start."""

    def of_each(value: Callable[[Run], float], digits: int) -> dict[str, gate.Spread]:
        return {name: gate.spread([value(runs[name]) for runs in measured], digits) for name in WHAT}

    known = [runs["known"] for runs in measured]
    limits = [runs["limit"] for runs in measured]
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
            "quixstreams": _QUIX_VERSION,
            **{package: metadata.version(package) for package in _PACKAGES},
        },
        "seed": seed,
        "rows": measured[0]["engine"]["rows"],
        "rows_per_second": of_each(_rate, 0),
        "cpu_us_per_row": of_each(_us, 1),
        "ratios": gate.ratios(measured, "seconds"),
        "cpu_ratios": gate.ratios(measured),
        "step_us_per_row": {
            step: gate.spread([1e6 * run["step_cpu_seconds"][step] / run["rows"] for run in limits], 2)
            for step in _STEPS
        },
        "known_rows_per_second": gate.spread([_rate(run) for run in known], 0),
        "known_decode_ratio": gate.spread([run["cpu_seconds"] / run["decode_cpu_seconds"] for run in known], 2),
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
    """Return the results as Markdown tables, with the environment that they were measured in."""
    rates, costs, steps = found["rows_per_second"], found["cpu_us_per_row"], found["step_us_per_row"]
    lines = ["| what | rows/s: median (least to most) | µs of processor a row |", "| --- | --- | --- |"]
    lines += [f"| {what} | {_range(rates[name], 0)} | {_range(costs[name], 1)} |" for name, what in WHAT.items()]
    lines += ["", "| times as fast | by the clock | by processor time |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {_range(found['ratios'][name], 2)} | {_range(found['cpu_ratios'][name], 2)} |"
        for name in found["ratios"]
    ]
    known = (
        f"A poll that finds only known rows, page bytes in memory: {_range(found['known_rows_per_second'], 0)} rows"
        f" a second of processor time; {_range(found['known_decode_ratio'], 2)} times what msgspec takes to decode."
    )
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    parts = (
        f"Parts of the limit, µs a row: msgspec decode {steps['decode']['median']}, fastavro encode"
        f" {steps['encode']['median']}, librdkafka produce {steps['produce']['median']}."
        f" The connector encodes by column: {steps['by column']['median']}."
    )
    setting = (
        f"{found['rows']:,} rows of {TENANTS} tenants, seed {found['seed']}, {len(found['runs'])} repetitions in turns."
        f" Broker and simulator ran on the same {machine['cores']} cores ({machine['processor']}, {machine['system']}),"
        f" shared with others, load {machine['load_before']} before the start: only ratios of one run mean anything."
        f" Measured {found['measured'][:10]}: {versions}."
    )
    return "\n".join([*lines, "", parts, "", known, "", setting])


def _range(spread: dict[str, float], digits: int) -> str:
    median, least, most = (f"{spread[name]:,.{digits}f}" for name in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def shown(found: dict[str, Any], text: str) -> str:
    """Return the text of README.md with these results."""
    return gate.between(text, "benchmarks", table(found))
