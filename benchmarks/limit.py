"""What the same rows cost at least: decoded, encoded and produced, each alone and one after the other. Prints JSON.

Decode: msgspec, page by page, straight into typed rows. Encode: fastavro's schemaless_writer behind the ten bytes of
single-object encoding, from dictionaries that are there already, instants as integers. Produce: keys and timestamps,
no callback, until all is acknowledged, with the connector's own settings but no transaction.
"""

import asyncio
import gc
import io
import json
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import fastavro
import msgspec
from confluent_kafka import Producer

from benchmarks.graph import headers, token, window_url
from benchmarks.rig import Rig, told
from connector.core.rows import Row, Shape, decode_page
from connector.kafka.avro import single_object_header
from connector.kafka.clients import Clients
from connector.schemata import schema_text

_TIMES = 3


async def _bodies(rig: Rig) -> list[bytes]:
    bodies = []
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=rig.ca))
    ) as session:
        authorization = headers(await token(session, rig))
        url: str | None = window_url(rig)
        while url:
            async with session.get(url, headers=authorization) as answer:
                bodies.append(await answer.read())
            url = json.loads(bodies[-1]).get("@odata.nextLink")
    return bodies


def _records(rig: Rig, bodies: list[bytes], shape: Shape) -> list[dict[str, Any]]:
    records = []
    for body in bodies:
        page = decode_page(body)
        for row, raw in zip(shape.read(page.rows).rows, page.rows, strict=True):
            if not isinstance(row, Row):
                raise TypeError("the simulator was to serve rows that fit")
            record, _ = shape.resolve(row, bytes(raw))
            record |= {"tenantId": rig.tenant, "observedDateTime": 0, "revision": 0, "additionalProperties": {}}
            records.append(record)
    return records


def _typed_page(schema: dict[str, Any]) -> msgspec.json.Decoder[Any]:
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


def _fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few times: what disturbs can only make it slower."""
    seconds = []
    for _ in range(_TIMES):
        gc.collect()
        began = time.monotonic()
        work()
        seconds.append(time.monotonic() - began)
    return min(seconds)


def _produce(rig: Rig, topic: str, keys: list[bytes], values: list[bytes]) -> None:
    settings = Clients(rig.bootstrap, {}).producer("")
    del settings["transactional.id"]
    producer = Producer(settings)
    producer.list_topics(topic)
    produce = producer.produce
    began = time.monotonic()
    for key, value in zip(keys, values, strict=True):
        while True:
            try:
                produce(topic, value=value, key=key, timestamp=1)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()
    _produce_seconds.append(time.monotonic() - began)


_produce_seconds: list[float] = []


def main(rig: Rig, topic: str) -> dict[str, Any]:
    """Rows, and seconds of each step and of all."""
    schema = json.loads(schema_text("directRoutingLogRow"))
    bodies = asyncio.run(_bodies(rig))
    records = _records(rig, bodies, Shape(schema, "v1.0"))
    decode = _typed_page(schema).decode
    decode_s = _fastest(lambda: [decode(body) for body in bodies])
    parsed, header, write = fastavro.parse_schema(schema), single_object_header(schema), fastavro.schemaless_writer
    buffer = io.BytesIO()

    def encode(record: dict[str, Any]) -> bytes:
        buffer.seek(0)
        buffer.truncate()
        buffer.write(header)
        write(buffer, parsed, record)
        return buffer.getvalue()

    encode_s = _fastest(lambda: [encode(record) for record in records])
    keys, values = [record["id"].encode() for record in records], [encode(record) for record in records]
    for _ in range(_TIMES):
        _produce(rig, topic, keys, values)
    produce_s = min(_produce_seconds)
    return {
        "rows": len(records),
        "seconds": decode_s + encode_s + produce_s,
        "decode_seconds": decode_s,
        "encode_seconds": encode_s,
        "produce_seconds": produce_s,
        "page_bytes": sum(map(len, bodies)),
    }


if __name__ == "__main__":
    print(json.dumps(main(told(), sys.argv[2])))
