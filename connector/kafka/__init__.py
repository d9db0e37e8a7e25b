"""Kafka: encoding, what is stored, transactions, ownership. The only place that imports confluent_kafka and fastavro."""
