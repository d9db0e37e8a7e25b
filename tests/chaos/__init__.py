"""Three workers and three brokers, and something that goes wrong every few seconds; then exact set equality.

`make chaos SEED=7 MINUTES=3` plays one seed; the acts are a function of the seed, so that it plays it again.
"""
