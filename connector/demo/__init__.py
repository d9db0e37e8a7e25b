"""Demonstration of the whole system in one process: simulator, broker, service and consumer, with invented calls."""
