"""Print each row of the topic. For values without a schema registry, that is, if `schema_registry.url` is not set.

    python examples/print_rows.py [BROKERS [TOPIC]]

Needs the packages `confluent-kafka` and `fastavro`. Runs until Ctrl-C.
"""

import io
import json
import sys
from contextlib import suppress
from pathlib import Path

import fastavro
from confluent_kafka import Consumer
from fastavro.schema import fingerprint, to_parsing_canonical_form

SCHEMA = Path(__file__).parent.parent / "schemas" / "directRoutingLogRow.avsc"


def main(brokers: str = "localhost:9092", topic: str = "direct-routing-calls") -> None:
    """Print the rows that are on the topic, then each new one."""
    avsc = json.loads(SCHEMA.read_text(encoding="utf-8"))
    schema = fastavro.parse_schema(avsc)
    # Avro's single-object encoding: two fixed bytes and the fingerprint of the schema, then the body.
    header = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(avsc), "CRC-64-AVRO"))
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "my-reader",
            # Without this setting, rows of aborted transactions are returned as well.
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([topic])
    while True:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        value = message.value() or b""
        if value[:10] != header:
            sys.exit("The value was written with another version of the schema, or with a schema registry.")
        row = fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)
        print(row["tenantId"], row["id"], row["revision"], row["finalSipCodePhrase"], flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
