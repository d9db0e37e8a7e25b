"""Measurements: `make bench` runs them, results.json keeps them, README.md shows them."""
