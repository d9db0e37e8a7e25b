"""Chaos runs: three workers and three brokers with a fault every few seconds, then a comparison of topics and source.

`make chaos SEED=7 MINUTES=3` plays one seed. The faults depend on the seed only, so a run can be repeated.
"""
