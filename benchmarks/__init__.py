"""Benchmarks: `make bench` runs them, results.json stores them, README.md shows them."""
