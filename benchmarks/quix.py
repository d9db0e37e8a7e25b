"""Benchmark of Quix Streams 3 with a custom source and its Avro serializer, written as its documentation suggests.

The source publishes at least once, without transactions, state or deduplication. Quix Streams needs other versions of
packages than the connector (requirements/quix.txt), so it runs in a virtual environment of its own. The source is a
separate process, which measures itself. Prints JSON.
"""

import asyncio
import json
import ssl
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
from quixstreams import Application
from quixstreams.models.serializers.avro import AvroSerializer
from quixstreams.sources import Source

from benchmarks.graph import headers, token, window_url
from benchmarks.rig import Rig, rig_from_arguments

_SCHEMA = Path(__file__).parents[1] / "schemas" / "directRoutingLogRow.avsc"  # the connector is not installed here
_EMPTY = "0001-01-01T00:00:00Z"


class GraphSource(Source):  # type: ignore[misc]
    """Source that reads the page chain of every tenant once, and then ends."""

    def __init__(self, rig: Rig, outcome: Path) -> None:
        super().__init__(name="graph")
        self._rig = tuple(rig)
        self._outcome = outcome

    def run(self) -> None:
        """Read all rows, and write the result to a file. Quix Streams calls this in the process of the source."""
        result = asyncio.run(self._read(Rig(*self._rig)))
        self._outcome.write_text(json.dumps(result), encoding="utf-8")

    async def _read(self, rig: Rig) -> dict[str, Any]:
        fields = json.loads(_SCHEMA.read_text(encoding="utf-8"))["fields"]
        instants = [field["name"] for field in fields if field["name"].endswith("DateTime")]
        rows = 0
        context = ssl.create_default_context(cafile=rig.ca)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
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
                        row |= {"tenantId": tenant, "revision": 0, "additionalProperties": {}}
                        row["observedDateTime"] = datetime.now().astimezone()
                        message = self.serialize(key=row["id"], value=row)
                        self.produce(key=message.key, value=message.value)
                    rows += len(page["value"])
                    url = page.get("@odata.nextLink")
            self.flush()
            ended, cpu_ended = time.monotonic(), time.process_time()
        return {"rows": rows, "seconds": ended - began, "cpu_seconds": cpu_ended - cpu_began}


def main(rig: Rig, topic: str) -> dict[str, Any]:
    """Publish all rows to `topic`, and return the number of rows, the seconds and the processor seconds.

    They are measured from the first request to the last acknowledgement.
    """
    with tempfile.TemporaryDirectory() as directory:
        outcome = Path(directory) / "outcome.json"
        app = Application(broker_address=rig.bootstrap, loglevel="WARNING", state_dir=directory)
        serializer = AvroSerializer(json.loads(_SCHEMA.read_text(encoding="utf-8")))
        app.add_source(GraphSource(rig, outcome), app.topic(topic, key_serializer="str", value_serializer=serializer))
        app.run()
        result: dict[str, Any] = json.loads(outcome.read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    print(json.dumps(main(rig_from_arguments(), sys.argv[2])))
