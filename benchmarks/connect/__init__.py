"""Benchmark of Kafka Connect: the least time in which its framework and JSON converter publish the same rows.

The rows are in memory, so there is no HTTP. There is also no Avro, no deduplication and no transaction. The rows are
sent twice, and only the second time is measured, after the JVM has compiled the code. Prints JSON.
"""
