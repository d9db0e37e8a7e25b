"""Metrics of a worker, and their output for Prometheus."""
