"""Telephony figures per trunk and minute, computed by Flink when no more rows are expected for a minute.

    python final_minutes.py --topic direct-routing-calls --bootstrap-servers localhost:9092 \
        --registry http://localhost:8081 --overlap-seconds 10800 --jars flink-sql-connector-kafka.jar …

The tables are those of calls.sql. The figures are computed by ../kpis.py, which the program ships to the cluster.
Flink's watermarks follow the rows, so they cannot take rows into account that Graph has not shown yet. The records of
`{topic}.progress` (here called statements) can: a statement contains a time up to which all calls were read again, and
the offsets up to which their records lie.

The function `FinalMinutes` joins both topics per tenant. It stores each call until a statement with the chosen overlap
has a later time. It stores each statement until the rows were read up to its offsets. Flink's checkpoints contain this
state, so that it survives a restart.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedCoProcessFunction, RuntimeContext
from pyflink.datastream.state import ListStateDescriptor, MapStateDescriptor, ValueStateDescriptor
from pyflink.table import EnvironmentSettings, StreamTableEnvironment

EXAMPLES = Path(__file__).resolve().parents[1]
sys.path.append(str(EXAMPLES))
import kpis  # noqa: E402

_ROWS = """
SELECT tenantId, `partition`, `offset`, id, revision, trunkFullyQualifiedDomainName, successfulCall, duration,
  CAST(startDateTime AS STRING) AS startDateTime, CAST(endDateTime AS STRING) AS endDateTime,
  finalSipCode, callEndSubReason
FROM calls
"""
_STATEMENTS = """
SELECT tenantId, CAST(completeThroughDateTime AS STRING) AS completeThroughDateTime, offsets
FROM progress
WHERE overlapSeconds = {overlap_s}
"""
_ENDLESS = "'scan.startup.mode' = 'earliest-offset'"
_TO_THE_END = f"{_ENDLESS}, 'scan.bounded.mode' = 'latest-offset'"


class FinalMinutes(KeyedCoProcessFunction):
    """Function, keyed by tenant, that yields each final minute as JSON. Its inputs are rows and statements."""

    def __init__(self, outcomes: kpis.Outcomes) -> None:
        self.outcomes = outcomes

    def open(self, runtime_context: RuntimeContext) -> None:
        """Create the state of one tenant. It is written only when a minute becomes final, except `rows` and `next`."""
        self.tenant = runtime_context.get_state(ValueStateDescriptor("tenant", Types.PICKLED_BYTE_ARRAY()))
        self.rows = runtime_context.get_list_state(ListStateDescriptor("rows", Types.PICKLED_BYTE_ARRAY()))
        self.next = runtime_context.get_map_state(MapStateDescriptor("next", Types.INT(), Types.LONG()))
        self.statements = runtime_context.get_state(ValueStateDescriptor("statements", Types.PICKLED_BYTE_ARRAY()))

    def process_element1(self, value: Row, ctx: KeyedCoProcessFunction.Context) -> Iterator[str]:
        """Process a row, and yield the minutes that have become final."""
        row = value.as_dict()
        times = {name: moment(row[name]) for name in ("startDateTime", "endDateTime")}
        self.rows.add((value.partition, value.offset, value.id, kpis.call_of(row | times)))
        self.next.put(value.partition, value.offset + 1)
        yield from self._close(ctx.get_current_key())

    def process_element2(self, value: Row, ctx: KeyedCoProcessFunction.Context) -> Iterator[str]:
        """Process a statement with the chosen overlap, and yield the minutes that have become final."""
        through_ms = kpis.milliseconds(moment(value.completeThroughDateTime))
        self.statements.update([*(self.statements.value() or []), (through_ms, list(value.offsets))])
        yield from self._close(ctx.get_current_key())

    def _close(self, name: str) -> Iterator[str]:
        statements = self.statements.value() or []
        if not statements or not self._has_reached(statements[0][1]):
            return
        tenant = self.tenant.value() or kpis.TenantMinutes(name)
        for row in self.rows.get():
            tenant.add(*row)
        while statements and self._has_reached(statements[0][1]):
            for minute in tenant.close(*statements.pop(0), self.outcomes):
                yield json.dumps(minute._asdict())
        self.rows.clear()
        self.tenant.update(tenant)
        self.statements.update(statements)

    def _has_reached(self, offsets: list[int]) -> bool:
        return all((self.next.get(partition) or 0) >= offset for partition, offset in enumerate(offsets))


def moment(text: str | None) -> datetime | None:
    """Return the time that a TIMESTAMP of Flink denotes, which was cast to a string. It is in UTC."""
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def tables(options: argparse.Namespace) -> list[str]:
    """Return the SQL statements of calls.sql, with the topic, brokers and registry of the options."""
    text = (Path(__file__).parent / "calls.sql").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    for default, chosen in (
        ("direct-routing-calls", options.topic),
        ("localhost:9092", options.bootstrap_servers),
        ("http://localhost:8081", options.registry),
        (_ENDLESS, _TO_THE_END if options.to_the_end or options.as_of_now else _ENDLESS),
    ):
        lines = [line.replace(default, chosen) for line in lines]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def environment(options: argparse.Namespace) -> StreamTableEnvironment:
    """Create a Flink environment with the tables of calls.sql."""
    execution = StreamExecutionEnvironment.get_execution_environment()
    execution.set_parallelism(options.parallelism)
    execution.add_jars(*(Path(jar).resolve().as_uri() for jar in options.jars))
    execution.add_python_file(str(EXAMPLES / "kpis.py"))
    mode = EnvironmentSettings.in_batch_mode() if options.as_of_now else EnvironmentSettings.in_streaming_mode()
    environment = StreamTableEnvironment.create(execution, mode)
    for statement in tables(options):
        if statement.startswith("SET"):
            _, name, _, value, _ = statement.split("'")
            environment.get_config().set(name, value)
        else:
            environment.execute_sql(statement)
    return environment


def final_minutes(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield each minute when it becomes final."""
    tables = environment(options)
    rows = tables.to_data_stream(tables.sql_query(_ROWS))
    statements = tables.to_data_stream(tables.sql_query(_STATEMENTS.format(overlap_s=options.overlap_seconds)))
    by_tenant = rows.key_by(lambda row: row.tenantId, Types.STRING())
    with_progress = by_tenant.connect(statements.key_by(lambda row: row.tenantId, Types.STRING()))
    results = with_progress.process(FinalMinutes(kpis.read_outcomes()), output_type=Types.STRING())
    with results.execute_and_collect("final minutes") as found:
        for line in found:
            yield json.loads(line)


def calls_per_minute(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the result of calls_per_minute.sql for the current content of the topic."""
    tables = environment(options)
    query = (Path(__file__).parent / "calls_per_minute.sql").read_text(encoding="utf-8")
    result = tables.execute_sql(query.rstrip().removesuffix(";"))
    names = result.get_table_schema().get_field_names()
    with result.collect() as found:
        for row in found:
            yield dict(zip(names, row, strict=True))


def main() -> None:
    """Print the chosen result as JSON lines."""
    parser = argparse.ArgumentParser(description="Telephony figures per trunk and minute, in Flink.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--registry", default="http://localhost:8081")
    parser.add_argument("--topic", default="direct-routing-calls")
    parser.add_argument("--overlap-seconds", type=int, default=10_800, help="overlap of the sweep to wait for")
    parser.add_argument("--jars", nargs="*", default=[], help="jars of the Kafka connector and of avro-confluent")
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--to-the-end", action="store_true", help="stop where the topics end instead of waiting")
    parser.add_argument("--as-of-now", action="store_true", help="run calls_per_minute.sql instead")
    options = parser.parse_args()
    for result in calls_per_minute(options) if options.as_of_now else final_minutes(options):
        print(json.dumps(result, default=str), flush=True)


if __name__ == "__main__":
    main()
