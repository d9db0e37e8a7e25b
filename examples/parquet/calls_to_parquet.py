"""Writer of Parquet files with all records of the topic, and of one file with the newest version of each row.

    python calls_to_parquet.py --bootstrap-servers localhost:9092 --registry http://localhost:8081 --folder calls
    python calls_to_parquet.py --folder calls --newest newest.parquet

It needs `confluent-kafka[avro,schemaregistry]`, `pyarrow`, and a connector with `schema_registry.url`.

The first command reads the topic until it is stopped. The name of each file is `PARTITION-FIRST-LAST.parquet`, with the
offsets of its first and last record. A file gets this name when it is complete. The program continues behind the last
files, so that a crash neither loses records nor doubles them. Run one program per folder.

The second command reads all files into memory. For large archives, let a query engine choose the newest version:

    SELECT * FROM 'calls/*.parquet' QUALIFY ROW_NUMBER() OVER (PARTITION BY tenantId, id ORDER BY revision DESC) = 1
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

_BATCH = 50_000
"Largest number of records per file."
_SIMPLE = {"string": pa.string(), "int": pa.int32(), "long": pa.int64(), "boolean": pa.bool_()}


def arrow_type(avro: Any) -> pa.DataType:
    """Return the Arrow type of an Avro type that occurs in the schema of the rows."""
    if isinstance(avro, list):
        return arrow_type(next(kind for kind in avro if kind != "null"))
    if isinstance(avro, str):
        return _SIMPLE[avro]
    if avro.get("logicalType") == "timestamp-millis":
        return pa.timestamp("ms", tz="UTC")
    if avro["type"] == "map":
        return pa.map_(pa.string(), arrow_type(avro["values"]))
    if avro["type"] == "array":
        return pa.list_(arrow_type(avro["items"]))
    if avro["type"] == "record":
        return pa.struct([(field["name"], arrow_type(field["type"])) for field in avro["fields"]])
    return arrow_type(avro["type"])


def next_offsets(folder: Path) -> dict[int, int]:
    """Return the offset behind the last file of each partition."""
    found: dict[int, int] = {}
    for file in folder.glob("*.parquet"):
        partition, _, last = map(int, file.stem.split("-"))
        found[partition] = max(found.get(partition, 0), last + 1)
    return found


def write(table: pa.Table, file: Path) -> None:
    """Write a file so that it has its name only when it is complete."""
    scratch = file.with_suffix(".incomplete")
    pq.write_table(table, scratch, compression="zstd")
    scratch.replace(file)


def append(
    consumer: Consumer, registry: SchemaRegistryClient, topic: str, folder: Path, seconds: float, *, to_the_end: bool
) -> None:
    """Write the records behind the last files, with `to_the_end` only up to the current end of the topic."""
    deserialize = AvroDeserializer(registry)
    unread = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    starts = next_offsets(folder)
    consumer.assign([TopicPartition(topic, number, starts.get(number, 0)) for number in unread])
    while unread or not to_the_end:
        rows: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        for message in consumer.consume(_BATCH, 1.0 if to_the_end else seconds):
            error = message.error()
            if error is None:
                row = deserialize(message.value(), SerializationContext(topic, MessageField.VALUE))
                rows[message.partition()][message.offset()] = row
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                unread.discard(message.partition())
            else:
                print(f"reading {topic}: {error.str()}", file=sys.stderr)
        if rows:
            schema = arrow_schema(registry, topic)
            for partition, by_offset in rows.items():
                table = pa.Table.from_pylist(list(by_offset.values()), schema=schema)
                write(table, folder / f"{partition}-{min(by_offset)}-{max(by_offset)}.parquet")


def arrow_schema(registry: SchemaRegistryClient, topic: str) -> pa.Schema:
    """Return the newest schema of the topic's values."""
    avro = json.loads(registry.get_latest_version(f"{topic}-value").schema.schema_str)
    return pa.schema([(field["name"], arrow_type(field["type"])) for field in avro["fields"]])


def newest(folder: Path) -> pa.Table:
    """Return the record with the highest revision of each tenantId and id. Records may occur in several files."""
    files = [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]
    records = pa.concat_tables(files, promote_options="default").sort_by([("revision", "descending")])
    positions = records.select(["tenantId", "id"]).append_column("position", pa.array(range(len(records))))
    first = positions.group_by(["tenantId", "id"]).aggregate([("position", "min")])
    return records.take(first["position_min"])


def main() -> None:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description="Write the rows to Parquet files.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--registry", default="http://localhost:8081", help="URL of the schema registry")
    parser.add_argument("--topic", default="direct-routing-calls")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the files with all records")
    parser.add_argument("--seconds", type=float, default=60, help="longest time until records are in a file")
    parser.add_argument("--to-the-end", action="store_true", help="stop where the topic ends instead of waiting")
    parser.add_argument("--newest", type=Path, help="file for the newest versions; does not read the topic")
    options = parser.parse_args()
    if options.newest:
        write(newest(options.folder), options.newest)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "bootstrap.servers": options.bootstrap_servers,
        "group.id": "calls-to-parquet",  # required by librdkafka; no offsets are committed
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",  # otherwise rows of aborted transactions would be written
        "enable.partition.eof": True,
    }
    with Consumer(settings) as consumer, SchemaRegistryClient({"url": options.registry}) as registry:
        append(consumer, registry, options.topic, options.folder, options.seconds, to_the_end=options.to_the_end)


if __name__ == "__main__":
    main()
