"""Benchmark of record headers: what the headers `tenant` and `revision` would cost per record of the row topic.

`python -m benchmarks.headers` computes how many bytes they add to a record (Kafka's record format version 2). It also
measures the CPU time of the producer with and without them, alternately, on librdkafka's mock cluster. Only ratios
within one run are meaningful.
"""

import json
import random
import statistics
import time
from typing import Any

from confluent_kafka import Producer

_ROWS, _ROUNDS = 20_000, 9
_TENANT = b"11111111-1111-1111-1111-111111111111"
_HEADERS = [("tenant", _TENANT), ("revision", b"0")]
_KEY_BYTES, _VALUE_BYTES = 36, 300
"Length of an id, and about the length of a row in Avro."


def header_bytes(headers: list[tuple[str, bytes]]) -> int:
    """Return how many bytes headers add to a record. The length of each name and value must be less than 64."""
    return sum(2 + len(name) + len(value) for name, value in headers)


def cpu_s(values: list[bytes], key: bytes, headers: Any) -> float:
    """Produce the values, wait until they are sent, and return the CPU seconds of this process (all threads)."""
    producer = Producer({"test.mock.num.brokers": 1, "queue.buffering.max.messages": 2 * _ROWS})
    producer.list_topics(timeout=10)
    begin = time.process_time()
    for value in values:
        producer.produce("rows", value, key, headers=headers)
    producer.flush(60)
    return time.process_time() - begin


def main() -> None:
    """Measure, and print the result as JSON."""
    generator = random.Random(1)  # noqa: S311
    values = [generator.randbytes(_VALUE_BYTES) for _ in range(_ROWS)]
    key = b"k" * _KEY_BYTES
    pairs = [(cpu_s(values, key, None), cpu_s(values, key, list(_HEADERS))) for _ in range(_ROUNDS)]
    plain = statistics.median(without for without, _ in pairs) / _ROWS
    result = {
        "header_bytes_per_record": header_bytes(_HEADERS),
        "bytes_ratio": round(1 + header_bytes(_HEADERS) / (_KEY_BYTES + _VALUE_BYTES), 3),
        "produce_cpu_ratio": round(statistics.median(with_ / without for without, with_ in pairs), 3),
        "produce_cpu_ratios": [round(with_ / without, 2) for without, with_ in pairs],
        "produce_us_per_record_without": round(plain * 1e6, 2),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
