"""Kafka Connect's own floor: the same rows, in memory already, through its framework and JSON converter. Prints JSON.

No HTTP, no Avro, no dedup; its producer is not transactional. The rows go through twice; the second time is measured,
when the JVM has compiled what is hot.
"""
