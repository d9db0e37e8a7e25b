"""Everything about Kafka: encoding, stored state, transactions, ownership of shards.

Only this package imports confluent_kafka and fastavro.
"""
