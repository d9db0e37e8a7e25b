"""Benchmark of a plain program with aiohttp, json, Confluent's AvroSerializer and a producer. Prints JSON.

The program has no state and no dedup index. It reads one page chain per tenant, and publishes every row without a
transaction. The serializer registers its schema in Confluent's mock registry, in memory.
"""

import asyncio
import json
import ssl
import sys
import time
from datetime import datetime
from typing import Any

import aiohttp
from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from benchmarks.graph import headers, token, window_url
from benchmarks.rig import Rig, rig_from_arguments
from connector.schema_files import schema_text

_EMPTY = "0001-01-01T00:00:00Z"


async def main(rig: Rig, topic: str) -> dict[str, Any]:
    """Publish all rows to `topic`, and return the number of rows, the seconds and the processor seconds.

    They are measured from the first request to the last acknowledgement.
    """
    schema = json.loads(schema_text("directRoutingLogRow"))
    instants = [field["name"] for field in schema["fields"] if field["name"].endswith("DateTime")]
    registry = SchemaRegistryClient.new_client({"url": "mock://"})
    serialize = AvroSerializer(registry, json.dumps(schema))
    context = SerializationContext(topic, MessageField.VALUE)
    producer = Producer({"bootstrap.servers": rig.bootstrap})
    rows = 0
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=rig.ca))
    ) as session:
        tokens = [(tenant, headers(await token(session, rig, tenant))) for tenant in rig.tenants]
        began, cpu_began = time.monotonic(), time.process_time()
        for tenant, authorization in tokens:
            url: str | None = window_url(rig)
            while url:
                async with session.get(url, headers=authorization) as answer:
                    page = json.loads(await answer.read())
                for row in page["value"]:
                    for name in instants:
                        text = row.get(name)
                        row[name] = None if text is None or text == _EMPTY else datetime.fromisoformat(text)
                    row["tenantId"] = tenant
                    row["observedDateTime"] = datetime.now().astimezone()
                    row["revision"] = 0
                    row["additionalProperties"] = {}
                    value = serialize(row, context)
                    while True:
                        try:
                            producer.produce(topic, key=row["id"], value=value)
                            break
                        except BufferError:
                            producer.poll(0.1)
                producer.poll(0)
                rows += len(page["value"])
                url = page.get("@odata.nextLink")
        producer.flush()
        ended, cpu_ended = time.monotonic(), time.process_time()
    return {"rows": rows, "seconds": ended - began, "cpu_seconds": cpu_ended - cpu_began}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(rig_from_arguments(), sys.argv[2]))))
