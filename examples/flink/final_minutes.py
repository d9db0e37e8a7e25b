"""Numbers of calls and failures per trunk and minute, computed by Flink when no more rows are expected for a minute.

    python final_minutes.py --topic direct-routing-calls --bootstrap-servers localhost:9092 \
        --registry http://localhost:8081 --overlap-seconds 10800 --jars flink-sql-connector-kafka.jar …

The tables are those of calls.sql. Flink's watermarks follow the rows, so they cannot take rows into account that Graph
has not shown yet. The records of `{topic}.progress` (here called statements) can: a statement contains a time up to
which all calls were read again, and the offsets up to which their records lie.

The function `FinalMinutes` joins both topics per tenant. It stores each call until a statement with the chosen overlap
has a later time. It stores each statement until the rows were read up to its offsets. Flink's checkpoints contain this
state, so that it survives a restart.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyflink.common import Row, Types
from pyflink.datastream import StreamExecutionEnvironment
from pyflink.datastream.functions import KeyedCoProcessFunction, RuntimeContext
from pyflink.datastream.state import MapStateDescriptor, ValueStateDescriptor
from pyflink.table import EnvironmentSettings, StreamTableEnvironment

_ROWS = """
SELECT tenantId, `partition`, `offset`, id, revision, trunkFullyQualifiedDomainName AS trunk,
  COALESCE(successfulCall = FALSE, FALSE) AS failed,
  CAST(TIMESTAMPDIFF(MINUTE, TIMESTAMP '1970-01-01 00:00:00', startDateTime) AS BIGINT) AS `minute`
FROM calls
"""
_STATEMENTS = """
SELECT tenantId,
  CAST(TIMESTAMPDIFF(MINUTE, TIMESTAMP '1970-01-01 00:00:00', completeThroughDateTime) AS BIGINT) AS through,
  offsets
FROM progress
WHERE overlapSeconds = {overlap_s}
"""
_ENDLESS = "'scan.startup.mode' = 'earliest-offset'"
_TO_THE_END = f"{_ENDLESS}, 'scan.bounded.mode' = 'latest-offset'"
_RESULT = Types.ROW_NAMED(
    ["tenant", "minute", "trunk", "calls", "failures"],
    [Types.STRING(), Types.LONG(), Types.STRING(), Types.LONG(), Types.LONG()],
)


class FinalMinutes(KeyedCoProcessFunction):
    """Function, keyed by tenant, that counts calls per minute. The first input is rows, the second is statements.

    Minutes are counted from the epoch.
    """

    def open(self, runtime_context: RuntimeContext) -> None:
        """Create the state of one tenant."""
        self.calls = runtime_context.get_map_state(
            MapStateDescriptor("calls", Types.STRING(), Types.PICKLED_BYTE_ARRAY())
        )
        self.next = runtime_context.get_map_state(MapStateDescriptor("next", Types.INT(), Types.LONG()))
        self.statements = runtime_context.get_map_state(
            MapStateDescriptor("statements", Types.LONG(), Types.PICKLED_BYTE_ARRAY())
        )
        self.final_before = runtime_context.get_state(ValueStateDescriptor("final before", Types.LONG()))

    def process_element1(self, value: Row, ctx: KeyedCoProcessFunction.Context) -> Iterator[Row]:
        """Process a row, and yield the minutes that have become final. Ignore a row whose minute is already final."""
        known = self.calls.get(value.id)
        late = value.minute is not None and value.minute < (self.final_before.value() or 0)
        if late:
            self.calls.remove(value.id)
        elif known is None or value.revision >= known[0]:
            self.calls.put(value.id, (value.revision, value.minute, value.trunk, value.failed))
        self.next.put(value.partition, max(value.offset + 1, self.next.get(value.partition) or 0))
        yield from self._close(ctx.get_current_key())

    def process_element2(self, value: Row, ctx: KeyedCoProcessFunction.Context) -> Iterator[Row]:
        """Process a statement with the chosen overlap, and yield the minutes that have become final."""
        self.statements.put(value.through, list(value.offsets))
        yield from self._close(ctx.get_current_key())

    def _close(self, tenant: str) -> Iterator[Row]:
        before = self.final_before.value() or 0
        seen = [through for through, offsets in self.statements.items() if self._has_seen(offsets)]
        for through in seen:
            self.statements.remove(through)
        through = max(seen, default=before)
        if through <= before:
            return
        self.final_before.update(through)
        sums: dict[tuple[int, str], list[int]] = {}
        for call, (_, minute, trunk, failed) in list(self.calls.items()):
            if minute is not None and minute < through:
                total = sums.setdefault((minute, trunk), [0, 0])
                total[0] += 1
                total[1] += failed
                self.calls.remove(call)
        for (minute, trunk), (calls, failures) in sums.items():
            yield Row(tenant, minute, trunk, calls, failures)

    def _has_seen(self, offsets: list[int]) -> bool:
        return all((self.next.get(partition) or 0) >= offset for partition, offset in enumerate(offsets))


def tables(options: argparse.Namespace) -> list[str]:
    """Return the SQL statements of calls.sql, with the topic, brokers and registry of the options."""
    text = (Path(__file__).parent / "calls.sql").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    for default, chosen in (
        ("direct-routing-calls", options.topic),
        ("localhost:9092", options.bootstrap_servers),
        ("http://localhost:8081", options.registry),
        ("read_committed", options.isolation_level),
        (_ENDLESS, _TO_THE_END if options.to_the_end or options.as_of_now else _ENDLESS),
    ):
        lines = [line.replace(default, chosen) for line in lines]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def environment(options: argparse.Namespace) -> StreamTableEnvironment:
    """Create a Flink environment with the tables of calls.sql."""
    execution = StreamExecutionEnvironment.get_execution_environment()
    execution.set_parallelism(options.parallelism)
    execution.add_jars(*(Path(jar).resolve().as_uri() for jar in options.jars))
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
    results = with_progress.process(FinalMinutes(), output_type=_RESULT)
    with results.execute_and_collect("final minutes") as found:
        for row in found:
            yield row.as_dict()


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
    parser = argparse.ArgumentParser(description="Calls and failures per trunk and minute, in Flink.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--registry", default="http://localhost:8081")
    parser.add_argument("--topic", default="direct-routing-calls")
    parser.add_argument("--overlap-seconds", type=int, default=10_800, help="overlap of the sweep to wait for")
    parser.add_argument("--jars", nargs="*", default=[], help="jars of the Kafka connector and of avro-confluent")
    parser.add_argument("--parallelism", type=int, default=1)
    parser.add_argument("--isolation-level", default="read_committed", help="anything else counts aborted rows too")
    parser.add_argument("--to-the-end", action="store_true", help="stop where the topics end instead of waiting")
    parser.add_argument("--as-of-now", action="store_true", help="run calls_per_minute.sql instead")
    options = parser.parse_args()
    for result in calls_per_minute(options) if options.as_of_now else final_minutes(options):
        print(json.dumps(result, default=str), flush=True)


if __name__ == "__main__":
    main()
