"""Benchmark of the minimum cost of the same rows: decode, encode and produce, one step after the other. Prints JSON.

1. Decode: msgspec decodes each page into typed rows.
2. Encode: fastavro encodes each row from an existing dictionary, in which timestamps are integers.
3. Produce: librdkafka produces all records with the settings of the connector, but without a transaction or callbacks,
   and waits until all are acknowledged.

The encoding of the connector, which is by column, is measured too. It is not part of the sum.
"""

import asyncio
import gc
import json
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import aiohttp
import msgspec
from confluent_kafka import Producer

from benchmarks.graph import headers, token, window_url
from benchmarks.rig import Rig, rig_from_arguments
from connector.core.pages import decode_page
from connector.core.rows import Row, RowSchema
from connector.kafka import avro
from connector.kafka.clients import Clients
from connector.schema_files import schema_text

_TIMES = 3
_PAGE = 1000


async def bodies_of(rig: Rig) -> list[bytes]:
    """Request all pages of all tenants, and return their bytes."""
    bodies: list[bytes] = []
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=rig.ca))
    ) as session:
        for tenant in rig.tenants:
            authorization = headers(await token(session, rig, tenant))
            url: str | None = window_url(rig)
            while url:
                async with session.get(url, headers=authorization) as answer:
                    bodies.append(await answer.read())
                url = json.loads(bodies[-1]).get("@odata.nextLink")
    return bodies


def records_of(rig: Rig, bodies: list[bytes], shape: RowSchema) -> list[dict[str, Any]]:
    records = []
    for body in bodies:
        page = decode_page(body)
        for row, raw in zip(shape.read(page.rows).rows, page.rows, strict=True):
            if not isinstance(row, Row):
                raise TypeError("the simulator served an invalid row")
            record, _ = shape.resolve(row, bytes(raw))
            record |= {"tenantId": rig.tenants[0], "observedDateTime": 0, "revision": 0, "additionalProperties": {}}
            records.append(record)
    return records


def typed_page(schema: dict[str, Any]) -> msgspec.json.Decoder[Any]:
    types: dict[str, Any] = {"string": str, "int": int, "boolean": bool, "long": str, "array": list[Any]}
    members = []
    for field in schema["fields"]:
        if "since" in field:
            inner = field["type"][-1] if isinstance(field["type"], list) else field["type"]
            name = inner if isinstance(inner, str) else inner["type"]
            members.append((field["name"], types[name] | None, None))
    row = msgspec.defstruct("Row", members, gc=False)
    page = msgspec.defstruct("Page", [("value", list[row])])  # type: ignore[valid-type]
    return msgspec.json.Decoder(page)


class Cost(NamedTuple):
    seconds: float
    cpu_seconds: float


def fastest(work: Callable[[], Cost | None]) -> Cost:
    """Call `work` a few times, and return the cost of the fastest call, because other load can only slow it down.

    `work` may return a cost that it has measured itself.
    """
    costs = []
    for _ in range(_TIMES):
        gc.collect()
        began, cpu_began = time.monotonic(), time.process_time()
        costs.append(work() or Cost(time.monotonic() - began, time.process_time() - cpu_began))
    return min(costs)


def _produce(rig: Rig, topic: str, keys: list[bytes], values: list[bytes]) -> Cost:
    """Produce all records, and return the cost from the first record to the last acknowledgement.

    The connection to the broker is opened before.
    """
    producer = Producer(Clients(rig.bootstrap, {}).producer(None))
    producer.list_topics(topic)
    began, cpu_began = time.monotonic(), time.process_time()
    for key, value in zip(keys, values, strict=True):
        while True:
            try:
                producer.produce(topic, value, key, timestamp=1)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    return Cost(time.monotonic() - began, time.process_time() - cpu_began)


def main(rig: Rig, topic: str) -> dict[str, Any]:
    """Return the number of rows, the seconds and processor seconds of all steps, and the processor seconds of each."""
    schema = json.loads(schema_text("directRoutingLogRow"))
    bodies = asyncio.run(bodies_of(rig))
    records = records_of(rig, bodies, RowSchema(schema, "v1.0"))
    decode = typed_page(schema).decode
    encode = avro.encoder(avro.ROW)
    encode_columns = avro.column_encoder(avro.ROW)
    pages = [records[first : first + _PAGE] for first in range(0, len(records), _PAGE)]
    columns = [[[record[field["name"]] for record in page] for field in schema["fields"]] for page in pages]
    keys, values = [record["id"].encode() for record in records], [encode(record) for record in records]
    costs = {
        "decode": fastest(lambda: _each(decode, bodies)),
        "encode": fastest(lambda: _each(encode, records)),
        "produce": fastest(lambda: _produce(rig, topic, keys, values)),
    }
    by_column = fastest(lambda: _each(encode_columns, columns))
    return {
        "rows": len(records),
        "seconds": sum(cost.seconds for cost in costs.values()),
        "cpu_seconds": sum(cost.cpu_seconds for cost in costs.values()),
        "step_cpu_seconds": {name: cost.cpu_seconds for name, cost in (costs | {"by column": by_column}).items()},
        "page_bytes": sum(map(len, bodies)),
    }


def _each(function: Callable[[Any], object], values: list[Any]) -> None:
    for value in values:
        function(value)


if __name__ == "__main__":
    print(json.dumps(main(rig_from_arguments(), sys.argv[2])))
