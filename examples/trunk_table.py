"""Writer of final minutes into the tables of postgresql/trunk_minutes.sql. It needs `psycopg[binary]`."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from kpis import SIP_CODES, Minute
from psycopg.types.json import Jsonb

TABLES = Path(__file__).parent / "postgresql" / "trunk_minutes.sql"

_UPSERT = """
INSERT INTO trunk_minutes (
  tenant_id, trunk, minute, attempts, answered, effective, duration_seconds, asr, ner, acd_seconds, short_calls,
  concurrent_calls, failures
) VALUES (
  %(tenant_id)s, %(trunk)s, %(minute)s, %(attempts)s, %(answered)s, %(effective)s, %(duration_seconds)s, %(asr)s,
  %(ner)s, %(acd_seconds)s, %(short_calls)s, %(concurrent_calls)s, %(failures)s
)
ON CONFLICT (tenant_id, trunk, minute) DO UPDATE SET
  attempts = excluded.attempts,
  answered = excluded.answered,
  effective = excluded.effective,
  duration_seconds = excluded.duration_seconds,
  asr = excluded.asr,
  ner = excluded.ner,
  acd_seconds = excluded.acd_seconds,
  short_calls = excluded.short_calls,
  concurrent_calls = excluded.concurrent_calls,
  failures = excluded.failures
"""


@contextmanager
def open_table(dsn: str) -> Iterator[Callable[[list[Minute]], None]]:
    """Connect, create missing tables, load sip_codes.csv, and give a function that writes minutes.

    The function writes its minutes in one transaction. A minute that is written again replaces its row.
    """
    with psycopg.connect(dsn) as connection:
        connection.execute(TABLES.read_text(encoding="utf-8"))
        _load_sip_codes(connection)
        connection.commit()

        def write(minutes: list[Minute]) -> None:
            with connection.cursor() as cursor:
                cursor.executemany(_UPSERT, [_values(minute) for minute in minutes])
            connection.commit()

        yield write


def _values(minute: Minute) -> dict[str, object]:
    return minute._asdict() | {"trunk": minute.trunk or "", "failures": Jsonb(minute.failures)}


def _load_sip_codes(connection: psycopg.Connection) -> None:
    with SIP_CODES.open(encoding="utf-8", newline="") as file:
        lines = [[value or None for value in line] for line in csv.reader(file)][1:]
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM sip_codes")
        cursor.executemany("INSERT INTO sip_codes VALUES (%s, %s, %s, %s)", lines)
