"""Everything that concerns Kafka: record formats, stored state, transactions, and the ownership of shards.

Only this package imports confluent_kafka and fastavro.
"""
