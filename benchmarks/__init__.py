"""Benchmarks. `make bench` runs them, results.json stores their results, and README.md shows these results."""
