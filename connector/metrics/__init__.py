"""Metrics of a worker: what is counted, and how it is exposed to Prometheus."""
