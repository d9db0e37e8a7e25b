"""Benchmarks with several workers or many tenants: pauses when workers stop or start, and the cost of 500 tenants."""
