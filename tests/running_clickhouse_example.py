"""Run the SQL of `examples/clickhouse` in chdb, an embedded ClickHouse, and print the rows of the view as JSON.

Runs in the environment of `requirements/sinks.txt`. The arguments are the URL of the registry, and files with values of
the topic, which are inserted one after the other. Printed is first the number of lines of the table.

chdb cannot run the Kafka consumer. The table `calls_queue` therefore gets another engine, and the values are inserted
there in the format in which the consumer would read them.
"""

import re
import sys
from pathlib import Path

from chdb.session import Session  # type: ignore[import-not-found]

SQL = Path(__file__).parent.parent / "examples" / "clickhouse" / "calls.sql"


def main(registry: str, *files: str) -> None:
    """Run the statements, insert the files and print the result."""
    session = Session()
    text = "\n".join(line for line in SQL.read_text(encoding="utf-8").splitlines() if not line.startswith("--"))
    for statement in filter(str.strip, text.split(";")):
        session.query(re.sub(r"ENGINE = Kafka.*", "ENGINE = Null", statement, flags=re.DOTALL))
    session.query("SYSTEM STOP MERGES calls")  # so that nothing but FINAL leaves out older versions
    session.query(f"SET format_avro_schema_registry_url = '{registry}', date_time_output_format = 'unix_timestamp'")
    for file in files:
        session.query(f"INSERT INTO calls_queue SELECT * FROM file('{file}', 'AvroConfluent')")  # noqa: S608
    for query in "SELECT count() FROM calls", "SELECT * FROM newest_calls":
        sys.stdout.write(str(session.query(query, "JSONEachRow")).strip() + "\n")


main(*sys.argv[1:])
