"""Lower bound of Kafka Connect: the same rows, already in memory, through its framework and JSON converter.

Prints JSON. No HTTP, no Avro, no deduplication; the producer is not transactional. The rows are sent twice. The second
time is measured, after the JVM has compiled the hot code.
"""
