"""Kafka: encoding, what is stored, transactions, ownership. Alone here: confluent_kafka, fastavro."""
