"""Report of the benchmarks as JSON, as tables, and as a section of README.md."""

import os
import platform
import textwrap
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
    "engine": "Connector: from Graph to the commit, exactly once, with deduplication, one shard.",
    "shards": "Connector, with 8 shards.",
    "at_least_once": 'Connector, with one shard and `delivery = "at_least_once"`.',
    "plain": "Plain recipe: aiohttp, json, AvroSerializer and produce, without state and deduplication.",
    "limit": "Limit: only decoding (msgspec), encoding (fastavro) and producing, one after the other.",
    "quix": "Quix Streams 3: custom source and its serializer, without source transactions and deduplication.",
    "connect": "Kafka Connect: source task with rows in memory, JSON converter, without HTTP, Avro and deduplication.",
}
_STEPS = ("decode", "encode", "produce", "by column")


def _rate(run: Run) -> float:
    return float(run["rows"] / run["seconds"])


def _us(run: Run) -> float:
    """Return the processor time per row, over all threads of the process, in microseconds."""
    return float(1e6 * run["cpu_seconds"] / run["rows"])


def line(number: int, runs: dict[str, Run]) -> str:
    """Return the results of one repetition as a line of text."""
    rates = [f"{name} {_rate(run):,.0f} rows/s ({_us(run):.1f} µs)" for name, run in sorted(runs.items())]
    return f"{number}: {', '.join(rates)}"


def results(measured: list[dict[str, Run]], seed: int, load: float) -> dict[str, Any]:
    """Return all results, including those of each run. `load` is the load average of the machine before the start."""

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
    """Return the results as Markdown tables, followed by the machine and the versions of the measurement."""
    rates, costs, steps = found["rows_per_second"], found["cpu_us_per_row"], found["step_us_per_row"]
    lines = ["| What | Rows per second: median (least to most) | Processor time per row, µs |", "| --- | --- | --- |"]
    lines += [f"| {what} | {_range(rates[name], 0)} | {_range(costs[name], 1)} |" for name, what in WHAT.items()]
    lines += ["", "| How many times as fast | By the clock | By processor time |", "| --- | --- | --- |"]
    lines += [
        f"| {name} | {_range(found['ratios'][name], 2)} | {_range(found['cpu_ratios'][name], 2)} |"
        for name in found["ratios"]
    ]
    known = (
        f"If a sweep finds only known rows, with the bytes of the pages in memory, the connector processes"
        f" {_range(found['known_rows_per_second'], 0)} rows per second of processor time. A"
        f" known row takes {_range(found['known_decode_ratio'], 2)} times as long as decoding it with msgspec."
    )
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    parts = (
        f"The parts of the limit, in µs per row: msgspec decodes in {steps['decode']['median']}, fastavro encodes in"
        f" {steps['encode']['median']}, and librdkafka produces in {steps['produce']['median']}."
        f" The connector encodes by column, in {steps['by column']['median']}."
    )
    setting = (
        f"Measured on {found['measured'][:10]} with {found['rows']:,} rows of {TENANTS} tenants, seed {found['seed']},"
        f" in {len(found['runs'])} repetitions in turns. Broker and simulator ran on the same {machine['cores']} cores"
        f" ({machine['processor']}, {machine['system']}), which other programs used too (load"
        f" {machine['load_before']} before the start). Therefore only the ratios within one run are meaningful."
        f" Versions: {versions}."
    )
    return "\n".join([*lines, *("\n" + wrapped(text) for text in (parts, known, setting))])


def wrapped(text: str) -> str:
    """Wrap a paragraph into lines of at most 100 columns."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def _range(spread: dict[str, float], digits: int) -> str:
    median, least, most = (f"{spread[name]:,.{digits}f}" for name in ("median", "least", "most"))
    return f"{median} ({least} to {most})"


def shown(found: dict[str, Any], text: str) -> str:
    """Return `text`, the text of README.md, with the section of results replaced."""
    return gate.between(text, "benchmarks", table(found))
