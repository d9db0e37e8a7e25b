"""Metrics of a worker: what is counted, and how Prometheus reads it."""
