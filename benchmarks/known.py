"""Benchmark of a sweep that finds only known rows: decode the pages, hash and classify their rows. Prints JSON.

The bytes of the pages are in memory. For comparison, it also measures how long msgspec takes to decode the same pages,
because other load slows down both measurements.
"""

import asyncio
import json
from typing import Any

import numpy as np

from benchmarks.limit import bodies_of, fastest, typed_page
from benchmarks.rig import Rig, rig_from_arguments
from connector.core import dedup
from connector.core.dedup import DedupIndex
from connector.core.pages import decode_page
from connector.core.rows import RowSchema
from connector.schema_files import schema_text


def main(rig: Rig) -> dict[str, Any]:
    """Return the number of rows, the processor seconds of the sweep, and those of decoding with msgspec."""
    schema = json.loads(schema_text("directRoutingLogRow"))
    shape, decode = RowSchema(schema, "v1.0"), typed_page(schema).decode
    bodies = asyncio.run(bodies_of(rig))
    remembered, pending = DedupIndex(), DedupIndex()
    for body in bodies:
        entries = shape.read(decode_page(body).rows).entries
        for group in dedup.split_repeats(entries):
            chosen = entries[group]
            remembered.put(chosen, np.zeros(len(chosen), np.uint32))

    def poll() -> None:
        for body in bodies:
            reading = shape.read(decode_page(body).rows)
            for group in dedup.split_repeats(reading.entries):
                result = dedup.classify(reading.entries[group], (pending, remembered), reading.fingerprints)
                if len(result.new) or len(result.revised):
                    raise RuntimeError("a row is not in the dedup index although every row should be")

    def decoded() -> None:
        for body in bodies:
            decode(body)

    return {
        "rows": len(remembered),
        "seconds": fastest(poll).cpu_seconds,
        "cpu_seconds": fastest(poll).cpu_seconds,
        "decode_cpu_seconds": fastest(decoded).cpu_seconds,
    }


if __name__ == "__main__":
    print(json.dumps(main(rig_from_arguments())))
